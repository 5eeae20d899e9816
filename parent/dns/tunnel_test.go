package dns

import (
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/raypher/raypher/policy"
)

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// tunnels make names as tunnelling clients do: each carries the next bytes below t.example.com.
var tunnels = map[string]func(r *rand.Rand) string{
	// iodine: the longest name that fits, in labels of 57 bytes, base32 in lower case.
	"iodine": func(r *rand.Rand) string {
		text := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(random(r, 135)))
		var labels []string
		for len(text) > 57 {
			labels, text = append(labels, text[:57]), text[57:]
		}
		return strings.Join(append(labels, text), ".")
	},
	// dnscat2: hexadecimal digits in labels of up to 60 bytes.
	"dnscat2": func(r *rand.Rand) string {
		text := hex.EncodeToString(random(r, 90))
		return text[:60] + "." + text[60:120] + "." + text[120:]
	},
	// One short enough for every other limit.
	"patient": func(r *rand.Rand) string { return hex.EncodeToString(random(r, 15)) },
	"labels":  func(r *rand.Rand) string { return strings.ToLower(base32.StdEncoding.EncodeToString(random(r, 35))) },
}

// TestTunnels: of what tunnelling clients ask below a granted wildcard, little leaves the host, and each refusal is reported.
func TestTunnels(t *testing.T) {
	reasons := map[string]string{"iodine": TooLong, "dnscat2": TooLong, "patient": TooManyNames, "labels": TooRandom}
	const asked = namesAtOnce + 40
	for name, next := range tunnels {
		t.Run(name, func(t *testing.T) {
			u := &upstream{}
			f := start(t, Agent{CgroupID: 5, Network: &policy.Network{Egress: []string{"*.t.example.com"}}}, Options{Upstreams: []string{u.start(t)}})
			r := rand.New(rand.NewPCG(1, 2))
			refused := 0
			for range asked {
				if m := f.ask(t, "udp", next(r)+".t.example.com.", dns.TypeA); m.Rcode == dns.RcodeRefused {
					refused++
				}
			}
			most := 0
			if reasons[name] == TooManyNames {
				most = namesAtOnce + 2 // a slow machine refills one or two meanwhile
			}
			if len(u.questions()) > most+asked/20 || refused < asked-most-asked/20 {
				t.Errorf("%d of %d names left the host, %d were refused; want at most %d", len(u.questions()), asked, refused, most)
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.told) == 0 || f.told[0].Reason != reasons[name] {
				t.Errorf("reported: %+v, want %q", f.told, reasons[name])
			}
		})
	}
}

// TestLimits is what the limits let by and what they do not, on a clock of the test's.
func TestLimits(t *testing.T) {
	now := time.Unix(1e9, 0)
	wild := []policy.Endpoint{{Host: "*.example.com"}}
	l := newLimits()
	for _, name := range []string{ // of the world as it is
		"www.example.com", "d111111abcdef8.example.com", "rr5---sn-4g5e6nsy.example.com", "ip-10-0-0-1.eu-central-1.compute.example.com",
		"0a1b2c3d4e5f60718293a4b5c6d7e8f9.gr7.us-east-1.example.com", "xn--bcher-kva.example.com",
		"my-project-git-feature-improve-the-checkout-page-my-team.example.com", "search-domain-x4k2j7q9w8e1r5t3.eu-west-1.es.example.com",
	} {
		if why := l.name(1, name, wild, now); why != "" {
			t.Errorf("%s: %s", name, why)
		}
	}
	long := strings.Repeat("a", 60) + "." + strings.Repeat("b", 60)
	for _, c := range []struct {
		name  string
		rules []policy.Endpoint
		want  string
	}{
		{long + ".example.com", wild, TooLong},
		{long + ".example.com", []policy.Endpoint{{Host: "*.example.com"}, {Host: long + ".example.com"}}, ""}, // spelled out
		{long + ".example.com", []policy.Endpoint{{Host: "*.example.com"}, {Host: "*." + strings.Repeat("b", 60) + ".example.com"}}, ""},
		{long + ".example.com", nil, ""}, // default_action: allow
		{"mzxw6ytboi4dcmrtgq2tmnzyhe3wqzlmmrxw.example.com", wild, TooRandom},
		{"mzxw6ytboi4dcmrtgq2tmnzyhe3wqzl.example.com", wild, ""}, // one byte shorter than what is looked at
	} {
		if got := l.name(1, c.name, c.rules, now); got != c.want {
			t.Errorf("%s by %v: %q, want %q", c.name, c.rules, got, c.want)
		}
	}

	l = newLimits()
	fill := func(agent uint64, domain string, at time.Time) (n int) {
		for ; n < 10*namesAtOnce && l.name(agent, fmt.Sprintf("n%d-%d.%s", at.Unix(), n, domain), []policy.Endpoint{{Host: "*." + domain}}, at) == ""; n++ {
		}
		return n
	}
	if n := fill(1, "example.com", now); n != namesAtOnce {
		t.Errorf("%d names at once, want %d", n, namesAtOnce)
	}
	if why := l.name(1, fmt.Sprintf("n%d-0.example.com", now.Unix()), wild, now); why != "" {
		t.Errorf("a name that was asked before: %s", why)
	}
	if n := fill(1, "example.org", now); n != namesAtOnce {
		t.Errorf("%d names below another wildcard, want %d", n, namesAtOnce)
	}
	if n := fill(2, "example.com", now); n != namesAtOnce {
		t.Errorf("%d names of another agent, want %d", n, namesAtOnce)
	}
	if n := fill(1, "example.com", now.Add(time.Minute)); n != 10 {
		t.Errorf("%d names after a minute, want 10", n)
	}
	for i := range 3 * maxKnown { // what is known is bounded
		l.name(3, fmt.Sprintf("m%d.example.net", i), []policy.Endpoint{{Host: "*.example.net"}}, now.Add(time.Duration(i)*nameEvery))
	}
	if n := len(l.agents[3].known); n > maxKnown {
		t.Errorf("%d names are known, at most %d", n, maxKnown)
	}
	n := 0
	for ; n < 10*questionsAtOnce && l.question(9, now); n++ {
	}
	if n != questionsAtOnce {
		t.Errorf("%d questions at once, want %d", n, questionsAtOnce)
	}
	n = 0
	for ; n < 10*questionsAtOnce && l.question(9, now.Add(time.Second)); n++ {
	}
	if n < questionsPerSecond-1 || n > questionsPerSecond {
		t.Errorf("%d questions a second later, want %d", n, questionsPerSecond)
	}
	l.forget(now.Add(10 * time.Hour))
	if len(l.agents) != 0 && len(l.agents) != 1 { // agent 3 asked for hours
		t.Errorf("%d agents are remembered", len(l.agents))
	}
}

// TestTooManyQuestions: an agent that floods is answered REFUSED without its questions leaving the host, and others are served.
func TestTooManyQuestions(t *testing.T) {
	u := &upstream{records: zone(t, "api.example.com. 60 IN A 192.0.2.1")}
	f := start(t, Agent{CgroupID: 5, Network: &policy.Network{Egress: []string{"api.example.com"}}}, Options{Upstreams: []string{u.start(t)}})
	now := time.Now()
	for n := 0; n < 10*questionsAtOnce && f.server.limits.question(5, now); n++ {
	}
	f.server.limits.mu.Lock()
	f.server.limits.agents[5].questions.at = now.Add(time.Hour) // no refill while the test looks
	f.server.limits.mu.Unlock()
	if m := f.ask(t, "udp", "api.example.com.", dns.TypeA); m.Rcode != dns.RcodeRefused {
		t.Errorf("%s, want REFUSED", dns.RcodeToString[m.Rcode])
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(u.questions()) != 0 || len(f.told) != 1 || f.told[0].Reason != TooMany {
		t.Errorf("upstream asked %q, reported %+v", u.questions(), f.told)
	}
	if !f.server.limits.question(6, now) {
		t.Error("another agent pays for it")
	}
}

// TestAskedAgain: a name below a wildcard is not asked for again soon, whatever its time to live; one that a rule spells out is.
func TestAskedAgain(t *testing.T) {
	u := &upstream{records: zone(t, "x.example.com. 0 IN A 192.0.2.1", "api.example.com. 0 IN A 192.0.2.1")}
	f := start(t, Agent{CgroupID: 5, Network: &policy.Network{Egress: []string{"*.example.com", "api.example.com"}}}, Options{Upstreams: []string{u.start(t)}})
	for _, name := range []string{"x.example.com.", "api.example.com."} {
		for range 2 {
			f.ask(t, "udp", name, dns.TypeA)
			c := f.server.upstreams.cache
			c.mu.Lock()
			for key, e := range c.of { // ten seconds pass
				e.at = e.at.Add(-10 * time.Second)
				c.of[key] = e
			}
			c.mu.Unlock()
		}
	}
	if want := []string{"x.example.com.", "api.example.com.", "api.example.com."}; !slices.Equal(u.questions(), want) {
		t.Errorf("the upstream was asked %q, want %q", u.questions(), want)
	}
}
