package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/examples/stage"
	"github.com/raypher/raypher/test/isolated"
)

// systemPath is the PATH of every governed program.
const systemPath = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

// limit is how long one command of a test may take.
const limit = 60 * time.Second

// machine is one home with a pair of its own.
type machine struct {
	t    testing.TB
	home *stage.Home
	pair *stage.Pair // nil: no daemon
}

// newMachine makes a home, and starts a pair for it, raypherd with flags.
func newMachine(t testing.TB, flags ...string) *machine {
	t.Helper()
	m := newBareMachine(t)
	m.open(flags...)
	return m
}

// open starts the pair of a machine that has none.
func (m *machine) open(flags ...string) {
	m.t.Helper()
	pair, err := stage.OpenPair(m.t.Context(), programs, m.home, flags...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(pair.Close)
	m.pair = pair
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("the pair's log:\n%s", pair.Log())
		}
	})
}

// newBareMachine makes a home without a pair.
func newBareMachine(t testing.TB) *machine {
	t.Helper()
	isolated.NeedRoot(t)
	home, err := stage.NewHome()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := home.Close(); err != nil {
			t.Error(err)
		}
	})
	return &machine{t: t, home: home}
}

// policy writes a policy into the home's root and returns its path.
func (m *machine) policy(text string) string {
	m.t.Helper()
	path := filepath.Join(m.home.Root, "policy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// ordinary lets the usual programs run and work in ~/work; the rest of the home is closed.
const ordinary = `
namespace: test
filesystem:
  read: [~/work/**, /usr/**, "/{bin,lib,lib64,etc,proc}/**", "/dev/{null,urandom,tty}"]
  write: [~/work/**, "/dev/{null,tty}"]
  exec: [/usr/**, "/{bin,lib,lib64}/**"]
network:
  on_deny: reject
  egress: [127.0.0.1:8080]
`

// command is the CLI with arguments, in the home, talking to this machine's pair.
func (m *machine) command(ctx context.Context, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(programs, "raypher"), arguments...)
	cmd.Dir = m.home.Work
	cmd.Env = m.environment()
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

func (m *machine) environment() []string {
	environment := []string{"HOME=" + m.home.Dir, "PATH=" + systemPath, "TERM=dumb"}
	if m.pair != nil { // else the host's, of which there is none, or a private one
		environment = append(environment, "RAYPHER_RUN_DIR="+filepath.Join(m.home.Root, "run"))
	}
	return environment
}

// outcome is what a command did.
type outcome struct {
	code           int
	stdout, stderr string
}

// raypher runs the CLI to its end.
func (m *machine) raypher(arguments ...string) outcome {
	m.t.Helper()
	return m.finish(m.t.Context(), "", arguments...)
}

func (m *machine) finish(ctx context.Context, stdin string, arguments ...string) outcome {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := m.command(ctx, arguments...)
	cmd.Stdin = strings.NewReader(stdin)
	return m.wait(cmd)
}

// wait runs a prepared command to its end.
func (m *machine) wait(cmd *exec.Cmd) outcome {
	m.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		m.t.Fatalf("%v: %v\n%s", cmd.Args, err, stderr.String())
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// run is `raypher run` with a policy text.
func (m *machine) run(policy string, command ...string) outcome {
	m.t.Helper()
	return m.raypher(append([]string{"run", "--policy", m.policy(policy), "--"}, command...)...)
}

// resident is a governed shell that runs until it is told to end, and carries out commands in between.
type resident struct {
	m      *machine
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  chan struct{}
	next   int
}

// reside starts a governed shell. It takes commands through files in the agent's own folder, so that nothing but the guard
// stands between the test and what the shell may do.
func (m *machine) reside(policy string) *resident {
	m.t.Helper()
	r := &resident{m: m, ended: make(chan struct{})}
	const loop = `n=1; while :; do
		if [ -e cmd.$n ]; then sh cmd.$n > out.part 2>&1; echo "status $?" >> out.part; mv out.part out.$n; n=$((n+1)); fi
		sleep 0.05
	done`
	r.cmd = m.command(m.t.Context(), "run", "--name", "resident", "--policy", m.policy(policy), "--", "/bin/sh", "-c", loop)
	r.cmd.Stderr = &r.stderr
	if err := r.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() {
		_ = r.cmd.Wait() // the test looks at ProcessState
		close(r.ended)
	}()
	m.t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // it may have ended
		<-r.ended
	})
	if out := r.do("echo up"); !strings.HasPrefix(out, "up") {
		m.t.Fatalf("the governed shell does not work: %q\n%s", out, r.stderr.String())
	}
	return r
}

// do carries out a shell command in the resident and returns its output, which ends with "status N".
func (r *resident) do(command string) string {
	r.m.t.Helper()
	r.next++
	name := func(kind string) string { return filepath.Join(r.m.home.Work, kind+"."+strconv.Itoa(r.next)) }
	part := filepath.Join(r.m.home.Root, "cmd")
	err := errors.Join(os.WriteFile(part, []byte(command+"\n"), 0o644), os.Rename(part, name("cmd")))
	if err != nil {
		r.m.t.Fatal(err)
	}
	for deadline := time.Now().Add(limit / 2); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if out, err := os.ReadFile(name("out")); err == nil {
			return string(out)
		}
		select {
		case <-r.ended:
			r.m.t.Fatalf("the governed shell ended: %s\n%s", r.cmd.ProcessState, r.stderr.String())
		default:
		}
	}
	r.m.t.Fatalf("the governed shell did not answer\n%s", r.stderr.String())
	return ""
}

// ends waits for the resident to end and reports whether it did.
func (r *resident) ends(within time.Duration) bool {
	select {
	case <-r.ended:
		return true
	case <-time.After(within):
		return false
	}
}

// in is the same machine for a subtest.
func (m *machine) in(t *testing.T) *machine {
	return &machine{t: t, home: m.home, pair: m.pair}
}
