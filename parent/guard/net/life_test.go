package netguard

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/policy"
)

// expect runs one action and compares what the program sees.
func (p *probe) expect(a action, err, data string) {
	p.t.Helper()
	if a.Data == "" {
		a.Data = "hello"
	}
	switch err {
	case silence:
		a.Patience = silencePatience
	case "":
		a.Patience = answerPatience
	}
	if o := p.do(a); o.Err != err || o.Data != data {
		p.t.Errorf("%s %v%s: program got %+v; want error %q, data %q", a.Do, a.To, a.Path, o, err, data)
	}
}

const (
	silence = "timeout"
	refused = "EPERM"
	answer  = "you said hello"
)

func TestOthersAreUntouched(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	g := w.load(t, Options{})
	events := record(t, g)
	p := w.startProbe(t, -1)
	for _, do := range []string{"tcp", "tcp-mapped", "udp", "udp-connected"} {
		p.expect(action{Do: do, To: mustAddr("10.77.0.2:80")}, "", answer)
	}
	p.expect(action{Do: "mptcp", To: mustAddr("10.77.0.2:80")}, "", answer)
	if e := events.forget(); len(e) != 0 {
		t.Errorf("events %+v; want none", e)
	}
}

// TestUnknownAgent: a cgroup below the parent that nobody armed gets nothing.
func TestUnknownAgent(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	w.capture(t)
	g := w.load(t, Options{})
	events := record(t, g)
	a := w.newAgent(t, "stranger")
	p := w.startProbe(t, a.fd)
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, refused, "")
	p.expect(action{Do: "udp", To: mustAddr("10.77.0.2:80")}, refused, "")
	p.expect(action{Do: "bind", To: mustAddr("127.0.0.1:0")}, refused, "")
	e := events.wait(t, "of the stranger", func(e Event) bool { return e.CgroupID == a.id && e.Operation == "connect" })
	if e.Reason != UnknownAgent || e.Errno != 1 {
		t.Errorf("event %+v; want reason UnknownAgent, errno 1", e)
	}
	if arrived, packets := w.forget(); len(arrived)+len(packets) != 0 {
		t.Errorf("the far end saw %q %q", arrived, packets)
	}
}

// TestDeadline: when the visa ends, the kernel cuts open flows and new ones; a renewal opens them again.
func TestDeadline(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	w.capture(t)
	g := w.load(t, Options{})
	events := record(t, g)
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Egress: []string{"10.77.0.2/32"}}, policy.Enforce)
	tcp, udp := w.startProbe(t, a.fd), w.startProbe(t, a.fd)
	tcp.expect(action{Do: "open", To: mustAddr("10.77.0.2:80")}, "", answer)
	udp.expect(action{Do: "open-udp", To: mustAddr("10.77.0.2:80")}, "", answer)

	must(t, g.Renew(a.id, bootTime()-1))
	w.settle()
	tcp.expect(action{Do: "say"}, silence, "")
	if o := udp.do(action{Do: "say", Data: "hello"}); o.Err == "" {
		t.Errorf("a datagram socket that was open still got %+v", o)
	}
	w.startProbe(t, a.fd).expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, refused, "")
	if arrived, packets := w.forget(); len(arrived)+len(packets) != 0 {
		t.Errorf("after the deadline the far end saw %q, packets %q", arrived, packets)
	}
	if e := events.wait(t, "after the deadline", func(e Event) bool { return e.Reason == Expired }); e.CgroupID != a.id {
		t.Errorf("event %+v of another agent", e)
	}

	must(t, g.Renew(a.id, later()))
	udp.expect(action{Do: "say"}, "", answer)
	w.startProbe(t, a.fd).expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, "", answer)

	must(t, g.Disarm(a.id))
	if o := udp.do(action{Do: "say", Data: "hello"}); o.Err == "" {
		t.Errorf("disarmed, but the program got %+v", o)
	}
}

// TestReplace: narrower rules cut what is open and no longer granted, and leave the rest alone.
func TestReplace(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{"10.77.0.2:80", "10.77.1.2:80"} {
		w.serve(t, w.far, mustAddr(a))
	}
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Egress: []string{"10.77.0.0/16"}}, policy.Enforce)
	stays, goes := w.startProbe(t, a.fd), w.startProbe(t, a.fd)
	stays.expect(action{Do: "open", To: mustAddr("10.77.0.2:80")}, "", answer)
	goes.expect(action{Do: "open", To: mustAddr("10.77.1.2:80")}, "", answer)
	must(t, g.Replace(a.id, &policy.Network{Egress: []string{"10.77.0.2/32"}}))
	stays.expect(action{Do: "say"}, "", answer)
	goes.expect(action{Do: "say"}, silence, "")
	must(t, g.Replace(a.id, nil))
	stays.expect(action{Do: "say"}, silence, "")
}

// TestStays: what is pinned holds agents while raypherd is away; the next Load finds them, their rules, names and flows.
func TestStays(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{"10.77.0.2:80", "10.77.1.2:80"} {
		w.serve(t, w.far, mustAddr(a))
	}
	w.capture(t)
	bpffs := t.TempDir()
	must(t, unix.Mount("bpf", bpffs, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(bpffs, 0)) })
	pins := filepath.Join(bpffs, "guard")
	first := w.load(t, Options{PinDir: pins})
	if !first.Pinned() || slices.ContainsFunc(first.Notes(), func(n string) bool { return n[:3] == "the" }) {
		t.Fatalf("not pinned: %q", first.Notes())
	}
	a := w.newAgent(t, "agent")
	network := &policy.Network{Egress: []string{"10.77.0.2:80", "private x.example.com"}, OnDeny: policy.Reject}
	arm(t, first, a, network, policy.Enforce)
	must(t, first.GrantName(a.id, "x.example.com", second4, 80, time.Hour))
	p := w.startProbe(t, a.fd)
	p.expect(action{Do: "open", To: mustAddr("10.77.0.2:80")}, "", answer)
	must(t, first.Close())

	q := w.startProbe(t, a.fd)
	w.settle()
	q.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, refused, "")
	if arrived, packets := w.forget(); len(arrived)+len(packets) != 0 {
		t.Errorf("with raypherd away the far end saw %q %q", arrived, packets)
	}
	q.expect(action{Do: "tcp", To: mustAddr("10.77.1.2:80")}, "", answer)
	p.expect(action{Do: "say"}, "", answer)

	second := w.load(t, Options{PinDir: pins})
	if got := second.Agents(); !slices.Equal(got, []uint64{a.id}) {
		t.Errorf("found agents %v, want %d", got, a.id)
	}
	p.expect(action{Do: "say"}, "", answer)
	q.expect(action{Do: "tcp", To: mustAddr("10.77.1.2:80")}, "", answer)
	record(t, second).wait(t, "of the time between", func(e Event) bool {
		return e.CgroupID == a.id && e.Destination == mustAddr("10.77.0.2:81") && e.PID == uint32(q.cmd.Process.Pid)
	})
	must(t, second.Replace(a.id, &policy.Network{Egress: []string{"10.77.0.2:80"}, OnDeny: policy.Reject}))
	q.expect(action{Do: "tcp", To: mustAddr("10.77.1.2:80")}, refused, "")
	p.expect(action{Do: "say"}, "", answer)

	must(t, second.Unpin())
	must(t, second.Close())
	if _, err := os.Stat(pins); !os.IsNotExist(err) {
		t.Errorf("pins remain: %v", err)
	}
}

func TestNoBPFFS(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{PinDir: filepath.Join(t.TempDir(), "pins")})
	if g.Pinned() || !slices.ContainsFunc(g.Notes(), func(n string) bool { return len(n) > 3 && n[:3] == "the" }) {
		t.Errorf("pinned %v, notes %q; want a note that nothing is pinned", g.Pinned(), g.Notes())
	}
}

// TestManyAgents: 200 agents at once, each with its own rule, none with another's.
func TestManyAgents(t *testing.T) {
	const n = 200
	w := newWorld(t)
	for i := range n {
		w.serve(t, w.near, at(lo4, uint16(10000+i)))
	}
	g := w.load(t, Options{})
	agents := make([]agent, n)
	var arming sync.WaitGroup
	for i := range n {
		agents[i] = w.newAgent(t, fmt.Sprintf("agent%d", i))
		arming.Go(func() {
			network := &policy.Network{Egress: []string{fmt.Sprintf("127.0.0.1/32:%d", 10000+i)}, OnDeny: policy.Reject}
			if err := g.Arm(Agent{CgroupID: agents[i].id, Network: network, Deadline: later()}); err != nil {
				t.Error(err)
			}
		})
	}
	arming.Wait()
	if got := g.Agents(); len(got) != n {
		t.Errorf("%d agents are armed, want %d", len(got), n)
	}
	for i := 0; i < n; i += 20 {
		p := w.startProbe(t, agents[i].fd)
		for j := 0; j < n; j += 20 {
			if i == j {
				p.expect(action{Do: "tcp", To: at(lo4, uint16(10000+j))}, "", answer)
			} else {
				p.expect(action{Do: "tcp", To: at(lo4, uint16(10000+j))}, refused, "")
			}
		}
	}
	for i := range n {
		must(t, g.Disarm(agents[i].id))
	}
	if got := g.Agents(); len(got) != 0 {
		t.Errorf("%d agents are armed after disarming all", len(got))
	}
}

// TestCgroupNamespace: in a container the mounted hierarchy begins somewhere below the root; the guard finds its depth.
func TestCgroupNamespace(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.near, mustAddr("127.0.0.1:8080"))
	outer := w.newAgent(t, "container")
	inner := filepath.Join(outer.dir, "agents")
	must(t, os.Mkdir(inner, 0o755))
	t.Cleanup(func() { os.Remove(inner) })
	spec, err := bpf.LoadNetguard()
	must(t, err)

	// A process in the container's cgroup sees its hierarchy begin there.
	self := os.Getpid()
	home, err := os.ReadFile("/proc/self/cgroup")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(outer.dir, "cgroup.procs"), []byte(strconv.Itoa(self)), 0))
	t.Cleanup(func() { must(t, os.WriteFile(homeOf(t, string(home)), []byte(strconv.Itoa(self)), 0)) })
	whole, depth, root, err := place(outer.dir)
	must(t, err)
	if whole != outer.id {
		t.Fatalf("the cgroup's id is %d, want %d", whole, outer.id)
	}
	base, err := depthOf(spec, root)
	must(t, err)
	if got, err := depthOf(spec, outer.id); err != nil || got != base+depth {
		t.Errorf("a hierarchy that begins at the container has depth %d, %v; want %d", got, err, base+depth)
	}
	if _, err := depthOf(spec, 1<<60); err == nil {
		t.Error("the depth of a foreign hierarchy was found")
	}
}

// homeOf is the cgroup.procs file of the cgroup2 line in /proc/self/cgroup.
func homeOf(t *testing.T, lines string) string {
	t.Helper()
	m, err := cgroup.FindMounts()
	must(t, err)
	for line := range strings.Lines(lines) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Join(m.Unified, strings.TrimSpace(path), "cgroup.procs")
		}
	}
	t.Fatal("this process is in no cgroup2")
	return ""
}

func TestNoCgroupIsNotArmed(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{})
	if err := g.Arm(Agent{Deadline: later()}); err == nil {
		t.Error("an agent without a cgroup was armed")
	}
}
