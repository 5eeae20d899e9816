package netguard

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// TestIngress: who opens a flow to an agent is named by its policy, address and port together; the agent answers and does not begin, and a
// narrower policy ends what is open.
func TestIngress(t *testing.T) {
	w := newWorld(t)
	w.capture(t)
	g := w.load(t, Options{Own: ownEnds})
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

// TestForgedSenders: whoever floods one agent with senders, forged or not, takes no answer from another agent.
func TestForgedSenders(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{})
	asked, flooded := w.newAgent(t, "asked"), w.newAgent(t, "flooded")
	arm(t, g, asked, &policy.Network{Ingress: []string{"10.77.0.0/24:9000"}}, policy.Enforce)
	arm(t, g, flooded, &policy.Network{Ingress: []string{"10.77.0.0/24:9001"}}, policy.Enforce)
	p, other := w.startProbe(t, asked.fd), w.startProbe(t, flooded.fd)
	p.expect(action{Do: "serve-udp", To: mustAddr("10.77.0.1:9000")}, "", "")
	other.expect(action{Do: "serve-udp", To: mustAddr("10.77.0.1:9001")}, "", "")
	w.in(t, w.far, func() {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(at(far4, 20000)), net.UDPAddrFromAddrPort(at(near4, 9000)))
		must(t, err)
		defer c.Close()
		_, err = c.Write([]byte("asked"))
		must(t, err)
		raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		must(t, err)
		defer unix.Close(raw)
		for i := range 40000 {
			must(t, unix.Sendto(raw, forged(far4, near4, uint16(1024+i), 9001), 0, &unix.SockaddrInet4{Addr: near4.As4()}))
		}
		if got := flowsAnswerable(t, g, flooded.id); got < 1000 {
			t.Fatalf("the flood did not come in: %d of its senders may be answered", got)
		}
		must(t, g.Replace(asked.id, &policy.Network{Ingress: []string{"10.77.0.0/24:9000", "10.77.0.0/24:9002"}}))
		p.expect(action{Do: "answer-udp"}, "", "asked")
		must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
		b := make([]byte, 16)
		n, err := c.Read(b)
		if err != nil || string(b[:n]) != "asked" {
			t.Errorf("the other agent's answer: %q, %v", b[:n], err)
		}
	})
	must(t, g.Disarm(flooded.id))
	if rooms := g.rooms(t); rooms != 1 {
		t.Errorf("%d agents have room for answers, 1 listens", rooms)
	}
}

// forged is a datagram of a sender's choice: whoever may use raw sockets sends it.
func forged(from, to netip.Addr, port, toPort uint16) []byte {
	b := []byte{0x45, 0, 0, 29, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, toPort)
	return append(b, 0, 9, 0, 0, 'x')
}

// flowsAnswerable is how many senders an agent may answer.
func flowsAnswerable(t *testing.T, g *Guard, id uint64) (n int) {
	e, err := g.entry(id)
	must(t, err)
	var room *ebpf.Map
	must(t, g.maps.Replies.Lookup(e.Slot, &room))
	defer room.Close()
	info, err := room.Info()
	must(t, err)
	if bytes, ok := info.Memlock(); ok {
		t.Logf("room for answers takes %d KiB", bytes>>10)
	}
	var key [24]byte
	var last uint64
	for it := room.Iterate(); it.Next(&key, &last); {
		n++
	}
	return n
}

// rooms is how many agents have room for answers.
func (g *Guard) rooms(t *testing.T) (n int) {
	var slot uint32
	var room *ebpf.Map
	for it := g.maps.Replies.Iterate(); it.Next(&slot, &room); {
		n++
		room.Close()
	}
	return n
}

// everyAddress is the wildcard address of the same family, on the same port.
func everyAddress(a netip.AddrPort) netip.AddrPort {
	if a.Addr().Is4() {
		return at(netip.IPv4Unspecified(), a.Port())
	}
	return at(netip.IPv6Unspecified(), a.Port())
}

// TestOwnPortByChance: who gets one of raypherd's ports without asking for it, while raypherd is away, is called by nobody there: agents would
// show it what they show raypherd.
func TestOwnPortByChance(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{Own: ownEnds})
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Ingress: []string{"127.0.0.1"}}, policy.Enforce)
	p, here := w.startProbe(t, a.fd), w.startProbe(t, -1)
	ports := func(which string) {
		w.in(t, w.near, func() {
			must(t, os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(which), 0))
		})
	}
	for port, want := range map[string]string{"50053": "", "50051": silence} {
		ports(port + " " + port)
		p.expect(action{Do: "listen", To: mustAddr("0.0.0.0:0")}, "", "")
		ports("50060 50090")
		to := mustAddr("127.0.0.1:" + port)
		done := make(chan outcome)
		go func() { done <- p.do(action{Do: "accept"}) }()
		heard := ""
		if want == "" {
			heard = "hello"
		}
		here.expect(action{Do: "from-tcp", To: to, Path: "127.0.0.1"}, want, heard)
		if o := <-done; o.Err != want {
			t.Errorf("port %s: the agent got %+v", port, o)
		}
		p.expect(action{Do: "unlisten"}, "", "")
	}
}
