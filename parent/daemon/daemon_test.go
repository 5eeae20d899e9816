package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/instance"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// built is the folder of the programs, removed after the tests; empty while there is none.
var built string

// binaries builds the three programs once for all tests.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "raypher-test-bin")
	if err != nil {
		return "", err
	}
	built = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	for name, from := range map[string]string{"raypherd": "raypherd", "raypher-enclave": "raypher-enclave", "raypher": "raypher-run", "raypher-cli": "raypher"} {
		race := raced && name == "raypherd"
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), "github.com/raypher/raypher/cmd/"+from)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if race {
			build.Args = append(build.Args[:2:2], append([]string{"-race"}, build.Args[2:]...)...)
			build.Env = append(os.Environ(), "CGO_ENABLED=1")
		}
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
	}
	return dir, nil
})

// pair is a raypherd of its own with its enclave, in folders that other users can reach.
type pair struct {
	t       *testing.T
	dir     string
	bin     string
	paths   instance.Paths
	args    []string
	daemon  *exec.Cmd
	log     *safeBuffer
	enclave *exec.Cmd // only with ownEnclave
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// newPair makes the folders; start starts raypherd.
func newPair(t *testing.T, args ...string) *pair {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("raypherd needs root")
	}
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "raypher-test")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	paths, err := instance.At(filepath.Join(dir, "run"), filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{t: t, dir: dir, bin: bin, paths: paths, args: args}
	t.Cleanup(p.remove)
	return p
}

func (p *pair) start() *pair {
	p.t.Helper()
	p.startWithout()
	p.eventually("raypherd serves", func() bool { return strings.Contains(p.log.String(), "raypherd serves") })
	return p
}

// startWithout does not wait.
func (p *pair) startWithout() {
	p.t.Helper()
	args := append([]string{"--run-dir", p.paths.Run, "--state-dir", p.paths.State, "--listen", "127.0.0.1:0", "--gateway", "127.0.0.1:0", "--policy", instance.Policy}, p.args...)
	p.daemon = exec.Command(filepath.Join(p.bin, "raypherd"), args...)
	p.log = &safeBuffer{}
	p.daemon.Stderr = p.log
	p.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.daemon.Start(); err != nil {
		p.t.Fatal(err)
	}
}

// end ends raypherd with a signal and waits for it.
func (p *pair) end(s os.Signal) error {
	p.daemon.Process.Signal(s)
	return p.daemon.Wait()
}

func (p *pair) remove() {
	if p.daemon != nil {
		p.end(syscall.SIGKILL)
	}
	if p.enclave != nil {
		p.enclave.Process.Kill()
		p.enclave.Wait()
	}
	if err := sweepAll(p.paths); err != nil {
		p.t.Error(err)
	}
	if p.log != nil && strings.Contains(p.log.String(), "DATA RACE") {
		p.t.Error("raypherd raced")
	}
	if p.t.Failed() {
		p.t.Logf("raypherd said:\n%s", p.log)
	}
	os.RemoveAll(p.dir)
}

func (p *pair) eventually(what string, ok func() bool) {
	p.t.Helper()
	for range 1500 {
		if ok() {
			return
		}
		pause()
	}
	p.t.Fatalf("never happened: %s\nraypherd said:\n%s", what, p.log)
}

// address is where the Agent service listens.
func (p *pair) address() string {
	found := regexp.MustCompile(`"agents over TCP"=(\S+)`).FindStringSubmatch(p.log.String())
	if found == nil {
		p.t.Fatalf("no address in the log:\n%s", p.log)
	}
	return found[1]
}

func (p *pair) operator() parentv1.OperatorClient {
	p.t.Helper()
	conn, err := dial(p.paths.Socket)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return parentv1.NewOperatorClient(conn)
}

func (p *pair) list() []*parentv1.AgentStatus {
	p.t.Helper()
	reply, err := p.operator().ListAgents(context.Background(), &parentv1.ListAgentsRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	return reply.Agents
}

// evidence lists the verdicts in the journal, as `raypher evidence list` does.
func (p *pair) evidence() []journal.Verdict {
	p.t.Helper()
	stream, err := p.operator().ListEvidence(context.Background(), &parentv1.ListEvidenceRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	var all []journal.Verdict
	for {
		item, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			p.t.Fatal(err)
		}
		v, err := journal.DecodeVerdict(item.Verdict)
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, v)
	}
}

// warden is one warden process with its agent.
type warden struct {
	pair   *pair
	cmd    *exec.Cmd
	orders *json.Encoder

	mu      sync.Mutex
	said    []said
	granted *attend.Granted
	runner  int
}

// plain is a policy that governs nothing but the network, of which it grants nothing.
const plain = "mode: enforce\nnetwork:\n  default_action: drop\n"

// launch starts a warden and waits for what raypherd says.
func (p *pair) launch(policy, script string, change ...func(*order, *exec.Cmd)) *warden {
	p.t.Helper()
	w := &warden{pair: p, cmd: exec.Command("/proc/self/exe")}
	w.cmd.Env = append(os.Environ(), "RAYPHER_TEST_PART=warden")
	w.cmd.Stderr = os.Stderr
	in, err := w.cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	first := order{Script: script, Socket: p.paths.Socket, Launch: &attend.Launch{
		Policy: []byte(policy), PolicyPath: "policy.yaml", Program: "/bin/sh", Home: "/root", Argv: []string{"sh"},
	}}
	for _, f := range change {
		f(&first, w.cmd)
	}
	if err := w.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		w.cmd.Process.Kill()
		w.cmd.Wait()
		if w.runner != 0 {
			syscall.Kill(w.runner, syscall.SIGKILL)
		}
	})
	w.orders = json.NewEncoder(in)
	go w.listen(out)
	w.order(first)
	p.eventually("the warden has an answer", func() bool { return w.grant() != nil || w.heard("", "") != nil })
	return w
}

func (w *warden) order(o order) {
	w.pair.t.Helper()
	if err := w.orders.Encode(o); err != nil {
		w.pair.t.Error(err)
	}
}

func (w *warden) listen(out io.Reader) {
	lines := json.NewDecoder(out)
	for {
		var s said
		if lines.Decode(&s) != nil {
			return
		}
		w.mu.Lock()
		if s.Granted != nil {
			w.granted = s.Granted
		}
		if s.Runner != 0 {
			w.runner = s.Runner
		}
		w.said = append(w.said, s)
		w.mu.Unlock()
	}
}

func (w *warden) grant() *attend.Granted {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.granted
}

// expected is what raypherd said before it granted anything.
func (w *warden) expected() *attend.Terms {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.said {
		if s.Expected != nil {
			return s.Expected
		}
		if s.Granted != nil {
			break
		}
	}
	return nil
}

// heard returns the last of what the warden said of a kind ("": its end with an error) with a text in it.
func (w *warden) heard(kind, text string) *said {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.said) - 1; i >= 0; i-- {
		s := w.said[i]
		if kind == "" && s.Message == "" && s.Error != "" || kind != "" && s.Message == kind && strings.Contains(s.Error, text) {
			return &s
		}
	}
	return nil
}

// run launches and lets the program go.
func (p *pair) run(policy, script string, change ...func(*order, *exec.Cmd)) *warden {
	p.t.Helper()
	w := p.launch(policy, script, change...)
	if w.grant() == nil {
		p.t.Fatalf("not granted: %+v", w.heard("", ""))
	}
	w.order(order{Started: true})
	return w
}

// refused launches what must not be granted and returns the words.
func (p *pair) refused(policy string, change ...func(*order, *exec.Cmd)) string {
	p.t.Helper()
	w := p.launch(policy, "exit 0", change...)
	if w.grant() != nil {
		p.t.Fatalf("granted: %s", w.grant().Permit)
	}
	return w.heard("", "").Error
}

// printed waits for a line of the agent that contains one of the texts, and returns it.
func (w *warden) printed(texts ...string) string {
	w.pair.t.Helper()
	var line string
	w.pair.eventually("the agent printed "+strings.Join(texts, " or "), func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, s := range w.said {
			for _, text := range texts {
				if s.Agent != "" && strings.Contains(s.Agent, text) {
					line = s.Agent
					return true
				}
			}
		}
		return false
	})
	return line
}

// lines are what the agent printed.
func (w *warden) lines() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for _, s := range w.said {
		if s.Agent != "" {
			lines = append(lines, s.Agent)
		}
	}
	return lines
}

// pause lets the machine go on for a moment.
func pause() { time.Sleep(10 * time.Millisecond) }
