package ceiling

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/raypher/raypher/internal/sign1"
	"github.com/raypher/raypher/policy"
)

const source1 = `
version: 3
trust_domain: prod.example.org
grants:
  - namespace: dev
    agents: ["build-*", coder]
    uids: [1000, 1001]
    users: [alice]
    max_ttl_seconds: 120
    permit:
      mode: enforce
      filesystem:
        read: ["/usr/**", "~/work/**"]
        exec: ["/usr/bin/*"]
      network:
        egress: ["example.com:443"]
  - namespace: "*"
    agents: ["*"]
    binaries: ["sha256:0101010101010101010101010101010101010101010101010101010101010101"]
    permit:
      mode: audit
`

func fromSource(t testing.TB, text string) *Ceiling {
	t.Helper()
	c, err := ParseSource("ceiling.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func operators(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"Ed25519": ed, "P-256": ec}
}

func public(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := PublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func sign(t testing.TB, c *Ceiling, key crypto.Signer) []byte {
	t.Helper()
	bundle, err := Sign(c, key)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

// What was signed is what is opened, with each kind of operator key, and no byte of it can be changed.
func TestSignAndOpen(t *testing.T) {
	c := fromSource(t, source1)
	for name, key := range operators(t) {
		t.Run(name, func(t *testing.T) {
			bundle := sign(t, c, key)
			got, err := Open(bundle, [][]byte{public(t, key)})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.payload(), c.payload()) || got.Version != 3 || len(got.Grants) != 2 || got.Grants[0].MaxTTLSeconds != 120 {
				t.Errorf("%+v", got)
			}
			for i := range bundle {
				bent := bytes.Clone(bundle)
				bent[i] ^= 1
				if _, err := Open(bent, [][]byte{public(t, key)}); err == nil {
					t.Fatalf("byte %d changed, and it opens", i)
				}
			}
			for _, other := range operators(t) {
				if _, err := Open(bundle, [][]byte{public(t, other)}); !errors.Is(err, ErrSignature) {
					t.Errorf("another operator key: %v", err)
				}
			}
			if _, err := Open(bundle, nil); !errors.Is(err, ErrSignature) {
				t.Errorf("no operator key: %v", err)
			}
		})
	}
}

// An ECDSA signature has a twin (r, n-s); only one of the two opens, so a bundle has one hash.
func TestSignatureHasOneForm(t *testing.T) {
	key := operators(t)["P-256"]
	bundle := sign(t, fromSource(t, source1), key)
	s := new(big.Int).SetBytes(bundle[len(bundle)-32:])
	s.Sub(elliptic.P256().Params().N, s)
	s.FillBytes(bundle[len(bundle)-32:])
	if _, err := Open(bundle, [][]byte{public(t, key)}); !errors.Is(err, ErrSignature) {
		t.Errorf("the twin of the signature: %v", err)
	}
}

func TestSourceRoundTrip(t *testing.T) {
	c := fromSource(t, source1)
	text, err := c.Source()
	if err != nil {
		t.Fatal(err)
	}
	if again := fromSource(t, string(text)); !bytes.Equal(again.payload(), c.payload()) {
		t.Errorf("the written source differs:\n%s", text)
	}
}

// A ceiling that requires attestation says so in bundle and source; one that does not has the bytes that it always had.
func TestRequireAttestation(t *testing.T) {
	key := operators(t)["P-256"]
	required, err := Open(sign(t, fromSource(t, "require_attestation: true"+source1), key), [][]byte{public(t, key)})
	if err != nil || !required.RequireAttestation {
		t.Fatalf("%+v, %v", required, err)
	}
	text, err := required.Source()
	if err != nil || !fromSource(t, string(text)).RequireAttestation {
		t.Errorf("%v:\n%s", err, text)
	}
	plain := fromSource(t, source1)
	if spelt := fromSource(t, "require_attestation: false"+source1); !bytes.Equal(spelt.payload(), plain.payload()) {
		t.Error("the default, spelt out, is another bundle")
	}
	if plain.payload()[0] != 0xa3 { // a map of 3
		t.Errorf("a ceiling without it begins with %#x", plain.payload()[0])
	}
}

// Every mistake is named with its place and what to do, all at once.
func TestSourceMistakes(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"version 0", "version: 3", "version: 0", "f:2:10: no version: write a number from 1"},
		{"no version", "version: 3\n", "", "f:2:1: version: no version"},
		{"unknown key", "trust_domain:", "trustdomain:", `f:3:1: unknown key "trustdomain": did you mean trust_domain?`},
		{"a key twice", "version: 3", "version: 3\nversion: 4", `f:3:1: key "version" stands twice, first in line 2`},
		{"no grants", source1[strings.Index(source1, "grants:"):], "grants: []", "f:4:9: 0 grants"},
		{"no agents", `agents: ["build-*", coder]`, "agents: []", "f:6:13: 0 patterns"},
		{"agents missing", "    agents: [\"*\"]\n", "", "f:17:5: grants[1].agents: 0 patterns"},
		{"bad uid", "[1000, 1001]", "[1000, alice]", `f:7:18: "alice" is no uid`},
		{"bad hash", "sha256:01", "sha256:0", "64 hexadecimal digits"},
		{"bad permit", "mode: enforce", "mode: lenient", `f:11:13: "lenient" is not known here: write enforce, audit or permissive`},
		{"in a permit", "egress:", "egres:", `f:16:9: unknown key "egres": did you mean egress?`},
		{"lifetime", "max_ttl_seconds: 120", "max_ttl_seconds: 1000000", "f:9:22: 1000000, at most 86400"},
		{"long lifetime", "max_ttl_seconds: 120", "max_ttl_seconds: 100000000000", "at most 86400"},
		{"no truth", "max_ttl_seconds: 120", "own_key: maybe", `f:9:14: text "maybe" where true or false is wanted`},
		{"own key of a pattern", "agents: [\"*\"]", "agents: [\"*\"]\n    own_key: true", "is a pattern"},
		{"no permit", "    permit:\n      mode: audit\n", "", "f:17:5: grants[1].permit: missing: write a policy under it"},
		{"aliases", "[1000, 1001]", "[*a]", "unknown anchor"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(source1, c.from, c.to, 1)
			if text == source1 {
				t.Fatal("the source does not hold what the case replaces")
			}
			if _, err := ParseSource("f", []byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	all := strings.NewReplacer("version: 3", "vresion: 3", "mode: enforce", "mode: lenient", "sha256:01", "sha1:01").Replace(source1)
	_, err := ParseSource("f", []byte(all))
	var problems policy.Errors
	if !errors.As(err, &problems) || len(problems) != 4 { // the version is missing, too
		t.Errorf("several mistakes at once: %v", err)
	}
}

func TestGrantMatch(t *testing.T) {
	c := fromSource(t, source1)
	one := bytes.Repeat([]byte{1}, 32)
	for _, tt := range []struct {
		name  string
		grant int
		r     Request
		want  bool
	}{
		{"by uid", 0, Request{Namespace: "dev", Name: "build-7", UID: 1001}, true},
		{"by user", 0, Request{Namespace: "dev", Name: "coder", UID: 7, User: "alice"}, true},
		{"another user", 0, Request{Namespace: "dev", Name: "coder", UID: 7, User: "bob"}, false},
		{"no user", 0, Request{Namespace: "dev", Name: "coder", UID: 7}, false},
		{"another namespace", 0, Request{Namespace: "prod", Name: "coder", UID: 1000}, false},
		{"another name", 0, Request{Namespace: "dev", Name: "coder2", UID: 1000}, false},
		{"listed program", 1, Request{Namespace: "x", Name: "y", Binary: one}, true},
		{"another program", 1, Request{Namespace: "x", Name: "y", Binary: make([]byte, 32)}, false},
		{"no program", 1, Request{Namespace: "x", Name: "y"}, false},
	} {
		if err := c.Grants[tt.grant].Match(tt.r); (err == nil) != tt.want {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if !c.NeedsBinary() {
		t.Error("a grant lists programs, and none is needed")
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"*", "a", true}, {"a*", "a", true}, {"a*c", "abbc", true}, {"a*c", "abbd", false}, {"?", "", false},
		{"?", "x", true}, {"a?c", "abc", true}, {"*a*b*", "xxaxxbxx", true}, {"*a*b*", "xxbxxaxx", false}, {"", "", true}, {"", "a", false},
		{"**", "anything", true}, {"a*b*c", "abcabc", true}, {strings.Repeat("*a", 100), strings.Repeat("a", 99), false},
	} {
		if got := Match(c.pattern, c.s); got != c.want {
			t.Errorf("Match(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

// Versions only go upwards, also across restarts; a bundle for another trust domain or key is not taken.
func TestStore(t *testing.T) {
	dir := t.TempDir()
	key := operators(t)["Ed25519"]
	keys := [][]byte{public(t, key)}
	open := func() *Store {
		t.Helper()
		s, err := OpenStore(dir, "prod.example.org", keys)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	version := func(v uint64) []byte {
		c := fromSource(t, source1)
		c.Version = v
		return sign(t, c, key)
	}
	s := open()
	if _, err := s.Current(); !errors.Is(err, ErrNone) {
		t.Errorf("before the first: %v", err)
	}
	recorded := 0
	record := func(*Ceiling) error { recorded++; return nil }
	for _, step := range []struct {
		name   string
		bundle []byte
		want   error
	}{
		{"first", version(5), nil},
		{"older", version(4), ErrVersion},
		{"newer", version(6), nil},
		{"garbage", []byte("version: 7"), ErrMalformed},
	} {
		if _, err := s.Install(step.bundle, record); !errors.Is(err, step.want) {
			t.Errorf("%s: %v", step.name, err)
		}
	}
	changed := fromSource(t, strings.Replace(source1, "max_ttl_seconds: 120", "max_ttl_seconds: 121", 1))
	changed.Version = 6
	if _, err := s.Install(sign(t, changed, key), record); !errors.Is(err, ErrVersion) {
		t.Errorf("another ceiling of the same version: %v", err)
	}
	if recorded != 2 {
		t.Errorf("recorded %d times, want 2", recorded)
	}
	foreign := fromSource(t, strings.Replace(source1, "prod.example.org", "other.example.org", 1))
	foreign.Version = 9
	if _, err := s.Install(sign(t, foreign, key), record); !errors.Is(err, ErrSignature) {
		t.Errorf("another trust domain: %v", err)
	}

	s = open()
	if c, err := s.Current(); err != nil || c.Version != 6 {
		t.Fatalf("after a restart: %v, %v", c, err)
	}
	if err := os.WriteFile(filepath.Join(dir, BundleFile), version(5), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(dir, "prod.example.org", keys); !errors.Is(err, ErrVersion) {
		t.Errorf("an older bundle put back: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, BundleFile)); err != nil {
		t.Fatal(err)
	}
	s = open()
	if _, err := s.Install(version(5), nil); !errors.Is(err, ErrVersion) {
		t.Errorf("older than the floor, after the bundle was removed: %v", err)
	}
	if _, err := s.Install(version(6), nil); err != nil {
		t.Errorf("the version at the floor, after the bundle was removed: %v", err)
	}
}

// A ceiling that could not be put on record is not in force; installing it again heals.
func TestInstallNeedsTheRecord(t *testing.T) {
	key := operators(t)["Ed25519"]
	s, err := OpenStore(t.TempDir(), "prod.example.org", [][]byte{public(t, key)})
	if err != nil {
		t.Fatal(err)
	}
	bundle := sign(t, fromSource(t, source1), key)
	broken := errors.New("no journal")
	if _, err := s.Install(bundle, func(*Ceiling) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := s.Current(); !errors.Is(err, ErrNone) {
		t.Errorf("in force without a record: %v", err)
	}
	if _, err := s.Install(bundle, nil); err != nil {
		t.Error(err)
	}
}

func TestDevelopmentKey(t *testing.T) {
	dir := t.TempDir()
	a, made, err := DevelopmentKey(dir)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	b, made, err := DevelopmentKey(dir)
	if err != nil || made || !reflect.DeepEqual(a, b) {
		t.Error("the second start made another key", made, err)
	}
	c, err := Development("raypher.local")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(sign(t, c, a), [][]byte{public(t, a)}); err != nil {
		t.Error(err)
	}
}

// Nothing that arrives as a bundle may panic; what opens has one encoding and passes its own bounds.
func FuzzOpen(f *testing.F) {
	keys := [][]byte{}
	for _, key := range operators(f) {
		keys = append(keys, public(f, key))
		f.Add(sign(f, fromSource(f, source1), key))
	}
	f.Add([]byte{sign1.Tag, 0x84, 0x40, 0xa0, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, bundle []byte) {
		c, err := Open(bundle, keys)
		if err == nil && c.check() != nil {
			t.Error("an opened ceiling is out of bounds")
		}
		if err != nil && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrSignature) {
			t.Errorf("error without a kind: %v", err)
		}
	})
}

// FuzzPayload goes past the signature, as an operator's broken tool would.
func FuzzPayload(f *testing.F) {
	f.Add(fromSource(f, source1).payload())
	f.Add([]byte{0xa3, 1, 1, 2, 0x61, 'a', 3, 0x80})
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := decode(payload)
		if err != nil {
			return
		}
		if !bytes.Equal(c.payload(), payload) {
			t.Error("decoded and encoded again it differs")
		}
	})
}

func FuzzParseSource(f *testing.F) {
	f.Add([]byte(source1))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseSource("f", text)
		if err != nil {
			return
		}
		if _, err := decode(c.payload()); err != nil {
			t.Errorf("accepted source makes a payload that is refused: %v", err)
		}
	})
}
