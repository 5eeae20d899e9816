package netguard

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/raypher/raypher/parent/dns"
	"github.com/raypher/raypher/policy"
)

// resolver is an upstream that knows some addresses and notes what it was asked.
type resolver struct {
	addrs map[string]netip.Addr
	many  []netip.Addr // of many.example.com

	mu    sync.Mutex
	asked []string
}

func (r *resolver) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	name := strings.ToLower(q.Question[0].Name)
	r.mu.Lock()
	r.asked = append(r.asked, name)
	r.mu.Unlock()
	m := new(mdns.Msg)
	m.SetReply(q)
	if a, ok := r.addrs[name]; ok && q.Question[0].Qtype == mdns.TypeA {
		m.Answer = []mdns.RR{&mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 60}, A: a.AsSlice()}}
	}
	if name == "many.example.com." && q.Question[0].Qtype == mdns.TypeA {
		for _, a := range r.many {
			m.Answer = append(m.Answer, &mdns.A{Hdr: mdns.RR_Header{Name: q.Question[0].Name, Rrtype: mdns.TypeA, Class: mdns.ClassINET, Ttl: 60}, A: a.AsSlice()})
		}
	}
	w.WriteMsg(m)
}

// names runs a forwarder in the near namespace, with one upstream and one agent.
func (w *world) names(t *testing.T, up mdns.Handler, permit func(cgroup uint64) (dns.Agent, bool)) (*Guard, chan dns.Query) {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	server := &mdns.Server{PacketConn: p, Handler: up}
	go server.ActivateAndServe()
	t.Cleanup(func() { p.Close() })
	reports := make(chan dns.Query, 100)
	var f *dns.Server
	w.in(t, w.near, func() {
		var err error
		f, err = dns.Listen(dns.Options{Upstreams: []string{p.LocalAddr().String()}, ResolvConf: w.resolvConf, Report: func(q dns.Query) { reports <- q }})
		must(t, err)
	})
	g := w.load(t, Options{DNSPort: f.Port()})
	f.Bind(func(proto uint8, local, remote netip.AddrPort) (dns.Agent, bool) {
		id, ok := g.Peer(proto, local, remote)
		if !ok {
			return dns.Agent{}, false
		}
		return permit(id)
	}, g.GrantName)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return g, reports
}

// TestDNS: whichever server a program asks, by whatever transport, the forwarder answers in its name, opens what was granted
// and nothing else, and a name that carries data stays on the host.
func TestDNS(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	w.serve(t, w.far, mustAddr("10.77.0.2:53"))
	w.capture(t)
	up := &resolver{addrs: map[string]netip.Addr{"api.example.com.": far4, "evil.test.": second4, "rebind.example.com.": lo4}}
	network := &policy.Network{Egress: []string{"private *.example.com:80", "10.77.0.2/32:53"}}
	var a agent
	g, reports := w.names(t, up, func(id uint64) (dns.Agent, bool) {
		return dns.Agent{CgroupID: id, Network: network, Mode: policy.Enforce}, id == a.id
	})
	a = w.newAgent(t, "agent")
	arm(t, g, a, network, policy.Enforce)
	servers := []string{"10.77.0.2:53", "10.200.0.1:53", "127.0.0.53:53", "[fd77::2]:53", "[2001:db8::53]:53"}
	for _, server := range servers {
		for _, do := range []string{"lookup", "lookup-tcp"} {
			p := w.startProbe(t, a.fd)
			p.expect(action{Do: do, To: mustAddr(server), Path: "api.example.com"}, "", "[10.77.0.2]")
			if o := p.do(action{Do: do, To: mustAddr(server), Path: "c2VjcmV0.evil.test"}); o.Err == "" {
				t.Errorf("%s %s: a name that is not granted got %+v", do, server, o)
			}
		}
	}
	for _, want := range []string{"udp", "tcp"} {
		for q := range reports {
			if q.Protocol == want && q.Name == "c2vjcmv0.evil.test" && q.CgroupID == a.id && q.Reason == dns.NotGranted {
				break
			}
		}
	}
	up.mu.Lock()
	if slices.ContainsFunc(up.asked, func(n string) bool { return strings.Contains(n, "evil") }) {
		t.Errorf("the upstream was asked %q", up.asked)
	}
	up.mu.Unlock()
	if arrived, packets := w.forget(); len(arrived)+len(packets) != 0 {
		t.Errorf("DNS left the host: %q %q", arrived, packets)
	}

	p := w.startProbe(t, a.fd)
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, "", answer)
	if o := p.do(action{Do: "lookup", To: mustAddr("10.77.0.2:53"), Path: "rebind.example.com"}); o.Err == "" {
		t.Errorf("a name that points to loopback got %+v", o)
	}

	t.Run("addresses are those that the program used", func(t *testing.T) {
		for _, server := range []string{"10.200.0.1:53", "[2001:db8::53]:53"} {
			for _, do := range []string{"recvfrom", "peername"} {
				p.expect(action{Do: do, To: mustAddr(server), Path: "api.example.com"}, "", server)
			}
		}
		p.expect(action{Do: "recvfrom-mapped", To: mustAddr("10.200.0.1:53"), Path: "api.example.com"}, "", "[::ffff:10.200.0.1]:53")
		p.expect(action{Do: "peername-mapped", To: mustAddr("10.200.0.1:53"), Path: "api.example.com"}, "", "[::ffff:10.200.0.1]:53")
	})

	t.Run("others are not served", func(t *testing.T) {
		outside := w.startProbe(t, -1)
		to := at(lo4, g.options.DNSPort)
		if o := outside.do(action{Do: "lookup", To: to, Path: "api.example.com"}); o.Err == "" {
			t.Errorf("somebody who is no agent got %+v", o)
		}
	})

	t.Run("an expired agent is not served", func(t *testing.T) {
		must(t, g.Renew(a.id, bootTime()-1))
		if o := p.do(action{Do: "lookup", To: mustAddr("10.77.0.2:53"), Path: "api.example.com"}); o.Err == "" {
			t.Errorf("past its deadline an agent got %+v", o)
		}
	})
}

// late is an upstream that answers when it is told to.
type late struct {
	*resolver
	asked, answer chan struct{}
}

func (l late) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	if q.Question[0].Qtype == mdns.TypeA {
		l.asked <- struct{}{}
		<-l.answer
	}
	l.resolver.ServeDNS(w, q)
}

// TestLateAnswer: what an answer says that comes after the rules were narrowed opens nothing that they do not grant any more, whoever delayed it.
func TestLateAnswer(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	for _, c := range []struct {
		name     string
		narrowed []string
		opens    bool
	}{
		{"the name is gone", []string{"private other.example.com:80"}, false},
		{"its port is gone", []string{"private api.example.com:81"}, false},
		{"no private addresses", []string{"api.example.com:80"}, false},
		{"below another name", []string{"private *.example.com:80"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := late{&resolver{addrs: map[string]netip.Addr{"api.example.com.": far4}}, make(chan struct{}), make(chan struct{})}
			network := &policy.Network{Egress: []string{"private api.example.com:80"}}
			var a agent
			g, _ := w.names(t, up, func(id uint64) (dns.Agent, bool) {
				return dns.Agent{CgroupID: id, Network: network, Mode: policy.Enforce}, id == a.id
			})
			a = w.newAgent(t, "agent")
			arm(t, g, a, network, policy.Enforce)
			p := w.startProbe(t, a.fd)
			got := make(chan outcome, 1)
			go func() { got <- p.do(action{Do: "lookup", To: mustAddr("10.77.0.2:53"), Path: "api.example.com"}) }()
			<-up.asked
			must(t, g.Replace(a.id, &policy.Network{Egress: c.narrowed}))
			close(up.answer)
			if o := <-got; (o.Err == "") != c.opens {
				t.Errorf("the program got %+v", o)
			}
			if o := p.do(action{Do: "tcp", To: mustAddr("10.77.0.2:80"), Data: "hello"}); (o.Err == "") != c.opens {
				t.Errorf("the address: %+v", o)
			}
		})
	}
}

// TestPeer: raypherd knows which agent is behind a connection to its own port, and that others are none.
func TestPeer(t *testing.T) {
	w := newWorld(t)
	var l net.Listener
	w.in(t, w.near, func() {
		var err error
		l, err = net.Listen("tcp", "127.0.0.1:50051")
		must(t, err)
	})
	defer l.Close()
	g := w.load(t, Options{Own: ownEnds})
	agents := []agent{w.newAgent(t, "a"), w.newAgent(t, "b")}
	for _, a := range agents {
		arm(t, g, a, nil, policy.Enforce)
	}
	for _, c := range []struct {
		name string
		fd   int
		want uint64
	}{{"a", agents[0].fd, agents[0].id}, {"b", agents[1].fd, agents[1].id}, {"nobody", -1, 0}} {
		p := w.startProbe(t, c.fd)
		done := make(chan outcome)
		go func() { done <- p.do(action{Do: "open", To: mustAddr("127.0.0.1:50051"), Data: "hello"}) }()
		conn, err := l.Accept()
		must(t, err)
		local, remote := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		if id, ok := g.Peer(6, local, remote); id != c.want || ok != (c.want != 0) {
			t.Errorf("%s: Peer says %d, %v; want %d", c.name, id, ok, c.want)
		}
		if id, ok := g.Peer(17, local, remote); ok {
			t.Errorf("%s: over another protocol Peer says %d", c.name, id)
		}
		must(t, second(conn.Write([]byte(answer))))
		if o := <-done; o.Data != answer {
			t.Errorf("%s got %+v", c.name, o)
		}
		if c.want == 0 {
			conn.Close()
			continue
		}
		p.cmd.Process.Kill()
		p.cmd.Wait()
		time.Sleep(peerClosed + 100*time.Millisecond)
		if id, ok := g.Peer(6, local, remote); ok {
			t.Errorf("%s: long after its end Peer says %d", c.name, id)
		}
		conn.Close()
	}
}

func second[A any](_ A, err error) error { return err }
