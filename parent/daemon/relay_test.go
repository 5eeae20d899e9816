package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/relay"
)

// askRelay asks for the memory or a descriptor of a task and says what came.
func askRelay(q []string) (string, error) {
	client := relay.NewClient(q[0])
	defer client.Close()
	task, err := strconv.Atoi(q[2])
	if err != nil {
		return "", err
	}
	var fd int
	if q[1] == "memory" {
		fd, err = client.Memory(task)
	} else {
		fd, err = client.Descriptor(task, 0)
	}
	switch {
	case errors.Is(err, relay.ErrAway):
		return "not heard", nil
	case err != nil:
		return "refused: " + err.Error(), nil
	}
	defer unix.Close(fd)
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return "", err
	}
	what, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, mode %d", what, flags&unix.O_ACCMODE), nil
}

// TestTheRelayIsForWardens: a warden is shown its own agent's processes and nobody else's; nobody else is shown any.
func TestTheRelayIsForWardens(t *testing.T) {
	p, elsewhere := newPair(t).start(), newPair(t).start()
	w := p.run(plain, `"$ASK" `+p.paths.Relay+` memory $$; (exec sleep 1000) & echo child $!; exec sleep 1000`)
	other := p.run(plain, "exec sleep 1000")
	far := elsewhere.run(plain, "exec sleep 1000")
	child := strings.TrimPrefix(w.printed("child "), "child ")
	runner := strconv.Itoa(w.runner)
	memory := func(pid string) string { return "/proc/" + pid + "/mem, mode 0" }
	for _, c := range []struct {
		name, question, task, want string
	}{
		{"its agent", "memory", runner, memory(runner)},
		{"a child of its agent", "memory", child, memory(child)},
		{"another agent", "memory", strconv.Itoa(other.runner), "refused: operation not permitted"},
		{"another raypherd's agent", "memory", strconv.Itoa(far.runner), "refused: operation not permitted"},
		{"itself", "memory", strconv.Itoa(w.cmd.Process.Pid), "refused: operation not permitted"},
		{"another warden", "memory", strconv.Itoa(other.cmd.Process.Pid), "refused: operation not permitted"},
		{"raypherd", "memory", strconv.Itoa(p.daemon.Process.Pid), "refused: operation not permitted"},
		{"the first process", "memory", "1", "refused: operation not permitted"},
		{"nobody", "memory", "2147483647", "refused: no such process"},
		{"no process", "memory", "0", "not heard"},
		{"a descriptor of its agent", "descriptor", runner, "pipe:["},
		{"a descriptor of another agent", "descriptor", strconv.Itoa(other.runner), "refused: operation not permitted"},
		{"a descriptor of raypherd", "descriptor", strconv.Itoa(p.daemon.Process.Pid), "refused: operation not permitted"},
	} {
		if got := w.asked(p.paths.Relay, c.question, c.task); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := w.printed("not heard", "/mem", "refused"); got != "not heard" {
		t.Errorf("the agent itself: %s", got)
	}
	if got := far.asked(p.paths.Relay, "memory", runner); got != "not heard" {
		t.Errorf("the warden of another raypherd's agent: %s", got)
	}
	if got, err := askRelay([]string{p.paths.Relay, "memory", runner}); got != "not heard" {
		t.Errorf("root outside: %s, %v", got, err)
	}

	p.end(syscall.SIGKILL)
	if got := w.asked(p.paths.Relay, "memory", runner); got != "not heard" {
		t.Errorf("while raypherd is away: %s", got)
	}
	p.start()
	if got := w.asked(p.paths.Relay, "memory", runner); got != memory(runner) {
		t.Errorf("when raypherd is back: %s", got)
	}
}

// TestTheRelayShowsNoPrivileges: who is let run agents plays its own warden, and has an agent that takes no floor execute a program
// of root. What that holds stays its own.
func TestTheRelayShowsNoPrivileges(t *testing.T) {
	const group, member, uid = "nogroup", 65534, 65533
	p := newPair(t, "--group", group).start()
	program := filepath.Join(p.dir, "sleep")
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(program, sleep, 0o755), os.Chmod(program, 0o755|os.ModeSetuid)); err != nil {
		t.Fatal(err)
	}
	as := func(o *order, cmd *exec.Cmd) {
		o.Launch.Home, o.Gains = "/nonexistent", true
		cmd.SysProcAttr = credential(uid, member)
	}
	for _, tt := range []struct{ name, script, uids string }{
		{"what may gain rights", "exec sleep 1000", "65533\t65533\t65533\t65533"},
		{"a program of root", "exec " + program + " 1000", "65533\t0\t0\t0"},
	} {
		w := p.run(plain, tt.script, as)
		runner := strconv.Itoa(w.runner)
		p.eventually(tt.name+" runs", func() bool {
			name, err := os.ReadFile("/proc/" + runner + "/comm")
			status, failed := os.ReadFile("/proc/" + runner + "/status")
			return errors.Join(err, failed) == nil && string(name) == "sleep\n" && strings.Contains(string(status), "\nUid:\t"+tt.uids+"\n")
		})
		for _, question := range []string{"memory", "descriptor"} {
			if got := w.asked(p.paths.Relay, question, runner); got != "refused: operation not permitted" {
				t.Errorf("the %s of %s: %s", question, tt.name, got)
			}
		}
	}
}
