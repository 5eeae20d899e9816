package e2e

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAgentsByName: an agent goes by its name and by the beginning of its id, wherever one is asked for.
func TestAgentsByName(t *testing.T) {
	m := newMachine(t)
	r := m.reside(ordinary)
	r.do("cat ~/.ssh/id_rsa")
	list := m.raypher("agents", "list").stdout
	fields := strings.Fields(list[strings.Index(list, "\n"):])
	if len(fields) < 2 || fields[1] != "resident" {
		t.Fatalf("the list has no name:\n%s", list)
	}
	id := fields[0]
	if got := m.raypher("agents", "list", "--json").stdout; !strings.Contains(got, `"resident"`) {
		t.Errorf("as JSON:\n%s", got)
	}
	for _, word := range []string{"resident", id, id[:5]} {
		for _, command := range [][]string{{"events"}, {"evidence", "list"}, {"evidence", "list", "--state-dir", m.pair.State}} {
			got := m.raypher(append(command, "--agent", word)...)
			if got.code != 0 || !strings.Contains(got.stdout, "id_rsa") {
				t.Errorf("%v --agent %s: status %d\n%s%s", command, word, got.code, got.stdout, got.stderr)
			}
		}
	}
	for _, command := range [][]string{{"events", "--agent", "nobody"}, {"agents", "stop", "nobody"}} {
		if got := m.raypher(command...); got.code != 1 || !strings.Contains(got.stderr, id+" (resident)") {
			t.Errorf("%v: status %d\n%s", command, got.code, got.stderr)
		}
	}
	if got := m.raypher("agents", "stop", "resident"); got.code != 0 || !r.ends(limit/2) {
		t.Errorf("stopped by its name: status %d\n%s", got.code, got.stderr)
	}
	if got := m.raypher("events", "--agent", "resident"); !strings.Contains(got.stdout, "id_rsa") {
		t.Errorf("the events of one that ended:\n%s%s", got.stdout, got.stderr)
	}
}

// TestNobodyAnswers: a raypherd that ended leaves no socket; where one was left, nothing is run without it.
func TestNobodyAnswers(t *testing.T) {
	m := newMachine(t)
	socket := filepath.Join(m.pair.Run, "raypherd.sock")
	m.pair.KillParent()
	if got := m.raypher("status"); got.code != 1 || !strings.Contains(got.stderr, "nobody serves "+socket) {
		t.Errorf("after a crash: status %d\n%s", got.code, got.stderr)
	}
	if err := m.pair.RestartParent(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.pair.Close()
	for _, name := range []string{"raypherd.sock", "agent.sock"} {
		if _, err := os.Lstat(filepath.Join(m.pair.Run, name)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	got := m.run(ordinary, "/bin/echo", "works")
	if got.code != 125 || got.stdout != "" || !strings.Contains(got.stderr, "RAYPHER_RUN_DIR") {
		t.Errorf("status %d, stdout %q\n%s", got.code, got.stdout, got.stderr)
	}
}

// TestNoise: what honest programs try is no violation, and what repeats is said once and then counted.
func TestNoise(t *testing.T) {
	have(t, "perl") // its call 425 is io_uring_setup, on every architecture
	m := newMachine(t)
	program := []string{"/usr/bin/perl", "-e", `syscall(425, 1, 0); print $!+0, "\n"; for (1..12) { open(F, "<", "$ENV{HOME}/.ssh/id_rsa"); select(undef, undef, undef, 0.2) }`}
	got := m.run("on_violation: block\n"+strings.TrimSpace(ordinary), program...)
	if got.stdout != "38\n" || strings.Contains(got.stderr, "io_uring") {
		t.Errorf("stdout %q\n%s", got.stdout, got.stderr)
	}
	if n := strings.Count(got.stderr, ".ssh/id_rsa (no rule"); n != 2 || !strings.Contains(got.stderr, "12 times so far") {
		t.Errorf("said %d times:\n%s", n, got.stderr)
	}
	time.Sleep(time.Second) // what was folded is on its way into the journal
	list := m.raypher("evidence", "list", "--state-dir", m.pair.State).stdout
	if !strings.Contains(list, "io_uring_setup") || strings.Count(list, "id_rsa") < 2 {
		t.Errorf("the journal:\n%s", list)
	}
	if got := m.run("on_violation: kill\n"+strings.TrimSpace(ordinary), "/usr/bin/perl", "-e", `syscall(425, 1, 0); print "lives"`); got.stdout != "lives" {
		t.Errorf("on_violation kill: status %d, stdout %q\n%s", got.code, got.stdout, got.stderr)
	}
	if got := m.run("syscalls: {io_uring_setup: deny}\n"+strings.TrimSpace(ordinary), program[:3]...); !strings.HasPrefix(got.stdout, "1\n") || !strings.Contains(got.stderr, "blocked syscall io_uring_setup") {
		t.Errorf("denied by name: stdout %q\n%s", got.stdout, got.stderr)
	}
}
