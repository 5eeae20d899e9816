package netguard

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// TestNames: a resolved address opens new flows for its time; a flow that is open outlives it, also through a change of the
// rules, until the name itself is no longer granted.
func TestNames(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	network := &policy.Network{Egress: []string{"private api.example.com:80"}}
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
	must(t, g.Replace(a.id, &policy.Network{Egress: []string{"private *.example.com:80", "10.9.9.9/32"}}))
	p.expect(action{Do: "say"}, "", answer)
	must(t, g.Replace(a.id, &policy.Network{Egress: []string{"10.9.9.9/32"}}))
	p.expect(action{Do: "say"}, silence, "")
	if err := g.GrantName(12345, "api.example.com", far4, 80, time.Second); err == nil {
		t.Error("a name was granted to a cgroup that is not armed")
	}
}

// TestNameExpiresForASocketThatConnectsAgain: a black hole lets connect(2) go on, so what the socket was allowed once must not
// carry its next SYN.
func TestNameExpiresForASocketThatConnectsAgain(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Egress: []string{"private api.example.com:80"}}, policy.Enforce)
	to := mustAddr("10.77.0.2:80")
	must(t, g.GrantName(a.id, "api.example.com", far4, 80, time.Second))
	p := w.startProbe(t, a.fd)
	p.expect(action{Do: "open", To: to}, "", answer)
	p.expect(action{Do: "again", To: to}, "", answer)
	time.Sleep(1100 * time.Millisecond)
	p.expect(action{Do: "again", To: to}, silence, "")
}

// TestNamesAreBounded: one agent cannot take the room of others, and expired addresses make room.
func TestNamesAreBounded(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{})
	a, b := w.newAgent(t, "a"), w.newAgent(t, "b")
	network := &policy.Network{Egress: []string{"private *.example.com"}}
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
	g := w.load(t, Options{Own: ownEnds})
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

// TestFloodIsToldOnce: what went beyond the rate of single events is told by a drain, and not again by one that goes on while the agent is
// disarmed.
func TestFloodIsToldOnce(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{})
	events := record(t, g)
	for round := range 10 {
		a := w.newAgent(t, fmt.Sprint("agent", round))
		arm(t, g, a, &policy.Network{OnDeny: policy.Reject}, policy.Enforce)
		w.startProbe(t, a.fd).expect(action{Do: "burst", To: mustAddr("10.77.0.2:80"), Data: "different"}, "", "")
		total := func() (n uint32) {
			for _, e := range events.of(a) {
				n += e.Count
			}
			return n
		}
		must(t, g.Drain(t.Context()))
		if n := total(); n != 1000 {
			t.Errorf("%d of 1000 refusals were told when the guard was drained", n)
		}
		disarmed, drained := make(chan struct{}), make(chan error, 1)
		go func() {
			for {
				select {
				case <-disarmed:
					drained <- g.Drain(t.Context())
					return
				default:
					_ = g.Drain(t.Context()) // the last one tells
				}
			}
		}()
		must(t, g.Disarm(a.id))
		close(disarmed)
		must(t, <-drained)
		if n := total(); n != 1000 {
			t.Errorf("%d of 1000 refusals were told when the agent was disarmed", n)
		}
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

// TestFragments: a datagram larger than the wire is judged whole, on the way out and on the way in.
func TestFragments(t *testing.T) {
	w := newWorld(t)
	big := strings.Repeat("0123456789", 400)
	for _, to := range []string{"10.77.0.2:80", "[fd77::2]:80"} {
		w.serve(t, w.far, mustAddr(to))
	}
	w.capture(t)
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Egress: []string{"10.77.0.2/32:80", "[fd77::2]:80"}}, policy.Enforce)
	p := w.startProbe(t, a.fd)
	for _, to := range []string{"10.77.0.2:80", "[fd77::2]:80"} {
		p.expect(action{Do: "udp", To: mustAddr(to), Data: big}, "", "you said "+big)
	}
	w.settle()
	for _, to := range []string{"10.77.0.2:81", "[fd77::2]:81"} {
		p.expect(action{Do: "udp", To: mustAddr(to), Data: big}, silence, "")
	}
	if arrived, packets := w.forget(); len(arrived)+len(packets) != 0 {
		t.Errorf("the far end saw %q %q", arrived, packets)
	}
}
