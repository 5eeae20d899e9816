package pattern

import (
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/enclave/ceiling"
)

func TestSet(t *testing.T) {
	s, err := Parse([]string{"web-?", "build-*", "build-*", "db.example"})
	if err != nil || s.String() != "build-*,db.example,web-?" || !slices.Equal(Stored(s.String()).List(), s.List()) {
		t.Fatalf("%s, %v", s, err)
	}
	for host, want := range map[string]bool{
		"build-1": true, "build-": true, "web-1": true, "db.example": true,
		"web-12": false, "abuild-1": false, "db-example": false, "db.example.org": false, "": false, "BUILD-1": false,
	} {
		if s.Has(host) != want || Stored(s.String()).Has(host) != want {
			t.Errorf("%q: %v", host, !want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, patterns := range map[string][]string{
		"none": nil, "an empty one": {"a", ""}, "a comma": {"a,b"}, "a line": {"a\n"}, "a slash": {"a/b"}, "no ASCII": {"ä"},
		"too long": {strings.Repeat("a", MaxPattern+1)}, "too long together": numbered(MaxPatterns), "too many": slices.Repeat([]string{"a"}, MaxPatterns+1),
	} {
		if s, err := Parse(patterns); err == nil {
			t.Errorf("%s: %s", name, s)
		}
	}
}

func numbered(n int) (patterns []string) {
	for i := range n {
		patterns = append(patterns, strings.Repeat("a", 16+i))
	}
	return patterns
}

// FuzzParse: whatever is taken is stored and read as the same set, which the store's text can hold.
func FuzzParse(f *testing.F) {
	f.Add("build-*", "web-?", "build-1")
	f.Add("*", "a,b", "")
	f.Fuzz(func(t *testing.T, one, two, host string) {
		s, err := Parse([]string{one, two})
		if err != nil {
			return
		}
		again := Stored(s.String())
		if !slices.Equal(again.List(), s.List()) || again.Has(host) != s.Has(host) || len(s.String()) > MaxSet {
			t.Errorf("%q is read as %q", s, again)
		}
		if s.Has(host) != (ceiling.Match(one, host) || ceiling.Match(two, host)) {
			t.Errorf("%q and %q: %q is in the set: %v", one, two, host, s.Has(host))
		}
	})
}
