package daemon

import (
	"errors"
	"fmt"
	"os"
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
