package netguard

import (
	"net/netip"
	"testing"

	"github.com/raypher/raypher/policy"
)

// TestIngress: who opens a flow to an agent is named by its policy, address and port together; the agent answers and does not begin, and a
// narrower policy ends what is open.
func TestIngress(t *testing.T) {
	w := newWorld(t)
	w.capture(t)
	g := w.load(t, Options{OwnPorts: []uint16{50051}})
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Ingress: []string{"10.77.0.0/24:9000", "[fd77::2]:9000", "127.0.0.1", "9100"}}, policy.Enforce)
	p := w.startProbe(t, a.fd)
	far, here := w.startProbeIn(t, w.far, -1), w.startProbe(t, -1)

	for _, c := range []struct{ at, err string }{
		{"0.0.0.0:9000", ""}, {"10.77.0.1:9000", ""}, {"[::]:9000", ""}, {"127.0.0.1:9000", ""}, {"0.0.0.0:9100", ""},
		{"0.0.0.0:9200", ""}, // 127.0.0.1 may come to every port
		{"127.0.0.1:50051", refused},
	} {
		p.expect(action{Do: "bind", To: mustAddr(c.at)}, c.err, "")
	}
	reach := func(kind string, by *probe, from, to, want string) {
		t.Helper()
		listen, take := "listen", "accept"
		if kind == "udp" {
			listen, take = "serve-udp", "answer-udp"
		}
		at := mustAddr(to)
		p.expect(action{Do: listen, To: everyAddress(at)}, "", "")
		defer p.expect(action{Do: "unlisten"}, "", "")
		if want == silence {
			by.expect(action{Do: "from-" + kind, To: at, Path: from}, silence, "")
			return
		}
		done := make(chan outcome)
		go func() { done <- p.do(action{Do: take}) }()
		by.expect(action{Do: "from-" + kind, To: at, Path: from}, "", "hello")
		if o := <-done; o.Err != "" || o.Data != "hello" {
			t.Errorf("%s from %s to %s: the agent got %+v", kind, from, to, o)
		}
	}
	for _, kind := range []string{"tcp", "udp"} {
		for _, c := range []struct {
			by             *probe
			from, to, want string
		}{
			{far, "10.77.0.2", "10.77.0.1:9000", ""},
			{far, "10.77.1.2", "10.77.0.1:9000", silence}, // not of this network
			{far, "10.77.0.2", "10.77.0.1:9200", silence}, // not this port
			{far, "10.77.1.2", "10.77.0.1:9100", ""},      // everyone
			{far, "fd77::2", "[fd77::1]:9000", ""},
			{far, "fd77::2", "[fd77::1]:9100", ""},
			{far, "fd77::2", "[fd77::1]:9200", silence},
			{here, "127.0.0.1", "127.0.0.1:9200", ""},
			{here, "127.0.0.2", "127.0.0.1:9200", silence},
			{here, "::1", "[::1]:9000", silence},
		} {
			reach(kind, c.by, c.from, c.to, c.want)
		}
	}

	t.Run("nothing begins from there", func(t *testing.T) {
		w.settle()
		fresh := w.startProbe(t, a.fd)
		fresh.expect(action{Do: "bound-tcp", To: mustAddr("10.77.0.1:9000"), Path: "10.77.0.2:80"}, silence, "")
		fresh.expect(action{Do: "serve-udp", To: mustAddr("10.77.0.1:9000")}, "", "")
		fresh.expect(action{Do: "tell", To: mustAddr("10.77.0.2:80")}, silence, "")
		if arrived, packets := w.forget(); len(arrived)+len(packets) != 0 {
			t.Errorf("the far end saw %q %q", arrived, packets)
		}
	})

	t.Run("narrower rules end an open flow", func(t *testing.T) {
		p.expect(action{Do: "listen", To: mustAddr("0.0.0.0:9000")}, "", "")
		done := make(chan outcome)
		go func() { done <- p.do(action{Do: "accept-keep"}) }()
		far.expect(action{Do: "open", To: mustAddr("10.77.0.1:9000")}, "", "hello")
		if o := <-done; o.Err != "" {
			t.Fatalf("the agent got %+v", o)
		}
		must(t, g.Replace(a.id, &policy.Network{Ingress: []string{"10.77.0.0/24:9001"}}))
		w.settle()
		far.expect(action{Do: "say"}, silence, "")
		if o := p.do(action{Do: "hear"}); o.Err != silence {
			t.Errorf("the agent heard %+v after its rules were narrowed", o)
		}
	})
}

// everyAddress is the wildcard address of the same family, on the same port.
func everyAddress(a netip.AddrPort) netip.AddrPort {
	if a.Addr().Is4() {
		return at(netip.IPv4Unspecified(), a.Port())
	}
	return at(netip.IPv6Unspecified(), a.Port())
}
