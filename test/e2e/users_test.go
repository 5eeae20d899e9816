package e2e

import (
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The ids of the test's plain users. They need no entry in the user database.
const (
	memberID   = 64101
	strangerID = 64102
)

// groupName is a group that every system has and nobody here is in.
const groupName = "games"

// TestPlainUser: a user in raypherd's group runs agents as itself; another user cannot.
func TestPlainUser(t *testing.T) {
	m := newMachine(t, "--group", groupName)
	group, err := user.LookupGroup(groupName)
	if err != nil {
		t.Skipf("the system has no group %s: %v", groupName, err)
	}
	groupID, err := strconv.Atoi(group.Gid)
	if err != nil {
		t.Fatal(err)
	}
	// Every file permission is given, so that what refuses is the guard.
	for _, folder := range []string{m.home.Root, m.home.Dir, m.home.Work, m.home.Path("documents"), m.home.Path("documents", "tax.txt")} {
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	policy := m.policy(ordinary)
	as := func(uid uint32, groups []uint32, command ...string) outcome {
		t.Helper()
		cmd := m.command(t.Context(), append([]string{"run", "--policy", policy, "--"}, command...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: groups}}
		return m.wait(cmd)
	}
	member := as(memberID, []uint32{uint32(groupID)}, "/bin/sh", "-c", "id -u; cat ~/documents/tax.txt")
	if !strings.HasPrefix(member.stdout, "64101\n") || member.code != 1 {
		t.Errorf("a member of the group: status %d, stdout %q\n%s", member.code, member.stdout, member.stderr)
	}
	stranger := as(strangerID, nil, "/bin/sh", "-c", "echo started")
	if stranger.code != 125 || strings.Contains(stranger.stdout, "started") {
		t.Errorf("a stranger: status %d, stdout %q\n%s", stranger.code, stranger.stdout, stranger.stderr)
	}
}
