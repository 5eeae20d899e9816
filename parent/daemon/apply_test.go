package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// looping is an agent that says again and again what it can do: read a file, and connect to an address.
func (p *pair) looping(policy, file, address string) (last func() string) {
	p.t.Helper()
	host, port, _ := strings.Cut(address, ":")
	_, out := p.raypher("run", "--quiet", "--policy", p.write("policy.yaml", policy), "--name", "loop", "--", "bash", "-c", fmt.Sprintf(
		`while sleep 0.05; do r=shut; c=refused; read line < %s && r=open; (exec 3<>/dev/tcp/%s/%s) && c=reached; echo now $r $c; done 2>/dev/null`, file, host, port))
	return func() string {
		said := out.String()
		said = said[:strings.LastIndexByte(said, '\n')+1]
		at := strings.LastIndex(said, "now ")
		if at < 0 {
			return ""
		}
		return strings.TrimSpace(said[at+len("now "):])
	}
}

// files are rules under which a shell runs, and reads what is named.
func files(read string, rules string) string {
	return fmt.Sprintf("filesystem:\n  read: [/usr/**, /lib/**, /lib64/**, /etc/**, %s]\n  exec: [/usr/**, /lib/**, /lib64/**]\n  write: [/dev/null]\n%s", read, rules)
}

// TestApplyPolicy: an operator gives a running agent another policy, which is live for network and files, bounds what the agent asks for
// itself, outlives raypherd, and can be taken back; what is beyond the launch is refused, and a mistake changes nothing.
func TestApplyPolicy(t *testing.T) {
	p := newPair(t, "--backend", "broker").start()
	address := listener(t)
	if err := os.Mkdir(filepath.Join(p.dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := p.write("data/file", "line\n")
	both := reject(address) + files(p.dir+"/data/**", "")
	last := p.looping(both, file, address)
	p.eventually("it can do both", func() bool { return last() == "open reached" })

	apply := func(policy string, flags ...string) (string, error) {
		return p.cli(append([]string{"policy", "apply", "--agent", "loop", p.write("next.yaml", policy)}, flags...)...)
	}
	for name, tt := range map[string]struct{ policy, want string }{
		"a mistake":                   {"network: 5\n", "next.yaml:1:"},
		"more network":                {reject(address, "10.0.0.1:1") + files(p.dir+"/data/**", ""), "10.0.0.1:1"},
		"more files":                  {reject(address) + files(p.dir+"/**", ""), "start it again"},
		"no file rules":               {reject(address), "without the section"},
		"another mode":                {strings.Replace(both, "enforce", "audit", 1), "mode: enforce was launched"},
		"system calls":                {both + "syscalls: {kill: deny}\n", "syscalls"},
		"limits":                      {both + "resources: {max_processes: 50}\n", "resources"},
		"questions that it never has": {strings.Replace(both, "network:\n", "network:\n  require_approval: [\"10.0.0.1:1\"]\n", 1), "require_approval"},
	} {
		if out, err := apply(tt.policy); err == nil || !strings.Contains(out, tt.want) {
			t.Errorf("%s: %v, %s, want %q in it", name, err, out, tt.want)
		}
	}
	if out, err := apply(reject()+files(p.dir+"/data/other", ""), "--check"); err != nil || !strings.Contains(out, "would be live: network") {
		t.Errorf("--check: %v, %s", err, out)
	}
	if last() != "open reached" {
		t.Errorf("what was refused or looked at changed something: %s", last())
	}
	out, err := apply(reject() + files(p.dir+"/data/**", ""))
	if err != nil || !strings.Contains(out, "live: network") || strings.Contains(out, "live: filesystem") {
		t.Errorf("narrowing the network: %v, %s", err, out)
	}
	p.eventually("the network is refused", func() bool { return last() == "open refused" })
	out, err = apply(reject() + files(p.dir+"/data/**", "  deny: ["+file+"]\n"))
	if err != nil || !strings.Contains(out, "live: filesystem") || !strings.Contains(out, "stays: Landlock's floor") || strings.Contains(out, "live: network") {
		t.Errorf("narrowing files: %v, %s", err, out)
	}
	p.eventually("the file is refused", func() bool { return last() == "shut refused" })

	p.end(syscall.SIGKILL)
	p.start()
	p.eventually("the agent is found again", func() bool { return len(p.list()) == 1 && p.list()[0].State == "running" })
	if out, err := apply(reject() + files(p.dir+"/data/**", "  deny: ["+file+"]\n")); err != nil || !strings.Contains(out, "in force already") {
		t.Errorf("the same after a restart: %v, %s", err, out)
	}
	if got := last(); got != "shut refused" {
		t.Errorf("after a restart it is %q", got)
	}
	if out, err := apply(both); err != nil {
		t.Errorf("the policy of the launch: %v, %s", err, out)
	}
	p.eventually("it can do both again", func() bool { return last() == "open reached" })
}

// TestApplyBoundsTheAgent: what an operator took, the agent does not get back by asking for its whole permit.
func TestApplyBoundsTheAgent(t *testing.T) {
	p := newPair(t, "--backend", "broker").start()
	one, two := listener(t), listener(t)
	ask := func(q string) string { return fmt.Sprintf(`"$ASK" %s; `, q) }
	wait := fmt.Sprintf("while [ ! -e %s/go ]; do sleep 0.05; done; ", p.dir)
	w := p.run(reject(one, two), "echo waits; "+wait+ask(two+" connect")+ask(p.address()+" narrow ''")+ask(two+" connect")+
		ask(p.address()+" narrow '"+reject(two)+"'")+ask(one+" connect")+"echo done; sleep 1000")
	w.printed("waits")
	if out, err := p.cli("policy", "apply", "--agent", w.grant().AgentID, p.write("next.yaml", reject(one))); err != nil {
		t.Fatal(err, out)
	}
	p.write("go", "")
	w.printed("done")
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for _, s := range w.said {
		if s.Agent != "" {
			lines = append(lines, s.Agent)
		}
	}
	want := []string{"waits", "error", "permit", "error", "beyond", "connected", "done"}
	if len(lines) != len(want) {
		t.Fatalf("the agent printed\n%s\nwant %d lines", strings.Join(lines, "\n"), len(want))
	}
	for i := range want {
		if !strings.Contains(lines[i], want[i]) || strings.Contains(lines[2], two) {
			t.Errorf("line %d: %s, want %s", i+1, lines[i], want[i])
		}
	}
}

// TestApplyToStatic: where Landlock alone decides, other file rules are refused rather than claimed, and the network is live.
func TestApplyToStatic(t *testing.T) {
	p := newPair(t, "--backend", "broker").start()
	address := listener(t)
	if err := os.Mkdir(filepath.Join(p.dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := p.write("data/file", "line\n")
	last := p.looping(reject(address)+files(p.dir+"/data/**", "  static: true\n"), file, address)
	p.eventually("it can do both", func() bool { return last() == "open reached" })
	next := p.write("next.yaml", reject(address)+files(p.dir+"/data/other", "  static: true\n"))
	if out, err := p.cli("policy", "apply", "--agent", "loop", next); err == nil || !strings.Contains(out, "static: true") {
		t.Errorf("other rules: %v, %s", err, out)
	}
	next = p.write("next.yaml", reject()+files(p.dir+"/data/**", "  static: true\n"))
	if out, err := p.cli("policy", "apply", "--agent", "loop", next); err != nil {
		t.Errorf("the network: %v, %s", err, out)
	}
	p.eventually("the network is refused", func() bool { return last() == "open refused" })
}

// TestReload: the host's policy and namespaces are read anew by a signal and by a command, for agents that begin then; a mistake changes
// nothing.
func TestReload(t *testing.T) {
	p := newPair(t)
	p.args = append(p.args, "--policy", p.write("host.yaml", reject()), "--namespaces", p.write("namespaces.yaml", "namespaces: {}\n"))
	p.start()
	address := listener(t)
	host, port, _ := strings.Cut(address, ":")
	try := fmt.Sprintf("(exec 3<>/dev/tcp/%s/%s) 2>/dev/null && echo reached || echo refused", host, port)
	begins := func() string {
		out, _ := p.cli("run", "--quiet", "--", "bash", "-c", try)
		return out
	}
	if got := begins(); !strings.Contains(got, "refused") {
		t.Errorf("before: %s", got)
	}
	p.write("host.yaml", reject(address))
	if out, err := p.cli("reload"); err != nil || !strings.Contains(out, "host.yaml") || strings.Contains(out, "namespaces.yaml") {
		t.Errorf("reload: %v, %s", err, out)
	}
	if got := begins(); !strings.Contains(got, "reached") {
		t.Errorf("after it: %s", got)
	}
	p.write("host.yaml", "network: 5\n")
	if out, err := p.cli("reload"); err == nil || !strings.Contains(out, "host.yaml:1:") {
		t.Errorf("a mistake: %v, %s", err, out)
	}
	p.daemon.Process.Signal(syscall.SIGHUP)
	p.eventually("the log has the mistake", func() bool { return strings.Contains(p.log.String(), "what was in force stays") })
	if got := begins(); !strings.Contains(got, "reached") {
		t.Errorf("after a mistake: %s", got)
	}
	p.write("host.yaml", reject(address))
	p.write("namespaces.yaml", "namespaces: {default: {max_agents: 0}}\n")
	p.daemon.Process.Signal(syscall.SIGHUP)
	p.eventually("no agent begins in the namespace", func() bool { return strings.Contains(begins(), "max_agents") })
}

// TestForksDuringApply: an agent that forks all the time gets nothing by children that are on their way while its policy changes.
func TestForksDuringApply(t *testing.T) {
	p := newPair(t, "--backend", "broker").start()
	if err := os.Mkdir(filepath.Join(p.dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := p.write("data/file", "line\n")
	wide := reject() + files(p.dir+"/data/**", "")
	narrow := reject() + files(p.dir+"/data/**", "  deny: ["+file+"]\n")
	_, out := p.raypher("run", "--quiet", "--policy", p.write("policy.yaml", wide), "--name", "loop", "--", "bash", "-c", fmt.Sprintf(
		`try() { when=before; [ -e %[1]s/data/narrowed ] && when=after; r=shut; read line < %[2]s && r=open; echo $when $r; }
		while :; do (try) & (try; (try) & wait) & wait; done 2>/dev/null`, p.dir, file))
	p.eventually("it reads", func() bool { return strings.Contains(out.String(), "before open") })
	for range 10 {
		for _, policy := range []string{narrow, wide} {
			if said, err := p.cli("policy", "apply", "--agent", "loop", p.write("next.yaml", policy)); err != nil {
				t.Fatal(err, said)
			}
		}
	}
	if said, err := p.cli("policy", "apply", "--agent", "loop", p.write("next.yaml", narrow)); err != nil {
		t.Fatal(err, said)
	}
	p.write("data/narrowed", "")
	p.eventually("it goes on after that", func() bool { return strings.Count(out.String(), "after shut") > 50 })
	if strings.Contains(out.String(), "after open") {
		t.Error("a child read what was denied before it looked")
	}
}
