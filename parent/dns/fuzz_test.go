package dns

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/raypher/raypher/policy"
)

// FuzzQuestion: whatever an agent sends, there is an answer that can be sent back, with the ID and question of what was asked; it has
// addresses of granted names alone, and only those were opened.
func FuzzQuestion(f *testing.F) {
	hosts := filepath.Join(f.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("192.0.2.1 api.example.com\n2001:db8::1 api.example.com\n192.0.2.2 evil.test\n"), 0o644); err != nil {
		f.Fatal(err)
	}
	for _, name := range []string{"api.example.com.", "API.example.com.", "evil.test.", ".", "x.y.example.com."} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS, dns.TypeANY, dns.TypePTR} {
			m := new(dns.Msg)
			m.SetQuestion(name, qtype)
			plain, err := m.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(plain)
			m.SetEdns0(4096, true)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1223344556"}}
			if plain, err = m.Pack(); err != nil {
				f.Fatal(err)
			}
			f.Add(plain)
			f.Add(plain[:12])
		}
	}
	var opened []string
	s, err := Listen(Options{Upstreams: []string{"127.0.0.1:1"}, Hosts: hosts, Timeout: 50 * time.Millisecond,
		Grant: func(_ uint64, name string, _ netip.Addr, _ uint16, _ time.Duration) error {
			opened = append(opened, name)
			return nil
		}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.shut)
	agent := Agent{CgroupID: 1, Network: &policy.Network{Egress: []string{"*.example.com"}}}
	f.Fuzz(func(t *testing.T, packed []byte) {
		q := new(dns.Msg)
		if q.Unpack(packed) != nil {
			return // the library answers
		}
		opened = nil
		s.limits.forget(time.Now().Add(2 * agentQuiet)) // each input for itself
		m := s.answer(context.Background(), agent, q, "udp")
		m.Truncate(dns.MinMsgSize)
		raw, err := m.Pack()
		if err != nil || len(raw) > dns.MinMsgSize+len(packed) {
			t.Fatalf("%d bytes, %v: %v", len(raw), err, m)
		}
		if m.Id != q.Id || !m.Response || len(q.Question) == 1 && (len(m.Question) != 1 || m.Question[0] != q.Question[0]) {
			t.Errorf("%v answers %v", m, q)
		}
		for _, rr := range m.Answer {
			if !strings.EqualFold(rr.Header().Name, "api.example.com.") {
				t.Errorf("answered: %v", rr)
			}
		}
		for _, name := range opened {
			if name != "api.example.com" || len(m.Answer) == 0 && !m.Truncated {
				t.Errorf("opened: %q, answered %v", name, m)
			}
		}
	})
}

// FuzzAnswer: no bytes of an upstream are taken for the answer to another question, and none make the forwarder panic.
func FuzzAnswer(f *testing.F) {
	q := new(dns.Msg)
	q.SetQuestion("api.example.com.", dns.TypeA)
	q.Id = 7
	m := new(dns.Msg)
	m.SetReply(q)
	for _, line := range []string{"api.example.com. 1 IN A 192.0.2.1", "api.example.com. 1 IN AAAA 2001:db8::1", "api.example.com. 1 IN CNAME b.test.", "b.test. 1 IN CNAME api.example.com.", "b.test. 4294967295 IN A 10.0.0.1"} {
		rr, err := dns.NewRR(line)
		if err != nil {
			f.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
		packed, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed)
		f.Add(packed[:len(packed)-5])
		f.Add(packed[:12])
	}
	f.Fuzz(func(t *testing.T, packed []byte) {
		m := new(dns.Msg)
		if m.Unpack(packed) != nil || !answers(m, q) {
			return
		}
		if m.Id != 7 || !m.Response || len(m.Question) == 1 && !strings.EqualFold(m.Question[0].Name, "api.example.com.") {
			t.Errorf("taken for an answer: %v", m)
		}
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			c := newChain("api.example.com", qtype)
			_ = c.follow(m)
			if len(c.addrs) > maxAddresses || len(c.names) > maxChain || c.ttl < 0 || c.ttl > maxGrant || noneFor(m) < 0 {
				t.Errorf("%+v of %v", c, m)
			}
			for _, a := range c.addrs {
				if a.Is4() != (qtype == dns.TypeA) {
					t.Errorf("an address of another type: %v", a)
				}
			}
		}
	})
}

// FuzzResolvConf: whatever the file says, there are bounds.
func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 10.0.0.53\nsearch a.test b.test.\ndomain c.test\noptions ndots:5\n")
	f.Add("search\nnameserver\nnameserver ::1%lo\n# x\n; y")
	f.Fuzz(func(t *testing.T, text string) {
		conf := parseResolvConf(strings.NewReader(text))
		if len(conf.servers) > maxUpstreams || len(conf.search) > maxSearch {
			t.Errorf("%+v", conf)
		}
		for _, s := range conf.servers {
			if _, err := netip.ParseAddrPort(s); err != nil {
				t.Errorf("server %q: %v", s, err)
			}
		}
	})
}
