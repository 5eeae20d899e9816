package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/raypher/raypher/parent/link"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/raypher/raypher/startconf"
)

// shortVisas makes the enclave grant visas of the shortest lifetime there is, in seconds.
func (p *pair) shortVisas() *pair {
	p.t.Helper()
	if err := errors.Join(os.MkdirAll(p.paths.State, 0o755), os.MkdirAll(p.paths.Keys, 0o700)); err != nil {
		p.t.Fatal(err)
	}
	caller, err := link.OpenCaller(p.paths.Keys)
	if err != nil {
		p.t.Fatal(err)
	}
	err = startconf.Write(p.paths.Keys, &startconf.Configuration{TTLSeconds: startconf.MinTTL, CallerKeys: []startconf.KeyHash{caller.Hash()}})
	if err != nil {
		p.t.Fatal(err)
	}
	return p
}

// ownEnclave starts an enclave that raypherd does not own, so that a test can take it away.
func (p *pair) ownEnclave() *pair {
	p.t.Helper()
	p.args = append(p.args, "--enclave-socket", p.paths.EnclaveSocket)
	if err := os.MkdirAll(p.paths.Run, 0o755); err != nil {
		p.t.Fatal(err)
	}
	p.enclave = exec.Command(filepath.Join(p.bin, "raypher-enclave"), "--dev", "--listen", "unix:"+p.paths.EnclaveSocket,
		"--state", p.paths.EnclaveState, "--config", p.paths.Keys)
	out := &safeBuffer{}
	p.enclave.Stderr = out
	if err := p.enclave.Start(); err != nil {
		p.t.Fatal(err)
	}
	for range 1000 {
		if strings.Contains(out.String(), "enclave ready") {
			return p
		}
		pause()
	}
	p.t.Fatalf("the enclave does not come up:\n%s", out)
	return nil
}

// state is an agent's, as raypherd says and its record too: what runs before its record says so does not survive raypherd's end at that
// moment, and no test means that one.
func (p *pair) state(id string) string {
	p.t.Helper()
	for _, a := range p.list() {
		if a.AgentId == id {
			record, _ := os.ReadFile(filepath.Join(p.paths.Records, id+".json"))
			if a.State == "running" && !bytes.Contains(record, []byte(`"Begun":true`)) {
				return "launching"
			}
			return a.State
		}
	}
	return "gone"
}

func TestRaypherdIsKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	p := newPair(t).start()
	granted, refused := listener(t), listener(t)
	again := filepath.Join(p.dir, "again")
	after := filepath.Join(p.dir, "after")
	try := fmt.Sprintf(`"$ASK" %s connect; "$ASK" %s connect`, granted, refused)
	w := p.run(reject(granted), try+fmt.Sprintf(`; echo first; while [ ! -e %s ]; do sleep 0.05; done; %s; echo second; while [ ! -e %s ]; do sleep 0.05; done; %s; echo third; sleep 1000`, again, try, after, try))
	other := p.run(plain, "sleep 1000")
	silent := p.run(plain, "sleep 1000")
	w.printed("first")
	p.eventually("all run", func() bool {
		return p.state(silent.grant().AgentID) == "running" && p.state(other.grant().AgentID) == "running"
	})

	p.end(syscall.SIGKILL)
	if err := os.WriteFile(again, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.printed("second")
	p.eventually("the wardens notice", func() bool { return w.heard("stream ended", "") != nil })

	// While raypherd is away, one warden dies, and something that is no agent is put into the cgroup.
	other.cmd.Process.Kill()
	other.cmd.Wait()
	stray := strayIn(t, p)
	p.start()
	p.eventually("the agent waits for its warden", func() bool { return p.state(w.grant().AgentID) == "waiting" })
	p.eventually("the agent without a warden is ended", func() bool { return p.state(other.grant().AgentID) == "gone" })
	if err := stray.Wait(); err == nil || stray.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("a process of no agent: %v", err)
	}
	w.order(order{Reattach: true})
	p.eventually("the agent runs again", func() bool { return p.state(w.grant().AgentID) == "running" })
	if err := os.WriteFile(after, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.printed("third")
	want := []string{"connected", "error", "first", "connected", "error", "second", "connected", "error", "third"}
	if got := w.lines(); len(got) != len(want) {
		t.Errorf("the agent printed %q", got)
	} else {
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("line %d: %s, want %s: the guard stays as it was", i+1, got[i], want[i])
			}
		}
	}
	// The third warden never comes back: its agent is ended.
	p.eventually("the agent of the silent warden is ended", func() bool { return p.state(silent.grant().AgentID) == "gone" })
	if p.state(w.grant().AgentID) != "running" {
		t.Error("the agent whose warden came back does not run")
	}
}

// strayIn puts a process into a folder of the agents' cgroup that raypherd did not make.
func strayIn(t *testing.T, p *pair) *exec.Cmd {
	t.Helper()
	folder := filepath.Join(p.cgroupPath(), "stray")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	if err := os.WriteFile(filepath.Join(folder, "cgroup.procs"), []byte(fmt.Sprint(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestReattachingIsForTheWardenAlone(t *testing.T) {
	p := newPair(t).start()
	w := p.run(plain, "sleep 1000")
	p.eventually("the agent runs", func() bool { return p.state(w.grant().AgentID) == "running" })
	w.order(order{Reattach: true, Lie: true})
	p.eventually("the wrong secret is refused", func() bool { return w.heard("", "") != nil })
	if words := w.heard("", "").Error; !strings.Contains(words, "is not the warden of agent") {
		t.Errorf("refused with %q", words)
	}
}

func TestATermSignalLeavesAgentsUnderTheGuard(t *testing.T) {
	p := newPair(t).start()
	w := p.run(plain, "sleep 1000")
	p.eventually("the agent runs", func() bool { return p.state(w.grant().AgentID) == "running" })
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Errorf("raypherd ended with %v:\n%s", err, p.log)
	}
	if _, inside, err := cgroupOf(p, w.runner); err != nil || !inside {
		t.Errorf("the agent after raypherd's end: %v, %v", inside, err)
	}
	if _, err := os.Stat(filepath.Join(p.paths.Pins, "link_on_egress")); err != nil {
		t.Errorf("the guard after raypherd's end: %v", err)
	}
	p.start()
	w.order(order{Reattach: true})
	p.eventually("the agent runs again", func() bool { return p.state(w.grant().AgentID) == "running" })
}

func TestTheEnclaveGoesAway(t *testing.T) {
	t.Parallel()
	p := newPair(t).shortVisas().ownEnclave().start()
	host := listener(t)
	w := p.run(reject(host), fmt.Sprintf(`while :; do "$ASK" %s connect; sleep 0.2; done`, host))
	w.printed("connected")
	id := w.grant().AgentID
	p.eventually("the visa is renewed before it ends", func() bool { return w.heard("renewed", "") != nil })
	if w.heard("renewed", "").Renewed <= w.grant().ExpiresBoottimeNs {
		t.Error("the renewed visa does not last longer")
	}

	p.enclave.Process.Kill()
	p.enclave.Wait()
	unlucky := p.launch(plain, "exit 0")
	if words := unlucky.heard("", "").Error; unlucky.grant() != nil || !strings.Contains(words, "enclave is unreachable") {
		t.Errorf("a launch without an enclave: %q", words)
	}
	if _, inside, err := cgroupOf(p, unlucky.runner); inside || err != nil {
		t.Errorf("the runner that was refused is inside: %v, %v", inside, err)
	}
	w.order(order{Report: reported("/while/away")})
	if s := p.state(id); s != "running" {
		t.Errorf("the agent is %s while its visa lasts", s)
	}
	p.eventually("the agent is closed when its visa ends", func() bool { return p.state(id) == "closed" })
	p.eventually("a closed agent is frozen", func() bool { return p.frozen(id) })
	// The agent's user owns the file, for the warden: another program of that user may thaw what is closed, for a moment.
	if err := os.WriteFile(filepath.Join(p.cgroupPath(), id, "cgroup.freeze"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	p.eventually("an agent that was thawed while closed is frozen again", func() bool { return p.frozen(id) })

	p.ownEnclave()
	p.eventually("the agent goes on", func() bool { return p.state(id) == "running" })
	before := len(w.lines())
	p.eventually("the agent connects again", func() bool {
		lines := w.lines()
		return len(lines) > before && lines[len(lines)-1] == "connected"
	})
	p.eventually("what was refused meanwhile is evidence", func() bool {
		for _, v := range p.evidence() {
			if v.Target == "/while/away" {
				return true
			}
		}
		return false
	})
	p.run(plain, "sleep 1000")
}

func (p *pair) frozen(id string) bool {
	content, err := os.ReadFile(filepath.Join(p.cgroupPath(), id, "cgroup.events"))
	return err == nil && strings.Contains(string(content), "frozen 1")
}

func TestTheKernelClosesAnAgentWithoutRaypherd(t *testing.T) {
	t.Parallel()
	p := newPair(t).shortVisas().start()
	host := listener(t)
	w := p.run(reject(host), fmt.Sprintf(`while :; do "$ASK" %s connect; sleep 0.2; done`, host))
	w.printed("connected")
	p.end(syscall.SIGKILL)
	p.eventually("the kernel refuses what was granted", func() bool {
		lines := w.lines()
		return strings.Contains(lines[len(lines)-1], "error")
	})
}

func TestALocalEnclaveIsStartedAgain(t *testing.T) {
	p := newPair(t).start()
	pid := childOf(t, p.daemon.Process.Pid)
	syscall.Kill(pid, syscall.SIGKILL)
	p.eventually("the enclave is started again", func() bool { return strings.Count(p.log.String(), "enclave ready: ") == 2 })
	p.run(plain, "sleep 1000")
}

// childOf finds the one child of a process.
func childOf(t *testing.T, parent int) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		content, _ := os.ReadFile(path) // it may have ended meanwhile
		pid, rest, _ := strings.Cut(string(content), " ")
		fields := strings.Fields(rest[strings.LastIndexByte(rest, ')')+1:])
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("process %d has no child", parent)
	return 0
}

func TestStartsThatAreRefused(t *testing.T) {
	p := newPair(t).start()
	for name, tt := range map[string]struct {
		args []string
		want []string
	}{
		"a second one":        {nil, []string{"another raypherd serves this instance", fmt.Sprint(p.daemon.Process.Pid)}},
		"broken policy":       {[]string{"--policy", brokenPolicy(t)}, []string{"policy.yaml:1:1", "policy.yaml:3"}},
		"missing policy":      {[]string{"--policy", "/nonexistent/policy.yaml"}, []string{"/nonexistent/policy.yaml", "no such file"}},
		"broken namespaces":   {[]string{"--namespaces", limitedTo(t, "namespaces:\n  dev: {max_agent: 3}\n")}, []string{"namespaces.yaml:2:9", "max_agents"}},
		"missing namespaces":  {[]string{"--namespaces", "/nonexistent/namespaces.yaml"}, []string{"/nonexistent/namespaces.yaml", "no such file", "--namespaces"}},
		"no loopback address": {[]string{"--run-dir", p.dir + "/other", "--state-dir", p.dir + "/otherstate", "--listen", "0.0.0.0:1"}, []string{"127.0.0.1 and ::1 alone"}},
		"no enclave":          {[]string{"--run-dir", p.dir + "/other", "--state-dir", p.dir + "/otherstate", "--enclave-binary", "/nonexistent"}, []string{"/nonexistent", "installed"}},
		"relative folder":     {[]string{"--run-dir", "run"}, []string{"absolute"}},
		"unknown log format":  {[]string{"--log-format", "xml"}, []string{"text or json"}},
		"bad private id":      {[]string{"--private", "../x"}, []string{"lower case letters or digits"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"--run-dir", p.paths.Run, "--state-dir", p.paths.State}, tt.args...)
			out, err := exec.Command(filepath.Join(p.bin, "raypherd"), args...).CombinedOutput()
			if err == nil {
				t.Fatalf("it started: %s", out)
			}
			for _, want := range tt.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("it said %s, which lacks %q", out, want)
				}
			}
		})
	}
	cmd := exec.Command(filepath.Join(p.bin, "raypherd"))
	cmd.SysProcAttr = credential(65534, 65534)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "must run as root") {
		t.Errorf("as a plain user: %v, %s", err, out)
	}
	if checkKernel("5.15.0-generic") == nil || checkKernel("6.0.9") == nil || checkKernel("6.1.0-rc1") != nil || checkKernel("7.0") != nil || checkKernel("odd") == nil {
		t.Error("kernel versions are told apart wrongly")
	}
}

func brokenPolicy(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte("mod: enforce\nnetwork:\n  egress: [1.2.3.4/99]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHostPolicyAndDryRun(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte(reject()), 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPair(t, "--policy", policy, "--dry-run").start()
	w := p.run("", fmt.Sprintf(`"$ASK" %s connect; sleep 1000`, listener(t)))
	w.printed("connected")
	if list := p.list(); list[0].Mode != "audit" {
		t.Errorf("mode %s", list[0].Mode)
	}
	p.eventually("what would have been refused is evidence", func() bool {
		for _, v := range p.evidence() {
			if v.Decision == "would-block" {
				return true
			}
		}
		return false
	})
}

func TestPrivate(t *testing.T) {
	p := newPair(t)
	cmd := exec.Command(filepath.Join(p.bin, "raypherd"), "--run-dir", p.paths.Run, "--state-dir", p.paths.State, "--private", "test1234")
	p.log = &safeBuffer{}
	cmd.Stderr = p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	p.eventually("raypherd serves", func() bool { return strings.Contains(p.log.String(), "raypherd serves") })
	if !strings.Contains(p.log.String(), `"agents over TCP"=none`) {
		t.Errorf("a private raypherd listens over TCP:\n%s", p.log)
	}
	run := filepath.Join(p.paths.Run, "private", "test1234")
	state := filepath.Join(p.paths.State, "runs", "test1234")
	info, err := os.Stat(filepath.Join(run, "raypherd.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", info, err)
	}
	w := p.run(plain, "echo inside; read x", func(o *order, _ *exec.Cmd) { o.Socket = filepath.Join(run, "raypherd.sock") })
	w.printed("inside")
	syscall.Kill(w.runner, syscall.SIGKILL)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v:\n%s", err, p.log)
	}
	for _, gone := range []string{run, "/sys/fs/bpf/raypher-test1234", filepath.Join(filepath.Dir(p.cgroupPath()), "raypher-test1234")} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
	if _, err := os.Stat(filepath.Join(state, "journal")); err != nil {
		t.Errorf("the journal of a private run: %v", err)
	}
}

func TestManyAgentsAtOnce(t *testing.T) {
	const agents = 200
	p := newPair(t).start()
	wardens := make([]*warden, agents)
	// Each has a policy of its own; the processes are started a few at a time, as a test's machine can.
	slots := make(chan struct{}, 16)
	var all sync.WaitGroup
	for i := range wardens {
		all.Add(1)
		go func() {
			defer all.Done()
			slots <- struct{}{}
			defer func() { <-slots }()
			wardens[i] = p.run(reject(fmt.Sprintf("10.0.%d.%d/32", i/250, i%250+1)), "sleep 1000", func(o *order, _ *exec.Cmd) {
				o.Launch.Name = fmt.Sprintf("agent-%d", i)
			})
		}()
	}
	all.Wait()
	p.eventually("all run", func() bool {
		running := 0
		for _, a := range p.list() {
			if a.State == "running" {
				running++
			}
		}
		return running == agents
	})
	policies, groups := map[string]bool{}, map[string]bool{}
	for i, w := range wardens {
		g := w.grant()
		policies[string(g.PolicyHash)] = true
		groups[g.Cgroup] = true
		if want := fmt.Sprintf("/agent/agent-%d", i); !strings.HasSuffix(g.Subject, want) || !strings.Contains(string(g.Permit), fmt.Sprintf("\"10.0.%d.%d\"", i/250, i%250+1)) {
			t.Errorf("agent %d has subject %s and permit %s", i, g.Subject, g.Permit)
		}
	}
	if len(policies) != agents || len(groups) != agents {
		t.Errorf("%d policies in %d cgroups, want %d of each", len(policies), len(groups), agents)
	}
	for _, a := range p.list() {
		if _, err := p.operator().StopAgent(t.Context(), &parentv1.StopAgentRequest{AgentId: a.AgentId}); err != nil {
			t.Fatal(err)
		}
	}
}
