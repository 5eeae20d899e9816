package dns

import (
	"slices"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

// TestRebinding: a server that answers with a public address first and with others later gets none of these opened or answered,
// however they are spelled, and each is reported.
func TestRebinding(t *testing.T) {
	var step atomic.Int32
	answers := [][]string{
		{"api.example.com. 0 IN A 192.0.2.1"},
		{"api.example.com. 0 IN A 127.0.0.1"},
		{"api.example.com. 0 IN A 10.0.0.1"},
		{"api.example.com. 0 IN A 0.0.0.0"},
		{"api.example.com. 0 IN CNAME localhost.", "localhost. 0 IN A 127.0.0.1"},
		{"api.example.com. 0 IN A 192.0.2.1", "api.example.com. 0 IN A 169.254.169.254", "api.example.com. 0 IN A 192.168.1.1"},
	}
	u := &upstream{spoil: func(m *dns.Msg) { m.Answer = zone(t, answers[step.Load()]...) }}
	f := start(t, exampleNames, Options{Upstreams: []string{u.start(t)}})
	for i := range answers {
		step.Store(int32(i))
		f.server.upstreams.cache.clear() // its time has passed
		m := f.ask(t, "udp", "api.example.com.", dns.TypeA)
		want, rcode := []string{"192.0.2.1 0"}, dns.RcodeSuccess
		if i > 0 && i < len(answers)-1 {
			want, rcode = nil, dns.RcodeRefused
		}
		if got := shown(m); m.Rcode != rcode || !slices.Equal(got, want) {
			t.Errorf("%q: %s %q, want %s %q", answers[i], dns.RcodeToString[m.Rcode], got, dns.RcodeToString[rcode], want)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if want := []string{"1 api.example.com 192.0.2.1:0 1m0s", "1 api.example.com 192.0.2.1:0 1m0s"}; !slices.Equal(f.grants, want) {
		t.Errorf("opened %q, want %q", f.grants, want)
	}
	var reasons []string
	for _, q := range f.told {
		if !slices.Contains(reasons, q.Reason) {
			reasons = append(reasons, q.Reason)
		}
	}
	if len(reasons) != 5 {
		t.Errorf("reported %q", reasons)
	}
}
