package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/raypher/raypher/policy"
)

var exampleNames = Agent{CgroupID: 1, Network: &policy.Network{Egress: []string{"*.example.com"}}}

// raw is an upstream that is a function: what it is sent over UDP, and how it answers from where it likes. TCP answers honestly.
func rawUpstream(t *testing.T, udp func(p net.PacketConn, from net.Addr, q *dns.Msg)) (string, *upstream) {
	t.Helper()
	honest := &upstream{records: zone(t, append(many(60), "api.example.com. 60 IN A 192.0.2.1")...)}
	p, l := bothNetworks(t)
	s := &dns.Server{Listener: l, Handler: honest}
	ready := make(chan struct{})
	s.NotifyStartedFunc = func() { close(ready) }
	go s.ActivateAndServe()
	<-ready
	t.Cleanup(func() { s.Shutdown(); p.Close() })
	go func() {
		b := make([]byte, 65535)
		for {
			n, from, err := p.ReadFrom(b)
			if err != nil {
				return
			}
			q := new(dns.Msg)
			if q.Unpack(b[:n]) == nil {
				udp(p, from, q)
			}
		}
	}()
	return p.LocalAddr().String(), honest
}

func addressAnswer(t *testing.T, q *dns.Msg, addr string) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Answer = zone(t, m.Question[0].Name+" 60 IN A "+addr)
	return m
}

func send(t *testing.T, p net.PacketConn, to net.Addr, m *dns.Msg) {
	packed, err := m.Pack()
	if err != nil {
		t.Error(err)
	}
	p.WriteTo(packed, to)
}

// TestLyingUpstreams: what is not the answer to the question is passed over, wherever it comes from and however much of it; the
// true answer is found behind it.
func TestLyingUpstreams(t *testing.T) {
	const lie, truth = "198.51.100.66", "192.0.2.1"
	liar := func(t *testing.T, spoil func(*dns.Msg)) func(net.PacketConn, net.Addr, *dns.Msg) {
		return func(p net.PacketConn, from net.Addr, q *dns.Msg) {
			m := addressAnswer(t, q, lie)
			spoil(m)
			send(t, p, from, m)
			send(t, p, from, addressAnswer(t, q, truth))
		}
	}
	elsewhere, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	for name, udp := range map[string]func(*testing.T) func(net.PacketConn, net.Addr, *dns.Msg){
		"another ID": func(t *testing.T) func(net.PacketConn, net.Addr, *dns.Msg) {
			return liar(t, func(m *dns.Msg) { m.Id++ })
		},
		"another name": func(t *testing.T) func(net.PacketConn, net.Addr, *dns.Msg) {
			return liar(t, func(m *dns.Msg) { m.Question[0].Name = "evil.test." })
		},
		"another type": func(t *testing.T) func(net.PacketConn, net.Addr, *dns.Msg) {
			return liar(t, func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA })
		},
		"no question": func(t *testing.T) func(net.PacketConn, net.Addr, *dns.Msg) {
			return liar(t, func(m *dns.Msg) { m.Question = nil })
		},
		"a question itself": func(t *testing.T) func(net.PacketConn, net.Addr, *dns.Msg) {
			return liar(t, func(m *dns.Msg) { m.Response = false })
		},
		"another port": func(t *testing.T) func(net.PacketConn, net.Addr, *dns.Msg) {
			return func(p net.PacketConn, from net.Addr, q *dns.Msg) {
				send(t, elsewhere, from, addressAnswer(t, q, lie))
				send(t, p, from, addressAnswer(t, q, truth))
			}
		},
		"garbage": func(t *testing.T) func(net.PacketConn, net.Addr, *dns.Msg) {
			return func(p net.PacketConn, from net.Addr, q *dns.Msg) {
				p.WriteTo([]byte("garbage"), from)
				p.WriteTo(nil, from)
				send(t, p, from, addressAnswer(t, q, truth))
			}
		},
		"a flood of guesses": func(t *testing.T) func(net.PacketConn, net.Addr, *dns.Msg) {
			return func(p net.PacketConn, from net.Addr, q *dns.Msg) {
				for i := range 2 * maxStrays {
					m := addressAnswer(t, q, lie)
					m.Id += uint16(i) + 1
					send(t, p, from, m)
				}
			}
		},
		"an address of another name in its answer": func(t *testing.T) func(net.PacketConn, net.Addr, *dns.Msg) {
			return func(p net.PacketConn, from net.Addr, q *dns.Msg) {
				m := addressAnswer(t, q, truth)
				m.Answer = append(m.Answer, zone(t, "evil.test. 60 IN A "+lie)...)
				m.Extra = append(m.Extra, zone(t, "api.example.com. 60 IN A "+lie)...)
				m.Ns = append(m.Ns, zone(t, "api.example.com. 60 IN A "+lie)...)
				send(t, p, from, m)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, _ := rawUpstream(t, udp(t))
			f := start(t, exampleNames, Options{Upstreams: []string{server}})
			m := f.ask(t, "udp", "api.example.com.", dns.TypeA)
			if got := shown(m); !slices.Equal(got, []string{truth + " 30"}) {
				t.Errorf("%s %q, want %s alone", dns.RcodeToString[m.Rcode], got, truth)
			}
		})
	}
}

// TestOutOfOrder: answers that come in another order than their questions reach those who asked.
func TestOutOfOrder(t *testing.T) {
	var mu sync.Mutex
	var waiting []func()
	server, _ := rawUpstream(t, func(p net.PacketConn, from net.Addr, q *dns.Msg) {
		var n int
		fmt.Sscanf(q.Question[0].Name, "n%d.", &n)
		mu.Lock()
		defer mu.Unlock()
		waiting = append(waiting, func() { send(t, p, from, addressAnswer(t, q, fmt.Sprintf("192.0.2.%d", n))) })
		if len(waiting) == 8 {
			for _, f := range slices.Backward(waiting) {
				f()
			}
		}
	})
	f := start(t, exampleNames, Options{Upstreams: []string{server}})
	var all sync.WaitGroup
	for n := 1; n <= 8; n++ {
		all.Go(func() {
			m := f.ask(t, "udp", fmt.Sprintf("n%d.example.com.", n), dns.TypeA)
			if got := shown(m); !slices.Equal(got, []string{fmt.Sprintf("192.0.2.%d 30", n)}) {
				t.Errorf("n%d: %q", n, got)
			}
		})
	}
	all.Wait()
}

// TestPorts: each question to an upstream comes from another port and has another ID.
func TestPorts(t *testing.T) {
	var mu sync.Mutex
	ports, ids := map[string]bool{}, map[uint16]bool{}
	server, _ := rawUpstream(t, func(p net.PacketConn, from net.Addr, q *dns.Msg) {
		mu.Lock()
		ports[from.String()], ids[q.Id] = true, true
		mu.Unlock()
		send(t, p, from, addressAnswer(t, q, "192.0.2.1"))
	})
	f := start(t, exampleNames, Options{Upstreams: []string{server}})
	for i := range 20 {
		f.ask(t, "udp", fmt.Sprintf("n%d.example.com.", i), dns.TypeA)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(ports) < 15 || len(ids) < 15 {
		t.Errorf("%d ports and %d IDs for 20 questions", len(ports), len(ids))
	}
}

// TestQuestionsAreMadeAnew: what an agent puts around its question, spelling included, stays on the host.
func TestQuestionsAreMadeAnew(t *testing.T) {
	came := make(chan *dns.Msg, 8)
	server, _ := rawUpstream(t, func(p net.PacketConn, from net.Addr, q *dns.Msg) {
		came <- q
		send(t, p, from, addressAnswer(t, q, "192.0.2.1"))
	})
	f := start(t, exampleNames, Options{Upstreams: []string{server}})
	q := new(dns.Msg)
	q.SetQuestion("ApI.exAmPle.cOM.", dns.TypeA)
	q.SetEdns0(4096, true)
	q.CheckingDisabled, q.AuthenticatedData, q.Authoritative = true, true, true
	opt := q.IsEdns0()
	opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1223344556"},
		&dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 32, Address: net.IP{203, 0, 113, 9}},
		&dns.EDNS0_LOCAL{Code: dns.EDNS0LOCALSTART, Data: []byte("secret")}, &dns.EDNS0_PADDING{Padding: []byte("secret")})
	q.Extra = append(q.Extra, zone(t, "data.evil.test. 1 IN TXT secret")...)
	m, _, err := new(dns.Client).Exchange(q, fmt.Sprintf("127.0.0.1:%d", f.server.Port()))
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Answer) != 1 || m.Answer[0].Header().Name != "ApI.exAmPle.cOM." {
		t.Errorf("answer %v", m)
	}
	if opt := m.IsEdns0(); opt == nil || len(opt.Option) != 0 {
		t.Errorf("options in the answer: %v", opt)
	}
	seen, want := <-came, new(dns.Msg)
	want.SetQuestion("api.example.com.", dns.TypeA)
	want.Id = seen.Id
	want.SetEdns0(maxDatagram, false)
	if seen.String() != want.String() {
		t.Errorf("the upstream saw\n%s\nwant\n%s", seen, want)
	}
}

// TestMalformedQuestions: messages that are no question end in an answer that says so or in silence, and the forwarder serves on.
func TestMalformedQuestions(t *testing.T) {
	u := &upstream{records: zone(t, "api.example.com. 60 IN A 192.0.2.1")}
	f := start(t, exampleNames, Options{Upstreams: []string{u.start(t)}})
	good := new(dns.Msg)
	good.SetQuestion("api.example.com.", dns.TypeA)
	pack := func(change func(*dns.Msg)) []byte {
		m := good.Copy()
		change(m)
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	head := func(counts ...uint16) []byte {
		b := []byte{0, 1, 1, 0}
		for _, n := range counts {
			b = binary.BigEndian.AppendUint16(b, n)
		}
		return b
	}
	silent := -1
	for _, c := range []struct {
		name  string
		raw   []byte
		rcode int
	}{
		{"a head that announces a question and has none", head(1, 0, 0, 0), dns.RcodeFormatError},
		{"no question", head(0, 0, 0, 0), dns.RcodeFormatError},
		{"two questions", pack(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		{"half a question", append(head(1, 0, 0, 0), 3, 'a', 'p'), dns.RcodeFormatError},
		{"a name that points to itself", append(head(1, 0, 0, 0), 0xc0, 12, 0, 1, 0, 1), dns.RcodeFormatError},
		{"an answer", pack(func(m *dns.Msg) { m.Response = true }), silent},
		{"an update", pack(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		{"a notification", pack(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), dns.RcodeNotImplemented},
		{"half a head", []byte{0, 1, 1}, silent},
		{"EDNS version 1", pack(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), dns.RcodeBadVers},
		{"class CHAOS", pack(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeSuccess},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", f.server.Port()))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			good, err := good.Pack() // is answered in any case, after it
			if err != nil {
				t.Fatal(err)
			}
			binary.BigEndian.PutUint16(good, 0xabcd)
			conn.Write(c.raw)
			conn.Write(good)
			got, b := silent, make([]byte, 4096)
			for range 2 {
				n, err := conn.Read(b)
				if err != nil {
					t.Fatalf("the forwarder is silent: %v", err)
				}
				m := new(dns.Msg)
				if err := m.Unpack(b[:n]); err != nil {
					t.Fatal(err)
				}
				if m.Id != 0xabcd {
					got = m.Rcode
					if len(m.Answer) > 0 {
						t.Errorf("it has records: %v", m)
					}
				}
				if c.rcode == silent {
					break
				}
			}
			if got != c.rcode {
				t.Errorf("rcode %d, want %d", got, c.rcode)
			}
		})
	}
}

// TestUpstreamBeforeEDNS: one that does not know EDNS is asked without.
func TestUpstreamBeforeEDNS(t *testing.T) {
	server, _ := rawUpstream(t, func(p net.PacketConn, from net.Addr, q *dns.Msg) {
		m := addressAnswer(t, q, "192.0.2.1")
		if q.IsEdns0() != nil {
			m = new(dns.Msg)
			m.SetRcodeFormatError(q)
			m.Question = nil
		}
		send(t, p, from, m)
	})
	f := start(t, exampleNames, Options{Upstreams: []string{server}})
	if m := f.ask(t, "udp", "api.example.com.", dns.TypeA); len(m.Answer) != 1 {
		t.Errorf("%v", m)
	}
}

// TestCache: equal questions are one question to the upstream while its answer lives, also at once; the time to live that is
// handed on only falls; another type, another name and a failure are no hit.
func TestCache(t *testing.T) {
	ctx := context.Background()
	c, asked := newCache(), 0
	answer := resolved{addrs: nil, ttl: time.Minute}
	ask := func(context.Context, string, uint16) (resolved, error) { asked++; return answer, nil }
	c.resolve(ctx, "a.example.com", dns.TypeA, minKept, ask)
	c.resolve(ctx, "a.example.com", dns.TypeA, minKept, ask)
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	c.resolve(ctx, "a.example.com", dns.TypeAAAA, minKept, ask)
	c.resolve(ctx, "b.example.com", dns.TypeA, minKept, ask)
	if asked != 3 {
		t.Errorf("asked %d times, want 3", asked)
	}
	fails := func(context.Context, string, uint16) (resolved, error) { asked++; return resolved{}, errChain }
	for range 2 {
		if _, err := c.resolve(ctx, "c.example.com", dns.TypeA, minKept, fails); err == nil {
			t.Error("a failure is lost")
		}
	}
	if asked != 5 {
		t.Errorf("a failure is kept")
	}

	now := time.Now()
	for _, tt := range []struct {
		name  string
		ttl   time.Duration
		some  bool
		least time.Duration
		after time.Duration
		kept  bool
		left  time.Duration
	}{
		{"young", time.Minute, true, minKept, 20 * time.Second, true, 40 * time.Second},
		{"over", time.Minute, true, minKept, 61 * time.Second, false, 0},
		{"no time to live, asked again at once", 0, true, minKept, time.Second / 2, true, 0},
		{"no time to live, later", 0, true, minKept, 2 * time.Second, false, 0},
		{"no time to live, below a wildcard", 0, true, minBelow, 29 * time.Second, true, 0},
		{"no time to live, below a wildcard, later", 0, true, minBelow, 31 * time.Second, false, 0},
		{"long", 48 * time.Hour, true, minKept, 61 * time.Minute, false, 0},
		{"none", time.Hour, false, minKept, 31 * time.Second, false, 0},
		{"none, young", time.Hour, false, minKept, 29 * time.Second, true, time.Hour - 29*time.Second},
	} {
		found := resolved{ttl: tt.ttl}
		if tt.some {
			found.addrs = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		}
		key := cacheKey{tt.name, dns.TypeA}
		c.keep(key, found, now)
		got, kept := c.look(key, tt.least, now.Add(tt.after))
		if kept != tt.kept || kept && got.ttl != tt.left {
			t.Errorf("%s: kept %v, ttl %v; want %v, %v", tt.name, kept, got.ttl, tt.kept, tt.left)
		}
	}
	for i := range 3 * maxCached {
		c.keep(cacheKey{fmt.Sprint(i), dns.TypeA}, answer, now)
	}
	if len(c.of) > maxCached {
		t.Errorf("%d answers are kept, at most %d", len(c.of), maxCached)
	}

	t.Run("at once", func(t *testing.T) {
		release, questions := make(chan struct{}), make(chan struct{}, 100)
		server, _ := rawUpstream(t, func(p net.PacketConn, from net.Addr, q *dns.Msg) {
			questions <- struct{}{}
			go func() {
				<-release
				send(t, p, from, addressAnswer(t, q, "192.0.2.1"))
			}()
		})
		f := start(t, exampleNames, Options{Upstreams: []string{server}})
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if m := f.ask(t, "udp", "api.example.com.", dns.TypeA); len(m.Answer) != 1 {
					t.Errorf("%v", m)
				}
			})
		}
		<-questions
		close(release)
		all.Wait()
		if n := len(questions); n != 0 {
			t.Errorf("the upstream was asked %d more times", n)
		}
	})
}

// TestFailedUpstreamIsLast: an upstream that just failed is not waited for again.
func TestFailedUpstreamIsLast(t *testing.T) {
	first, second := &upstream{rcode: dns.RcodeServerFailure}, &upstream{records: zone(t, many(1)...)}
	f := start(t, exampleNames, Options{Upstreams: []string{first.start(t), second.start(t)}})
	for i := range 5 {
		f.ask(t, "udp", fmt.Sprintf("n%d.example.com.", i), dns.TypeA)
	}
	if len(first.questions()) != 1 || len(second.questions()) != 5 {
		t.Errorf("the one that fails was asked %d times, the other %d", len(first.questions()), len(second.questions()))
	}
}

// TestSearchDomains: what the C library makes of a granted name with the host's search list does not exist, without being asked for
// and without a report; other names of those domains are refused as all are. The file is read again when it changed.
func TestSearchDomains(t *testing.T) {
	u := &upstream{records: zone(t, "api.example.com. 60 IN A 192.0.2.1", "db. 60 IN A 192.0.2.2", "nas.corp.test. 60 IN A 192.0.2.3")}
	server := u.start(t)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\nsearch Ns.svc.cluster.local. corp.test\noptions ndots:5\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f := start(t, Agent{CgroupID: 1, Network: &policy.Network{Egress: []string{"*.example.com:443", "db", "nas.corp.test"}}},
		Options{Upstreams: []string{server}, ResolvConf: conf})
	for name, want := range map[string]int{
		"api.example.com.ns.svc.cluster.local.": dns.RcodeNameError,
		"api.example.com.corp.test.":            dns.RcodeNameError,
		"db.corp.test.":                         dns.RcodeNameError,
		"DB.Corp.Test.":                         dns.RcodeNameError,
		"api.example.com.":                      dns.RcodeSuccess,
		"nas.corp.test.":                        dns.RcodeSuccess,
		"corp.test.":                            dns.RcodeRefused,
		"other.corp.test.":                      dns.RcodeRefused,
		"secret.db.corp.test.":                  dns.RcodeRefused,
		"db.other.test.":                        dns.RcodeRefused,
		"api.example.com.evil.test.":            dns.RcodeRefused,
	} {
		if m := f.ask(t, "udp", name, dns.TypeA); m.Rcode != want {
			t.Errorf("%s: %s, want %s", name, dns.RcodeToString[m.Rcode], dns.RcodeToString[want])
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.told) != 5 {
		t.Errorf("%d reports, want 5: %+v", len(f.told), f.told)
	}
	asked := u.questions()
	slices.Sort(asked)
	if !slices.Equal(asked, []string{"api.example.com.", "nas.corp.test."}) {
		t.Errorf("the upstream was asked %q", asked)
	}
}

// TestHostsFileChanges: what the hosts file says counts from the moment it is written.
func TestHostsFileChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	u := &upstream{records: zone(t, "db.example.com. 60 IN A 192.0.2.1")}
	f := start(t, exampleNames, Options{Upstreams: []string{u.start(t)}, Hosts: path})
	for _, step := range []struct{ content, want string }{
		{"", "192.0.2.1 30"}, {"10.0.0.1 db.example.com\n", "10.0.0.1 0"}, {"10.0.0.2 db.example.com\n", "10.0.0.2 0"}, {"\n", "192.0.2.1 30"},
	} {
		if err := os.WriteFile(path, []byte(step.content), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := shown(f.ask(t, "udp", "db.example.com.", dns.TypeA)); !slices.Equal(got, []string{step.want}) {
			t.Errorf("with %q: %q, want %s", step.content, got, step.want)
		}
	}
}
