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

// TestNames: a resolved address opens new flows for its time; a flow that is open outlives it, also through a change of the
// rules, until the name itself is no longer granted.
func TestNames(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	network := &policy.Network{Egress: []string{"api.example.com:80"}}
	arm(t, g, a, network, policy.Enforce)
	to := mustAddr("10.77.0.2:80")
	w.startProbe(t, a.fd).expect(action{Do: "tcp", To: to}, silence, "")
	must(t, g.GrantName(a.id, "api.example.com", far4, 80, time.Second))
	p := w.startProbe(t, a.fd)
	p.expect(action{Do: "open", To: to}, "", answer)
	w.startProbe(t, a.fd).expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, silence, "")
	time.Sleep(1100 * time.Millisecond)
	w.startProbe(t, a.fd).expect(action{Do: "tcp", To: to}, silence, "")
	p.expect(action{Do: "say"}, "", answer)
	must(t, g.Replace(a.id, &policy.Network{Egress: []string{"*.example.com:80", "10.9.9.9/32"}}))
	p.expect(action{Do: "say"}, "", answer)
	must(t, g.Replace(a.id, &policy.Network{Egress: []string{"10.9.9.9/32"}}))
	p.expect(action{Do: "say"}, silence, "")
	if err := g.GrantName(12345, "api.example.com", far4, 80, time.Second); err == nil {
		t.Error("a name was granted to a cgroup that is not armed")
	}
}

// TestNamesAreBounded: one agent cannot take the room of others, and expired addresses make room.
func TestNamesAreBounded(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{})
	a, b := w.newAgent(t, "a"), w.newAgent(t, "b")
	network := &policy.Network{Egress: []string{"*.example.com"}}
	arm(t, g, a, network, policy.Enforce)
	arm(t, g, b, network, policy.Enforce)
	grant := func(a agent, i int, ttl time.Duration) error {
		return g.GrantName(a.id, "x.example.com", far4, uint16(i+1), ttl)
	}
	for i := range maxNames {
		must(t, grant(a, i, time.Millisecond))
	}
	time.Sleep(5 * time.Millisecond)
	for i := range maxNames {
		must(t, grant(a, maxNames+i, time.Hour))
	}
	if err := grant(a, 3*maxNames, time.Hour); err == nil {
		t.Errorf("more than %d addresses were granted to one agent", maxNames)
	}
	must(t, grant(b, 0, time.Hour))
	must(t, g.Disarm(a.id))
	if n := g.names[a.id]; n != 0 {
		t.Errorf("a disarmed agent still holds %d addresses", n)
	}
}

// TestListen: an agent may be reached where its permit says, and may answer there, but not begin.
func TestListen(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	g := w.load(t, Options{OwnPorts: []uint16{50051}})
	events := record(t, g)
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Listen: []string{"10.77.0.1:9000", "127.0.0.1:9001", "9002"}}, policy.Enforce)
	outside := w.startProbe(t, -1)
	p := w.startProbe(t, a.fd)

	t.Run("bind", func(t *testing.T) {
		for _, c := range []struct{ at, err string }{
			{"10.77.0.1:9000", ""}, {"127.0.0.1:9001", ""}, {"0.0.0.0:9002", ""}, {"[::]:9002", ""}, {"127.0.0.1:0", ""},
			{"0.0.0.0:9000", refused}, {"10.77.0.1:9001", refused}, {"[::1]:9000", refused}, {"127.0.0.1:8000", refused},
			{"127.0.0.1:50051", refused},
		} {
			p.expect(action{Do: "bind", To: mustAddr(c.at)}, c.err, "")
		}
		e := events.wait(t, "of bind", func(e Event) bool { return e.Operation == "bind" })
		if e.Layer != "cgroup/bind4" || e.Errno != 1 {
			t.Errorf("event %+v", e)
		}
	})
	reach := func(t *testing.T, kind string, to string) {
		t.Helper()
		done := make(chan outcome)
		do := map[string]string{"tcp": "accept", "udp": "answer-udp"}[kind]
		go func() { done <- p.do(action{Do: do}) }()
		outside.expect(action{Do: kind, To: mustAddr(to)}, "", "hello")
		if o := <-done; o.Err != "" || o.Data != "hello" {
			t.Errorf("the agent got %+v", o)
		}
	}
	t.Run("tcp comes in", func(t *testing.T) {
		p.expect(action{Do: "listen", To: mustAddr("127.0.0.1:9001")}, "", "")
		reach(t, "tcp", "127.0.0.1:9001")
		p.expect(action{Do: "listen", To: mustAddr("[::]:9002")}, "", "")
		reach(t, "tcp", "127.0.0.1:9002")
		reach(t, "tcp", "10.77.0.1:9002")
		reach(t, "tcp", "[::1]:9002")
	})
	t.Run("udp comes in and is answered", func(t *testing.T) {
		p.expect(action{Do: "serve-udp", To: mustAddr("127.0.0.1:9001")}, "", "")
		reach(t, "udp", "127.0.0.1:9001")
	})
	t.Run("a free port hears nothing", func(t *testing.T) {
		quiet := w.startProbe(t, a.fd)
		must(t, err(quiet.do(action{Do: "listen", To: mustAddr("127.0.0.1:0")})))
		// The port is not known outside; whatever it is, a connection from outside must not come in.
		port := listeningPort(t, quiet.cmd.Process.Pid)
		outside.expect(action{Do: "tcp", To: at(lo4, port)}, silence, "")
		c, err := g.Counters(a.id)
		must(t, err)
		if c.Incoming == 0 {
			t.Error("no incoming packet was counted")
		}
	})
	t.Run("nothing begins from a listening port", func(t *testing.T) {
		w.capture(t)
		w.forget()
		fresh := w.startProbe(t, a.fd)
		fresh.expect(action{Do: "bound-tcp", To: mustAddr("10.77.0.1:9000"), Path: "10.77.0.2:80"}, silence, "")
		fresh.expect(action{Do: "serve-udp", To: mustAddr("10.77.0.1:9000")}, "", "")
		fresh.expect(action{Do: "tell", To: mustAddr("10.77.0.2:80")}, silence, "")
		if arrived, packets := w.forget(); len(arrived)+len(packets) != 0 {
			t.Errorf("the far end saw %q %q", arrived, packets)
		}
	})
}

func err(o outcome) error {
	if o.Err != "" {
		return fmt.Errorf("probe: %s", o.Err)
	}
	return nil
}

// TestUnixSockets: a governed program connects to no name by itself; a pair without a name is free.
func TestUnixSockets(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{})
	for _, n := range g.Notes() {
		if len(n) > 12 && n[:12] == "unix sockets" {
			t.Skip(n)
		}
	}
	events := record(t, g)
	path := filepath.Join(t.TempDir(), "s")
	abstract := fmt.Sprintf("@raypher-test-%d", os.Getpid())
	for _, name := range []string{path, abstract} {
		for kind, suffix := range map[int]string{unix.SOCK_STREAM: "", unix.SOCK_DGRAM: "d"} {
			fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
			must(t, err)
			t.Cleanup(func() { unix.Close(fd) })
			must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: name + suffix}))
			if kind == unix.SOCK_STREAM {
				must(t, unix.Listen(fd, 8))
			}
		}
	}
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{DefaultAction: policy.Allow}, policy.Enforce)
	p := w.startProbe(t, a.fd)
	for _, name := range []string{path, abstract} {
		p.expect(action{Do: "unix", Path: name}, refused, "")
		p.expect(action{Do: "unix-dgram", Path: name + "d"}, refused, "")
		for layer, want := range map[string]string{"cgroup/connect_unix": name, "cgroup/sendmsg_unix": name + "d"} {
			e := events.wait(t, want, func(e Event) bool { return e.Layer == layer && e.Path == want })
			if e.Errno != 1 || e.CgroupID != a.id || e.Protocol != "" {
				t.Errorf("event %+v", e)
			}
		}
	}
	p.expect(action{Do: "socketpair"}, "", "hello")
	outside := w.startProbe(t, -1)
	outside.expect(action{Do: "unix", Path: path}, "", "")
	arm(t, g, a, nil, policy.Audit)
	p.expect(action{Do: "unix", Path: path}, "", "")
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
	network := &policy.Network{Egress: []string{"10.77.0.2:80", "x.example.com"}, OnDeny: policy.Reject}
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

// TestFloodIsCounted: a thousand refusals are a few events whose counts add up.
func TestFloodIsCounted(t *testing.T) {
	for _, c := range []struct{ name, data string }{{"one destination", "same"}, {"a thousand destinations", "different"}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			g := w.load(t, Options{})
			events := record(t, g)
			a := w.newAgent(t, "agent")
			arm(t, g, a, &policy.Network{OnDeny: policy.Reject}, policy.Enforce)
			w.startProbe(t, a.fd).expect(action{Do: "burst", To: mustAddr("10.77.0.2:80"), Data: c.data}, "", "")
			total, single := uint32(0), 0
			for range 50 {
				total, single = 0, 0
				for _, e := range events.of(a) {
					total += e.Count
					single++
				}
				if total >= 1000 {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			if total != 1000 || single > 600 {
				t.Errorf("%d events stand for %d refusals, want few for 1000", single, total)
			}
			if s, err := g.Statistics(); err != nil || s.Lost != 0 {
				t.Errorf("statistics %+v, %v", s, err)
			}
			if n, err := g.Counters(a.id); err != nil || n.Refused != 1000 {
				t.Errorf("counters %+v, %v; want 1000 refused", n, err)
			}
		})
	}
}

// TestEventIsQuick: the first event of a refusal is there within 100 ms of the call (measured from the kernel's time).
func TestEventIsQuick(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{})
	events := record(t, g)
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{OnDeny: policy.Reject}, policy.Enforce)
	w.startProbe(t, a.fd).expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, refused, "")
	e := events.wait(t, "of the connect", func(e Event) bool { return e.CgroupID == a.id })
	events.mu.Lock()
	defer events.mu.Unlock()
	t.Logf("reported %v after the kernel saw it", events.when[slices.IndexFunc(events.events, func(x Event) bool { return x == e })].Sub(e.Time))
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
