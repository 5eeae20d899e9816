package dns

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/miekg/dns"

	"github.com/raypher/raypher/policy"
)

// TestObserved: in mode audit each question for a name that is not granted is observed, not folded, with all of its answers and
// whether a name may open them. In the others none is.
func TestObserved(t *testing.T) {
	records := zone(t, "two.example. 60 IN A 192.0.2.1", "two.example. 60 IN A 192.0.2.2", "here.example. 60 IN A 127.0.0.1", "granted.example. 60 IN A 192.0.2.3")
	for _, mode := range []policy.Mode{policy.Audit, policy.Permissive, policy.Enforce} {
		t.Run(string(mode), func(t *testing.T) {
			u := &upstream{records: records}
			var mutex sync.Mutex
			var seen []string
			agent := Agent{CgroupID: 7, Mode: mode, Network: &policy.Network{Egress: []string{"granted.example:80"}}}
			f := start(t, agent, Options{Upstreams: []string{u.start(t)}, Observe: func(o Observation) {
				mutex.Lock()
				defer mutex.Unlock()
				seen = append(seen, fmt.Sprint(o.CgroupID, o.Name, o.Type, o.Answers))
			}})
			for _, name := range []string{"two.example.", "two.example.", "here.example.", "none.example.", "granted.example."} {
				f.ask(t, "udp", name, dns.TypeA)
			}
			var want []string
			if mode == policy.Audit {
				two := "7 two.example A [{192.0.2.1 false} {192.0.2.2 false}]"
				want = []string{two, two, "7 here.example A [{127.0.0.1 true}]", "7 none.example A []"}
			}
			mutex.Lock()
			defer mutex.Unlock()
			if got := normal(seen); !slices.Equal(got, normal(want)) {
				t.Errorf("observed %q, want %q", got, want)
			}
		})
	}
}

// normal are texts without the spaces between values that fmt.Sprint may leave out.
func normal(texts []string) []string {
	out := make([]string, 0, len(texts))
	for _, text := range texts {
		b := make([]rune, 0, len(text))
		for _, r := range text {
			if r != ' ' {
				b = append(b, r)
			}
		}
		out = append(out, string(b))
	}
	return out
}
