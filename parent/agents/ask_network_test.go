package agents

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// TestResolvedNamesAreBounded: what an agent has resolved does not fill raypherd's memory, neither by names nor by addresses.
func TestResolvedNamesAreBounded(t *testing.T) {
	var r resolvedNames
	one := netip.MustParseAddr("192.0.2.1")
	for i := range 10_000 {
		r.add(fmt.Sprintf("n%d.example.com", i), one)
	}
	if names := r.names(one); len(names) != maxNamesOf || !slices.Contains(names, "n9999.example.com") {
		t.Errorf("of one address %d names are kept, want the last %d: %v", len(names), maxNamesOf, names)
	}
	addr := netip.MustParseAddr("198.18.0.0")
	for range 10_000 {
		addr = addr.Next()
		r.add("example.com", addr)
	}
	if len(r.of) > maxResolved || !slices.Contains(r.names(addr), "example.com") {
		t.Errorf("%d addresses are kept, want at most %d, with the last", len(r.of), maxResolved)
	}
}
