package policy

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"
)

// TestCanonicalIsRFC8785 compares our encoder with an independent one, on text that needs escapes.
func TestCanonicalIsRFC8785(t *testing.T) {
	p := &Policy{
		Syscalls:   map[string]SyscallAction{"write": SyscallLog, "bpf": SyscallDeny, "_sysctl": SyscallDeny},
		Filesystem: &Filesystem{Read: []string{"/a\"b", `/\\`, "/é€𝄞<>&\u2028", "/\u007f\u0001\n\t\b\f\r"}},
		Network:    &Network{},
		Resources:  &Resources{},
	}
	got := p.Canonical()
	want, err := jcs.Transform(got)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestCanonicalRoundTrip: what Canonical writes is read back to the same bytes, by both parsers, expanded or not.
func TestCanonicalRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		f := randomFilesystem(r)
		f.Read = append(f.Read, "~/x/**", "~")
		p := &Policy{Filesystem: f, Network: &Network{Egress: []string{"A.com", "10.0.0.0/8:1"}, Listen: []string{"80", "0.0.0.0"}, Ingress: []string{"80", "2001:DB8::/32"}}}
		expanded, err := p.Expand("/home/u")
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range []*Policy{p, expanded} {
			canonical := q.Canonical()
			again, err := ParseCanonical(canonical)
			if err != nil {
				t.Fatalf("%s: %v", canonical, err)
			}
			parsed, err := ParseIntent("x", canonical)
			if err != nil || parsed.Hash() != again.Hash() || again.Hash() != q.Hash() {
				t.Fatalf("%s: %v", canonical, err)
			}
		}
	}
}

func TestParseCanonicalIsExact(t *testing.T) {
	good := `{"filesystem":{"read":["/a","/b"]},"mode":"enforce","namespace":"default","on_violation":"block"}`
	if _, err := ParseCanonical([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":           "",
		"null":              "null",
		"space":             good + " ",
		"space inside":      strings.Replace(good, ":", ": ", 1),
		"more behind":       good + "{}",
		"order of keys":     `{"mode":"enforce","filesystem":{"read":["/a","/b"]},"namespace":"default","on_violation":"block"}`,
		"order of a list":   strings.Replace(good, `"/a","/b"`, `"/b","/a"`, 1),
		"twice in a list":   strings.Replace(good, `"/a","/b"`, `"/a","/a"`, 1),
		"twice a key":       strings.Replace(good, `"mode"`, `"mode":"audit","mode"`, 1),
		"case of a key":     strings.Replace(good, `"mode"`, `"Mode"`, 1),
		"unknown key":       strings.Replace(good, `"mode"`, `"a":1,"mode"`, 1),
		"default left out":  strings.Replace(good, `"mode"`, `"network":{"on_deny":"reject"},"mode"`, 1),
		"empty mode":        strings.Replace(good, `enforce`, ``, 1),
		"empty list":        strings.Replace(good, `"filesystem":{`, `"filesystem":{"exec":[],`, 1),
		"null section":      strings.Replace(good, `"mode"`, `"network":null,"mode"`, 1),
		"escape":            strings.Replace(good, `/a`, `\/a`, 1),
		"path not clean":    strings.Replace(good, `"/a"`, `"/a/"`, 1),
		"bad path":          strings.Replace(good, `"/a"`, `"a"`, 1),
		"bad mode":          strings.Replace(good, `enforce`, `off`, 1),
		"number as text":    strings.Replace(good, `"/a"`, `1`, 1),
		"not UTF-8":         strings.Replace(good, `/a`, "/\xff", 1),
		"lone surrogate":    strings.Replace(good, `/a`, `/\ud800`, 1),
		"deep":              strings.Repeat(`{"filesystem":`, 100000),
		"too large":         strings.Repeat(" ", MaxSize+1),
		"number with point": strings.Replace(good, `"on_violation":"block"`, `"on_violation":"block","resources":{"max_fds":1.0}`, 1),
	} {
		if p, err := ParseCanonical([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %s", name, p.Canonical())
		} else if problems := (Errors{}); !errors.Is(err, ErrNotCanonical) && !errors.As(err, &problems) && len(text) < MaxSize {
			t.Errorf("%s: %v is neither ErrNotCanonical nor Errors", name, err)
		}
	}
}

func TestExpand(t *testing.T) {
	p := files(`{filesystem: {read: ["~", ~/a, /b], deny: ["~/.ssh/**"]}, network: {unix: [~/s.sock]}}`)
	for home, want := range map[string]string{
		"/home/u":    `{"deny":["/home/u/.ssh/**"],"read":["/b","/home/u","/home/u/a"]}`,
		"/":          `{"deny":["/.ssh/**"],"read":["/","/a","/b"]}`,
		"/h*/{x},[]": `{"deny":["/h\\*/\\{x\\}\\,\\[\\]/.ssh/**"],"read":["/b","/h\\*/\\{x\\}\\,\\[\\]","/h\\*/\\{x\\}\\,\\[\\]/a"]}`,
	} {
		expanded, err := p.Expand(home)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(expanded.Canonical()); !strings.Contains(got, `"filesystem":`+want) {
			t.Errorf("%s: %s", home, got)
		}
		rules := expanded.FileRules()
		inside := strings.TrimSuffix(home, "/")
		if rules.Decide(inside+"/a", Read).Verdict != VerdictAllow || rules.Decide(inside+"/.ssh/k", Read).Verdict != VerdictBlock {
			t.Errorf("%s: rules do not hold in the home folder", home)
		}
		if again, err := expanded.Expand("/other"); err != nil || again.Hash() != expanded.Hash() {
			t.Errorf("%s: expanding twice changes the policy", home)
		}
	}
	for _, home := range []string{"", "home", "/a/", "/a/../b", "/\xff", "/a\nb", "~"} {
		if _, err := p.Expand(home); !errors.Is(err, ErrHome) {
			t.Errorf("%q: %v", home, err)
		}
	}
}
