// Package pattern says which hosts of a fleet something is for: patterns of host names, as operators write them for secrets,
// ceilings and policies.
package pattern

import (
	"fmt"
	"slices"
	"strings"

	"github.com/raypher/raypher/enclave/ceiling"
)

// Bounds.
const (
	MaxPatterns = 64
	MaxPattern  = 128  // bytes, as the name of a host
	MaxSet      = 1024 // bytes of all together, with commas between them: it is a key in databases
)

// Set is patterns of host names in which * stands for any run of characters and ? for one: sorted, each once, at least one. A host
// is in the set if one of them matches its whole name.
type Set struct{ patterns []string }

// Parse checks patterns as an operator gave them.
func Parse(patterns []string) (Set, error) {
	if len(patterns) == 0 || len(patterns) > MaxPatterns {
		return Set{}, fmt.Errorf("%d patterns of hosts: give 1 to %d, \"*\" for all hosts", len(patterns), MaxPatterns)
	}
	for _, p := range patterns {
		if p == "" || len(p) > MaxPattern || strings.ContainsFunc(p, func(r rune) bool { return !possible(r) }) {
			return Set{}, fmt.Errorf("pattern of hosts %.140q: use 1 to %d bytes of a-z A-Z 0-9 . - _ * ?", p, MaxPattern)
		}
	}
	sorted := slices.Sorted(slices.Values(patterns))
	s := Set{slices.Compact(sorted)}
	if n := len(s.String()); n > MaxSet {
		return Set{}, fmt.Errorf("patterns of hosts: %d bytes together, at most %d: use * and ?", n, MaxSet)
	}
	return s, nil
}

func possible(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_*?", r)
}

// Stored reads what String wrote.
func Stored(text string) Set { return Set{strings.Split(text, ",")} }

// String is the one form of a set in which it is stored and named. No pattern has a comma.
func (s Set) String() string { return strings.Join(s.patterns, ",") }

// List is the patterns, for a reply.
func (s Set) List() []string { return slices.Clone(s.patterns) }

// Has says whether a host is in the set.
func (s Set) Has(host string) bool {
	return slices.ContainsFunc(s.patterns, func(p string) bool { return ceiling.Match(p, host) })
}
