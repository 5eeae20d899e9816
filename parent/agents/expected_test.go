package agents

import (
	"fmt"
	"testing"
)

// TestPermitsAreRemembered: what was granted is expected again on the same rules of the same program and user, and of nobody
// else, and what is remembered is bounded.
func TestPermitsAreRemembered(t *testing.T) {
	var p permits
	a := &Agent{asked: []byte("policy"), manifest: []byte("manifest"), user: "u", name: "n", digest: []byte("program")}
	if got := p.of(a); string(got) != "policy" {
		t.Errorf("at first %q is expected", got)
	}
	p.keep(a, []byte("permit"))
	if got := p.of(a); string(got) != "permit" {
		t.Errorf("then %q", got)
	}
	for _, other := range []*Agent{
		{asked: []byte("policymanifest"), user: "u", name: "n", digest: []byte("program")},
		{asked: []byte("policy"), manifest: []byte("manifest"), user: "v", name: "n", digest: []byte("program")},
		{asked: []byte("policy"), manifest: []byte("manifest"), user: "u", name: "m", digest: []byte("program")},
		{asked: []byte("policy"), manifest: []byte("manifest"), user: "u", name: "n"},
	} {
		if got := p.of(other); string(got) != string(other.asked) {
			t.Errorf("of another one %q", got)
		}
	}
	p.keep(a, []byte("policy"))
	if got := p.of(a); string(got) != "policy" || len(p.known) != 0 {
		t.Errorf("at last %q, %d remembered", got, len(p.known))
	}
	for i := range 3 * maxPermits {
		p.keep(&Agent{asked: fmt.Append(nil, i)}, []byte("permit"))
	}
	if len(p.known) > maxPermits {
		t.Errorf("%d are remembered", len(p.known))
	}
}
