package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/test/isolated"
)

// terminal is a tmux session with one window: a real terminal whose screen can be read.
type terminal struct {
	t      *testing.T
	m      *machine
	socket string
}

// newTerminal opens a terminal with an ordinary, ungoverned shell in the home's work folder.
func (m *machine) newTerminal(t *testing.T) *terminal {
	t.Helper()
	have(t, "tmux")
	term := &terminal{t: t, m: m, socket: filepath.Join(m.home.Root, "tmux.sock")}
	term.tmux("-f", "/dev/null", "new-session", "-d", "-x", "160", "-y", "50", "env", "PS1=outer> ", "bash", "--norc", "--noprofile", "-i")
	t.Cleanup(func() { term.tmux("kill-server") })
	term.see("outer>")
	return term
}

func (term *terminal) tmux(arguments ...string) string {
	term.t.Helper()
	// Not the test's own context: the session is ended when that is done already.
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "tmux", append([]string{"-S", term.socket}, arguments...)...)
	cmd.Dir = term.m.home.Work
	cmd.Env = append(term.m.environment(), "LC_ALL=C.UTF-8", "HISTFILE=/dev/null")
	out, err := cmd.CombinedOutput()
	if err != nil {
		term.t.Fatalf("tmux %v: %v\n%s", arguments, err, out)
	}
	return string(out)
}

// enter types a line.
func (term *terminal) enter(line string) { term.tmux("send-keys", line, "Enter") }

// press presses a key, as C-c.
func (term *terminal) press(key string) { term.tmux("send-keys", key) }

// see waits until the screen shows text below the last line that is cleared away with it.
func (term *terminal) see(text string) {
	term.t.Helper()
	var screen string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if screen = term.tmux("capture-pane", "-p", "-J"); strings.Contains(screen, text) {
			return
		}
	}
	term.t.Fatalf("the screen never showed %q:\n%s", text, strings.TrimSpace(screen))
}

// clear empties the screen, so that see waits for what comes now.
func (term *terminal) clear() {
	term.press("C-l")
	time.Sleep(200 * time.Millisecond)
	term.tmux("clear-history")
}

// govern starts a program under raypher run with the interactive example policy, in the terminal.
func (term *terminal) govern(program string) {
	term.t.Helper()
	policy, err := filepath.Abs("../../examples/policies/interactive.yaml")
	if err != nil {
		term.t.Fatal(err)
	}
	term.enter(filepath.Join(programs, "raypher") + " run --quiet --policy " + policy + " -- " + program)
}

// TestBashInteractive: job control, ctrl-C, ctrl-Z, pipes and exit status in a governed shell are as without the guard.
func TestBashInteractive(t *testing.T) {
	m := newMachine(t)
	term := m.newTerminal(t)
	term.govern("bash --norc --noprofile -i")
	time.Sleep(500 * time.Millisecond)
	term.enter("PS1='inner> '; echo under $((40+2))")
	term.see("under 42")

	term.clear()
	term.enter("sleep 100; echo after-$?")
	time.Sleep(500 * time.Millisecond)
	term.press("C-c")
	term.enter("echo interrupted-$?")
	term.see("interrupted-130")

	term.clear()
	term.enter("sleep 100")
	time.Sleep(500 * time.Millisecond)
	term.press("C-z")
	term.see("Stopped")
	term.enter("kill %1")
	time.Sleep(300 * time.Millisecond)
	// On a busy machine bash misses the end of a job that it has just stopped and ended, without a guard too (5.2), until another
	// child of it ends.
	term.enter("/usr/bin/true; jobs")
	term.see("Terminated")

	term.clear()
	term.enter("sleep 100 & fg")
	time.Sleep(500 * time.Millisecond)
	term.press("C-c")
	term.enter("echo foreground-$?")
	term.see("foreground-130")

	term.clear()
	term.enter("echo one two three | tr ' ' '\\n' | wc -l; cat ~/.ssh/id_rsa; echo refused-$?")
	term.see("refused-1")
	term.see("3")

	term.clear()
	term.enter("exit 7")
	term.enter("echo status-$?")
	term.see("status-7")
}

// TestWholeRunStopped: ctrl-Z stops a governed program in the outer shell, and fg goes on with it.
func TestWholeRunStopped(t *testing.T) {
	m := newMachine(t)
	term := m.newTerminal(t)
	term.govern("sleep 3")
	time.Sleep(1500 * time.Millisecond)
	term.press("C-z")
	term.see("Stopped")
	term.enter("fg; echo ended-$?")
	term.see("ended-0")
	term.clear()
	term.govern("sleep 100")
	time.Sleep(1500 * time.Millisecond)
	term.press("C-c")
	term.enter("echo interrupted-$?")
	term.see("interrupted-130")
}

// TestInterpretersInteractive: python3, node and curl work in a terminal under the example policy.
func TestInterpretersInteractive(t *testing.T) {
	for _, program := range []struct {
		name, start string
		lines       []string
		want        string
		leave       string
	}{
		{"python3", "python3 -q", []string{"print('py', 6*7)", "open('/etc/shadow')"}, "PermissionError", "exit()"},
		{"node", "node", []string{"console.log('js', 6*7)", "require('fs').readFileSync('/etc/shadow')"}, "EACCES", ".exit"},
	} {
		t.Run(program.name, func(t *testing.T) {
			isolated.NeedRoot(t)
			have(t, program.name)
			m := newMachine(t)
			term := m.newTerminal(t)
			term.govern(program.start)
			time.Sleep(1500 * time.Millisecond)
			for _, line := range program.lines {
				term.enter(line)
				time.Sleep(300 * time.Millisecond)
			}
			term.see(" 42")
			term.see(program.want)
			term.clear()
			term.enter(program.leave)
			term.see("outer>") // what is typed before the program has left is typed into it
			term.enter("echo left-$?")
			term.see("left-0")
		})
	}
}

// TestCurl: a granted address answers, another does not.
func TestCurl(t *testing.T) {
	isolated.NeedRoot(t)
	have(t, "curl")
	have(t, "python3")
	m := newMachine(t)
	server := exec.CommandContext(t.Context(), "python3", "-m", "http.server", "--bind", "127.0.0.1", "8080")
	server.Dir = m.home.Work
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill() // it may have ended
		_ = server.Wait()         // killed
	})
	eventually(t, "a governed curl reaches what is granted", func() bool {
		got := m.run(ordinary, "curl", "-sS", "--max-time", "5", "http://127.0.0.1:8080/notes.txt")
		return got.code == 0 && strings.Contains(got.stdout, "The guard is up.")
	})
	got := m.run(strings.ReplaceAll(ordinary, "8080", "8081"), "curl", "-sS", "--max-time", "5", "http://127.0.0.1:8080/notes.txt")
	if got.code == 0 {
		t.Errorf("it reached what is not granted: %s", got.stdout)
	}
}

// TestExamplePolicies: every example policy is valid.
func TestExamplePolicies(t *testing.T) {
	m := newBareMachine(t)
	var policies []string
	for _, pattern := range []string{"../../examples/policies/*.yaml", "../../examples/*/policy.yaml", "../../examples/agents/*/policy.yaml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		policies = append(policies, found...)
	}
	if len(policies) < 10 {
		t.Fatalf("only %d example policies found", len(policies))
	}
	for _, path := range policies {
		absolute, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(absolute); err != nil {
			t.Fatal(err)
		}
		if got := m.raypher("policy", "check", absolute); got.code != 0 {
			t.Errorf("%s: %s%s", path, got.stdout, got.stderr)
		}
	}
}
