package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/raypher/raypher/policy"
)

// upstream is a resolver that answers from a zone file and notes what it was asked.
type upstream struct {
	records []dns.RR
	rcode   int
	spoil   func(*dns.Msg) // changes an answer before it is sent

	mu    sync.Mutex
	asked []string
}

func (u *upstream) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	q := r.Question[0]
	u.mu.Lock()
	u.asked = append(u.asked, strings.ToLower(q.Name))
	u.mu.Unlock()
	m := new(dns.Msg)
	m.SetRcode(r, u.rcode)
	owner := q.Name
	for range 20 {
		next := ""
		for _, rr := range u.records {
			if !strings.EqualFold(rr.Header().Name, owner) {
				continue
			}
			if rr.Header().Rrtype == q.Qtype || rr.Header().Rrtype == dns.TypeCNAME {
				m.Answer = append(m.Answer, rr)
			}
			if c, ok := rr.(*dns.CNAME); ok {
				next = c.Target
			}
		}
		if next == "" {
			break
		}
		owner = next
	}
	if u.spoil != nil {
		u.spoil(m)
	}
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		m.Truncate(512)
	}
	w.WriteMsg(m)
}

// questions are what it was asked so far.
func (u *upstream) questions() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Clone(u.asked)
}

func (u *upstream) forget() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked = nil
}

func (u *upstream) start(t testing.TB) string {
	t.Helper()
	p, l := bothNetworks(t)
	for _, s := range []*dns.Server{{PacketConn: p, Handler: u}, {Listener: l, Handler: u}} {
		ready := make(chan struct{})
		s.NotifyStartedFunc = func() { close(ready) }
		go s.ActivateAndServe()
		<-ready
		t.Cleanup(func() { s.Shutdown() })
	}
	return p.LocalAddr().String()
}

// bothNetworks listens on one port over UDP and TCP: a port that is free for one may be taken for the other.
func bothNetworks(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	var taken error
	for range 20 {
		p, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", p.LocalAddr().String())
		if err == nil {
			return p, l
		}
		p.Close()
		taken = err
	}
	t.Fatal(taken)
	return nil, nil
}

// forwarder is a running one, with everything it told others.
type forwarder struct {
	server *Server
	mu     sync.Mutex
	grants []string
	asked  []string
	told   []Query
}

func start(t *testing.T, a Agent, o Options) *forwarder {
	t.Helper()
	f := &forwarder{}
	if o.Lookup == nil {
		o.Lookup = func(uint8, netip.AddrPort, netip.AddrPort) (Agent, bool) { return a, a.CgroupID != 0 }
	}
	o.Grant = func(cgroup uint64, name string, addr netip.Addr, port uint16, ttl time.Duration) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.grants = append(f.grants, fmt.Sprintf("%d %s %s:%d %v", cgroup, name, addr, port, ttl))
		if name == "full.example.com" {
			return errors.New("no room")
		}
		return nil
	}
	o.Asked = func(_ uint64, name string, addr netip.Addr) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.asked = append(f.asked, name+" "+addr.String())
	}
	o.Report = func(q Query) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.told = append(f.told, q)
	}
	var err error
	if f.server, err = Listen(o); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.server.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return f
}

func (f *forwarder) ask(t *testing.T, network, name string, qtype uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	q.SetEdns0(1232, false)
	c := dns.Client{Net: network, Timeout: 6 * time.Second}
	m, _, err := c.Exchange(q, fmt.Sprintf("127.0.0.1:%d", f.server.Port()))
	if err != nil {
		t.Fatalf("%s %s over %s: %v", name, dns.TypeToString[qtype], network, err)
	}
	return m
}

func zone(t testing.TB, lines ...string) []dns.RR {
	t.Helper()
	var all []dns.RR
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rr)
	}
	return all
}

func many(n int) []string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf("many.example.com. 60 IN A 192.0.2.%d", i+1))
	}
	return all
}

// TestAnswers is the specification of what an agent is told, what that opens, and what is reported and asked upstream.
func TestAnswers(t *testing.T) {
	u := &upstream{records: zone(t, append(many(60),
		"api.example.com. 300 IN A 192.0.2.1",
		"api.example.com. 20 IN A 192.0.2.2",
		"api.example.com. 300 IN AAAA 2001:db8::1",
		"api.example.com. 300 IN TXT \"secret\"",
		"www.example.com. 300 IN CNAME edge.cdn.test.",
		"edge.cdn.test. 30 IN CNAME node7.cdn.test.",
		"node7.cdn.test. 300 IN A 192.0.2.7",
		"loop.example.com. 300 IN CNAME loop2.example.com.",
		"loop2.example.com. 300 IN CNAME loop.example.com.",
		"rebind.example.com. 1 IN A 127.0.0.1",
		"half.example.com. 1 IN A 169.254.169.254",
		"half.example.com. 1 IN A 192.0.2.9",
		"inner.example.com. 1 IN A 127.0.0.9",
		"lan.example.com. 60 IN A 10.1.2.3",
		"lan.example.com. 60 IN AAAA fd00::3",
		"carrier.example.com. 60 IN A 100.64.0.1",
		"net.example.com. 60 IN A 10.200.0.1",
		"nas.corp.test. 60 IN A 10.1.2.3",
		"nas.corp.test. 60 IN A 127.0.0.1",
		"nas.corp.test. 60 IN A 192.0.2.80",
		"ask.corp.test. 60 IN A 10.1.2.4",
		"ask.corp.test. 60 IN A 192.0.2.4",
		"askall.corp.test. 60 IN A 10.1.2.5",
		"alias.corp.test. 60 IN CNAME lan.example.com.",
		"zero.example.com. 0 IN A 192.0.2.5",
		"svc.example.com. 60 IN HTTPS 1 . alpn=h3,h2 ipv4hint=198.51.100.7 ech=AEX+DQ==",
		"svc.example.com. 60 IN SVCB 1 evil.test. ipv6hint=2001:db8::7",
		"svc.example.com. 60 IN MX 10 evil.test.",
		"_x._tcp.example.com. 60 IN SRV 0 0 443 evil.test.",
		"three.example.com. 60 IN CNAME three2.example.com.",
		"three2.example.com. 60 IN CNAME three3.example.com.",
		"three3.example.com. 60 IN CNAME three.example.com.",
		"mapped.example.com. 1 IN AAAA ::ffff:127.0.0.1",
		"long.example.com. 999999 IN A 192.0.2.3",
		"full.example.com. 60 IN A 192.0.2.4",
		"evil.test. 60 IN A 198.51.100.1",
	)...)}
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost\n10.9.8.7 api.local.example.com db # the office\nfe80::1%eth0 x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const agent = 7
	network := &policy.Network{Egress: []string{"*.example.com:443", "api.example.com:8443", "127.0.0.9/32:5432", "db", "10.200.0.0/16:22",
		"private nas.corp.test:445", "nas.corp.test:443", "private alias.corp.test"},
		RequireApproval: []string{"ask.corp.test:443", "private askall.corp.test:443"}}
	for _, c := range []struct {
		name   string
		mode   policy.Mode
		ask    string
		qtype  uint16
		rcode  int
		answer []string
		grants []string
		asked  []string // told of names that ask
		report string   // reason
		silent bool     // the upstream is not asked
	}{
		{name: "granted name", ask: "api.example.com.", qtype: dns.TypeA, answer: []string{"192.0.2.1 20", "192.0.2.2 20"},
			grants: []string{"7 api.example.com 192.0.2.1:443 1m0s", "7 api.example.com 192.0.2.1:8443 1m0s",
				"7 api.example.com 192.0.2.2:443 1m0s", "7 api.example.com 192.0.2.2:8443 1m0s"}},
		{name: "spelled otherwise", ask: "API.Example.COM.", qtype: dns.TypeAAAA, answer: []string{"2001:db8::1 30"},
			grants: []string{"7 api.example.com 2001:db8::1:443 5m0s", "7 api.example.com 2001:db8::1:8443 5m0s"}},
		{name: "aliases", ask: "www.example.com.", qtype: dns.TypeA, answer: []string{"192.0.2.7 30"},
			grants: []string{"7 www.example.com 192.0.2.7:443 1m0s"}},
		{name: "aliases in a circle", ask: "loop.example.com.", qtype: dns.TypeA, rcode: dns.RcodeServerFailure},
		{name: "other type of a granted name", ask: "api.example.com.", qtype: dns.TypeTXT, silent: true},
		{name: "long time to live", ask: "long.example.com.", qtype: dns.TypeA, answer: []string{"192.0.2.3 30"},
			grants: []string{"7 long.example.com 192.0.2.3:443 1h0m0s"}},
		{name: "guard is full", ask: "full.example.com.", qtype: dns.TypeA, rcode: dns.RcodeServerFailure,
			grants: []string{"7 full.example.com 192.0.2.4:443 1m0s"}},

		{name: "name not granted", ask: "evil.test.", qtype: dns.TypeA, rcode: dns.RcodeRefused, report: NotGranted, silent: true},
		{name: "data in a name", ask: "c2VjcmV0.exfil.evil.test.", qtype: dns.TypeTXT, rcode: dns.RcodeRefused, report: NotGranted, silent: true},
		{name: "the apex of a wildcard", ask: "example.com.", qtype: dns.TypeA, rcode: dns.RcodeRefused, report: NotGranted, silent: true},
		{name: "reverse lookup", ask: "1.2.0.192.in-addr.arpa.", qtype: dns.TypePTR, rcode: dns.RcodeRefused, report: NotGranted, silent: true},
		{name: "the root", ask: ".", qtype: dns.TypeNS, rcode: dns.RcodeRefused, report: NotGranted, silent: true},
		{name: "unprintable name", ask: "a\\000b.evil.test.", qtype: dns.TypeA, rcode: dns.RcodeRefused, report: NotGranted, silent: true},

		{name: "rebinding", ask: "rebind.example.com.", qtype: dns.TypeA, rcode: dns.RcodeRefused, report: "answer points to 127.0.0.1 (loopback)"},
		{name: "rebinding, mapped", ask: "mapped.example.com.", qtype: dns.TypeAAAA, rcode: dns.RcodeRefused, report: "answer points to ::ffff:127.0.0.1 (loopback)"},
		{name: "half rebinding", ask: "half.example.com.", qtype: dns.TypeA, answer: []string{"192.0.2.9 1"},
			grants: []string{"7 half.example.com 192.0.2.9:443 1m0s"}, report: "answer points to 169.254.169.254 (link-local, cloud metadata)"},
		{name: "reserved, but granted as an address", ask: "inner.example.com.", qtype: dns.TypeA, answer: []string{"127.0.0.9 1"}},

		{name: "a private network", ask: "lan.example.com.", qtype: dns.TypeA, rcode: dns.RcodeRefused, report: "answer points to 10.1.2.3 (private): a rule that says private opens it"},
		{name: "a private network, IPv6", ask: "lan.example.com.", qtype: dns.TypeAAAA, rcode: dns.RcodeRefused, report: "answer points to fd00::3 (private): a rule that says private opens it"},
		{name: "a carrier's network", ask: "carrier.example.com.", qtype: dns.TypeA, rcode: dns.RcodeRefused, report: "answer points to 100.64.0.1 (shared): a rule that says private opens it"},
		{name: "private, but granted as an address", ask: "net.example.com.", qtype: dns.TypeA, answer: []string{"10.200.0.1 30"}},
		{name: "a rule that says private, beside one that does not", ask: "nas.corp.test.", qtype: dns.TypeA,
			answer: []string{"10.1.2.3 30", "192.0.2.80 30"},
			grants: []string{"7 nas.corp.test 10.1.2.3:445 1m0s",
				"7 nas.corp.test 192.0.2.80:445 1m0s", "7 nas.corp.test 192.0.2.80:443 1m0s"},
			report: "answer points to 127.0.0.1 (loopback)"},
		{name: "the asked name's rule counts for an alias", ask: "alias.corp.test.", qtype: dns.TypeA, answer: []string{"10.1.2.3 30"},
			grants: []string{"7 alias.corp.test 10.1.2.3:0 1m0s"}},
		{name: "asked about", ask: "ask.corp.test.", qtype: dns.TypeA, answer: []string{"192.0.2.4 30"}, asked: []string{"ask.corp.test 192.0.2.4"},
			report: "answer points to 10.1.2.4 (private): a rule that says private opens it"},
		{name: "asked about, private", ask: "askall.corp.test.", qtype: dns.TypeA, answer: []string{"10.1.2.5 30"}, asked: []string{"askall.corp.test 10.1.2.5"}},

		{name: "no time to live", ask: "zero.example.com.", qtype: dns.TypeA, answer: []string{"192.0.2.5 0"},
			grants: []string{"7 zero.example.com 192.0.2.5:443 1m0s"}},
		{name: "HTTPS", ask: "svc.example.com.", qtype: dns.TypeHTTPS, silent: true},
		{name: "SVCB", ask: "svc.example.com.", qtype: dns.TypeSVCB, silent: true},
		{name: "MX", ask: "svc.example.com.", qtype: dns.TypeMX, silent: true},
		{name: "SRV", ask: "_x._tcp.example.com.", qtype: dns.TypeSRV, silent: true},
		{name: "ANY", ask: "api.example.com.", qtype: dns.TypeANY, silent: true},
		{name: "CNAME", ask: "www.example.com.", qtype: dns.TypeCNAME, silent: true},
		{name: "NULL", ask: "api.example.com.", qtype: dns.TypeNULL, silent: true},
		{name: "a circle of three", ask: "three.example.com.", qtype: dns.TypeA, rcode: dns.RcodeServerFailure},

		{name: "hosts file", ask: "db.", qtype: dns.TypeA, answer: []string{"10.9.8.7 0"}, grants: []string{"7 db 10.9.8.7:0 1m0s"}, silent: true},
		{name: "hosts file, other family", ask: "db.", qtype: dns.TypeAAAA, silent: true},
		{name: "hosts file, not granted", ask: "localhost.", qtype: dns.TypeA, rcode: dns.RcodeRefused, report: NotGranted, silent: true},

		{name: "audit", mode: policy.Audit, ask: "evil.test.", qtype: dns.TypeA, answer: []string{"198.51.100.1 30"}, report: NotGranted},
		{name: "audit, rebinding", mode: policy.Audit, ask: "rebind.example.com.", qtype: dns.TypeA, answer: []string{"127.0.0.1 1"}, report: "answer points to 127.0.0.1 (loopback)"},
		{name: "permissive", mode: policy.Permissive, ask: "evil.test.", qtype: dns.TypeA, answer: []string{"198.51.100.1 30"}},
	} {
		for _, transport := range []string{"udp", "tcp"} {
			t.Run(c.name+"/"+transport, func(t *testing.T) {
				mode := c.mode
				if mode == "" {
					mode = policy.Enforce
				}
				u.forget()
				f := start(t, Agent{CgroupID: agent, Network: network, Mode: mode}, Options{Upstreams: []string{u.start(t)}, Hosts: hosts})
				m := f.ask(t, transport, c.ask, c.qtype)
				if m.Rcode != c.rcode {
					t.Errorf("rcode %s, want %s", dns.RcodeToString[m.Rcode], dns.RcodeToString[c.rcode])
				}
				if got := shown(m); !slices.Equal(got, c.answer) {
					t.Errorf("answer %q, want %q", got, c.answer)
				}
				f.mu.Lock()
				defer f.mu.Unlock()
				if !slices.Equal(f.asked, c.asked) {
					t.Errorf("asked %q, want %q", f.asked, c.asked)
				}
				if !slices.Equal(f.grants, c.grants) {
					t.Errorf("grants %q, want %q", f.grants, c.grants)
				}
				if c.report == "" {
					if len(f.told) != 0 {
						t.Errorf("reports %+v, want none", f.told)
					}
				} else if len(f.told) != 1 || f.told[0].Reason != c.report || f.told[0].CgroupID != agent || f.told[0].Protocol != transport ||
					(c.ask != "." && f.told[0].Name+"." != strings.ToLower(c.ask)) {
					t.Errorf("reports %+v, want one: %s", f.told, c.report)
				}
				if c.silent && len(u.questions()) > 0 {
					t.Errorf("the upstream was asked %q; it must not be", u.questions())
				}
			})
		}
	}
}

func shown(m *dns.Msg) []string {
	var all []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			all = append(all, fmt.Sprintf("%s %d", rr.A, rr.Hdr.Ttl))
		case *dns.AAAA:
			a, _ := netip.AddrFromSlice(rr.AAAA)
			all = append(all, fmt.Sprintf("%s %d", a.Unmap(), rr.Hdr.Ttl))
		default:
			all = append(all, rr.String())
		}
	}
	return all
}

// TestUpstreams: what becomes of an answer when upstreams fail, lie or cut.
func TestUpstreams(t *testing.T) {
	good := zone(t, append(many(60), "api.example.com. 60 IN A 192.0.2.1")...)
	network := &policy.Network{Egress: []string{"*.example.com"}}
	dead, err := net.ListenPacket("udp", "127.0.0.1:0") // takes questions and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	for _, c := range []struct {
		name    string
		first   *upstream // nil: silent
		ask     string
		rcode   int
		answers int
	}{
		{"the first is silent", nil, "api.example.com.", dns.RcodeSuccess, 1},
		{"the first fails", &upstream{rcode: dns.RcodeServerFailure}, "api.example.com.", dns.RcodeSuccess, 1},
		{"the first says there is none", &upstream{rcode: dns.RcodeNameError}, "api.example.com.", dns.RcodeNameError, 0},
		{"answers another question", &upstream{records: good, spoil: func(m *dns.Msg) { m.Question[0].Name = "evil.test." }}, "api.example.com.", dns.RcodeSuccess, 1},
		{"adds another name's address", &upstream{records: good, spoil: func(m *dns.Msg) {
			m.Answer = append(m.Answer, zone(t, "evil.test. 60 IN A 198.51.100.66")...)
		}}, "api.example.com.", dns.RcodeSuccess, 1},
		{"cut over udp, whole over tcp", &upstream{records: good}, "many.example.com.", dns.RcodeSuccess, 60},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := dead.LocalAddr().String()
			if c.first != nil {
				first = c.first.start(t)
			}
			f := start(t, Agent{CgroupID: 1, Network: network}, Options{Upstreams: []string{first, (&upstream{records: good}).start(t)}})
			m := f.ask(t, "tcp", c.ask, dns.TypeA)
			if m.Rcode != c.rcode || len(m.Answer) != c.answers {
				t.Errorf("%s with %d answers, want %s with %d", dns.RcodeToString[m.Rcode], len(m.Answer), dns.RcodeToString[c.rcode], c.answers)
			}
		})
	}
	t.Run("all are silent", func(t *testing.T) {
		f := start(t, Agent{CgroupID: 1, Network: network}, Options{Upstreams: []string{dead.LocalAddr().String()}, Timeout: 300 * time.Millisecond})
		if m := f.ask(t, "udp", "api.example.com.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s, want SERVFAIL", dns.RcodeToString[m.Rcode])
		}
	})
}

func TestBigAnswerIsCutForDatagrams(t *testing.T) {
	u := &upstream{records: zone(t, many(60)...)}
	f := start(t, Agent{CgroupID: 1, Network: &policy.Network{Egress: []string{"*.example.com"}}}, Options{Upstreams: []string{u.start(t)}})
	q := new(dns.Msg)
	q.SetQuestion("many.example.com.", dns.TypeA) // without EDNS: 512 bytes
	m, _, err := new(dns.Client).Exchange(q, fmt.Sprintf("127.0.0.1:%d", f.server.Port()))
	if err != nil {
		t.Fatal(err)
	}
	if !m.Truncated || len(m.Answer) >= 60 { // the client reads no more than 512 bytes
		t.Errorf("truncated %v, %d addresses; want a cut answer", m.Truncated, len(m.Answer))
	}
}

func TestOthersAreRefused(t *testing.T) {
	u := &upstream{records: zone(t, "api.example.com. 60 IN A 192.0.2.1")}
	f := start(t, Agent{}, Options{Upstreams: []string{u.start(t)}})
	if m := f.ask(t, "udp", "api.example.com.", dns.TypeA); m.Rcode != dns.RcodeRefused {
		t.Errorf("somebody who is no agent got %s, want REFUSED", dns.RcodeToString[m.Rcode])
	}
	if len(u.questions()) != 0 || len(f.told) != 0 {
		t.Errorf("upstream asked %q, reports %+v; want neither", u.questions(), f.told)
	}
}

// TestReportsAreFolded: equal questions become one report and a count, and a flood of different ones is counted.
func TestReportsAreFolded(t *testing.T) {
	f := start(t, Agent{CgroupID: 3}, Options{Upstreams: []string{"127.0.0.1:1"}})
	for range 10 {
		f.ask(t, "udp", "evil.test.", dns.TypeA)
	}
	for i := range 3 * reportsPerSecond {
		f.ask(t, "udp", fmt.Sprintf("x%d.evil.test.", i), dns.TypeA)
	}
	total := func() (n uint32, singles int) {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, q := range f.told {
			n += q.Count
		}
		return n, len(f.told)
	}
	const want = 10 + 3*reportsPerSecond
	for range 50 {
		if n, _ := total(); n >= want {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if n, singles := total(); n != want || singles >= want {
		t.Errorf("%d reports stand for %d questions, want fewer for all %d", singles, n, want)
	}
}

func TestReserved(t *testing.T) {
	for _, c := range []struct {
		addr string
		want bool
	}{
		{"127.0.0.1", true}, {"127.255.255.254", true}, {"0.0.0.0", true}, {"169.254.169.254", true}, {"224.0.0.1", true},
		{"255.255.255.255", true}, {"100.100.100.200", true}, {"::1", true}, {"::", true}, {"::127.0.0.1", true},
		{"::ffff:127.0.0.1", true}, {"64:ff9b::7f00:1", true}, {"64:ff9b::a9fe:a9fe", true}, {"2002:7f00:1::", true},
		{"fe80::1", true}, {"fd00:ec2::254", true}, {"ff02::1", true},
		{"192.0.2.1", false}, {"10.0.0.1", false}, {"172.16.0.1", false}, {"2001:db8::1", false}, {"fd00::1", false}, {"64:ff9b::c000:201", false},
	} {
		if got := look(netip.MustParseAddr(c.addr), false).reserved; got != c.want {
			t.Errorf("%s is reserved: %v, want %v", c.addr, got, c.want)
		}
	}
}

func TestResolvConf(t *testing.T) {
	got := parseResolvConf(strings.NewReader("# x\nsearch corp\nnameserver 10.0.0.53\nnameserver fe80::1%eth0\nnameserver bad\n nameserver  2001:db8::53 \n"))
	want := []string{"10.0.0.53:53", "[fe80::1%eth0]:53", "[2001:db8::53]:53"}
	if !slices.Equal(got.servers, want) || !slices.Equal(got.search, []string{"corp"}) {
		t.Errorf("%q, want %q", got, want)
	}
}
