package policy

import (
	"strings"
	"testing"
)

// TestIsolateNarrows: a namespace of its own takes something from an agent, so who asks for it is within who does not, and who stands
// below one that does gets it unasked.
func TestIsolateNarrows(t *testing.T) {
	section := map[bool]string{true: "network: {isolate: true, egress: [a.com]}", false: "network: {isolate: false, egress: [a.com]}"}
	for _, tt := range []struct{ outer, inner, isolate bool }{
		{false, false, false}, {false, true, true}, {true, false, true}, {true, true, true},
	} {
		outer, inner := parsed(t, section[tt.outer]), parsed(t, section[tt.inner])
		got, err := Narrow(outer, inner)
		if err != nil {
			t.Fatalf("%+v: %v", tt, err)
		}
		if got.Network.Isolate != tt.isolate {
			t.Errorf("%+v: narrowed to isolate %v", tt, got.Network.Isolate)
		}
		if again, err := ParseCanonical(got.Canonical()); err != nil || again.Network.Isolate != tt.isolate {
			t.Errorf("%+v: the canonical form says otherwise: %v", tt, err)
		}
		if beyond := Difference(inner, outer); (len(beyond) > 0) != (tt.outer && !tt.inner) {
			t.Errorf("%+v: difference %v", tt, beyond)
		}
	}
	inherited, err := Narrow(parsed(t, section[true]), parsed(t, "namespace: default"))
	if err != nil || !inherited.Network.Isolate {
		t.Errorf("without a section of its own: %+v, %v", inherited, err)
	}
}

func TestIsolateIsTold(t *testing.T) {
	with, without := parsed(t, "network: {isolate: true}"), parsed(t, "network: {isolate: false}")
	if string(without.Canonical()) != string(parsed(t, "network: {}").Canonical()) {
		t.Error("isolate: false changes the hash")
	}
	if string(with.Canonical()) == string(without.Canonical()) {
		t.Error("isolate: true does not change the hash")
	}
	told := func(p *Policy) bool {
		for _, line := range p.Explain().Lines {
			if strings.Contains(line.What, "isolate") {
				return true
			}
		}
		return false
	}
	if !told(with) || told(without) {
		t.Error("explain does not say which of them isolates")
	}
	if _, err := Parse("p.yaml", []byte("network:\n  isolate: yes please\n")); err == nil || !strings.Contains(err.Error(), "p.yaml:2:12") {
		t.Errorf("a value that is no truth: %v", err)
	}
}

func parsed(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse("p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}
