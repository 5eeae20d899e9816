package golden

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/internal/sign1"
)

var (
	v1, v2 = strings.Repeat("11", 32), strings.Repeat("22", 32)
	n0     = strings.Repeat("0a", 48)
)

var good = `version: 3
not_before: 2026-01-01T00:00:00Z
not_after: 2027-01-01T00:00:00Z
sets:
  - name: rack 1
    version: "firmware 1.2"
    tier: tpm
    bank: sha256
    pcrs:
      PCR7: ["` + v1 + `", "` + v2 + `"]
      PCR0: "` + v1 + `"
  - name: rack 1, old
    tier: tpm
    bank: sha256
    not_after: 2026-03-01T00:00:00Z
    pcrs:
      PCR0: "` + v2 + `"
  - name: image
    tier: nitro
    bank: sha384
    pcrs: {PCR0: "` + n0 + `", PCR8: "` + n0 + `"}
`

func parseGood(t testing.TB) *List {
	t.Helper()
	l, err := ParseSource("golden.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func newKey(t testing.TB) (crypto.Signer, []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

func value(b byte, size int) []byte { return bytes.Repeat([]byte{b}, size) }

func TestMatch(t *testing.T) {
	l := parseGood(t)
	june := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		tier   string
		at     time.Time
		values Values
		set    string
		want   attest.Check
	}{
		{"all PCRs", "tpm", june, Values{0: value(0x11, 32), 7: value(0x11, 32)}, "rack 1", ""},
		{"another allowed value", "tpm", june, Values{0: value(0x11, 32), 7: value(0x22, 32)}, "rack 1", ""},
		{"PCRs that no set names", "tpm", june, Values{0: value(0x11, 32), 7: value(0x22, 32), 9: value(0x99, 32)}, "rack 1", ""},
		{"an enclave", "nitro", june, Values{0: value(0x0a, 48), 8: value(0x0a, 48)}, "image", ""},
		{"the old set in its time", "tpm", june.AddDate(0, -4, 0), Values{0: value(0x22, 32)}, "rack 1, old", ""},
		{"the old set's last second", "tpm", time.Date(2026, 3, 1, 0, 0, 0, 5e8, time.UTC), Values{0: value(0x22, 32)}, "rack 1, old", ""},

		{"the old set after its time", "tpm", june, Values{0: value(0x22, 32)}, "", CheckValidity},
		{"after the list's time", "tpm", june.AddDate(1, 0, 0), Values{0: value(0x11, 32), 7: value(0x11, 32)}, "", CheckValidity},
		{"before the list's time", "tpm", june.AddDate(-1, 0, 0), Values{0: value(0x11, 32), 7: value(0x11, 32)}, "", CheckValidity},
		{"a PCR with another value", "tpm", june, Values{0: value(0x11, 32), 7: value(0x33, 32)}, "", CheckValues},
		{"one PCR of each set", "tpm", june, Values{0: value(0x33, 32), 7: value(0x22, 32)}, "", CheckValues},
		{"a PCR missing", "tpm", june, Values{0: value(0x11, 32)}, "", CheckValues},
		{"nothing", "tpm", june, nil, "", CheckValues},
		{"values of the other tier", "nitro", june, Values{0: value(0x11, 32), 7: value(0x11, 32)}, "", CheckValues},
		{"a tier without sets", "software", june, Values{0: value(0x11, 32), 7: value(0x11, 32)}, "", CheckValues},
	} {
		t.Run(c.name, func(t *testing.T) {
			set, err := l.Match(c.tier, c.at, c.values)
			switch {
			case c.want == "" && (err != nil || set.Name != c.set):
				t.Errorf("%v, %v", set, err)
			case c.want != "" && (!errors.Is(err, c.want) || set != nil || strings.Contains(err.Error(), "\n")):
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if got := l.Sets[0].Differences(Values{7: value(0x33, 32)}); len(got) != 2 || !strings.Contains(got[0], "PCR 0 is not in") || !strings.Contains(got[1], v1+" or "+v2) {
		t.Errorf("%q", got)
	}
}

// Every mistake of a file is said, with its place.
func TestSourceMistakes(t *testing.T) {
	head := "version: 1\nnot_after: 2027-01-01T00:00:00Z\nsets:\n"
	set := "  - name: a\n    tier: tpm\n    bank: sha256\n    pcrs:\n"
	one := "      PCR0: \"" + v1 + "\"\n"
	for _, c := range []struct {
		name, text string
		want       []string // each a line of the error
	}{
		{"empty", "", []string{":1:1: empty list of golden measurements: begin one with"}},
		{"comments only", "# nothing\n", []string{": empty list"}},
		{"a list", "- 1\n", []string{":1:1: a list where keys are wanted"}},
		{"nothing that is needed", "not_before: 2026-01-01T00:00:00Z\n", []string{"version: no version, or 0", "not_after: the list has no end", "sets: 0 sets"}},
		{"several at once", "version: x\nnot_after: soon\nset: []\nsets:\n  - nam: a\n    tier: tpm2\n", []string{
			`:1:10: text "x" where a number`, `:2:12: "soon" is no time`, `:3:1: unknown key "set": did you mean sets?`, `:5:5: unknown key "nam": did you mean name?`, `:6:11: tier "tpm2": use nitro or nitrotpm or tpm`, ":5:5: sets[0].name: no name"}},
		{"version 0", "version: 0\nnot_after: 2027-01-01T00:00:00Z\nsets: []\n", []string{":1:10: no version, or 0", ":3:7: 0 sets"}},
		{"a key twice", "version: 1\nversion: 2\n", []string{`:2:1: key "version" stands twice`}},
		{"times the wrong way round", "not_before: 2028-01-01T00:00:00Z\n" + head + set + one, []string{":3:1: the list ends before it begins"}},
		{"a set's times the wrong way round", head + strings.Replace(set, "    pcrs", "    not_before: 2029-01-01T00:00:00Z\n    pcrs", 1) + one, []string{"sets[0].not_after: the set ends before it begins"}},
		{"bad PCRs", head + set + "      x: \"" + v1 + "\"\n      PCR24: \"" + v1 + "\"\n      PCR1: \"" + v1[2:] + "\"\n      PCR2: []\n      PCR03: {a: b}\n      PCR4: [\"" + v1 + "\", zz]\n      PCR5: 12\n      7: \"" + v1 + "\"\n", []string{
			`:8:7: "x": use PCR0 to PCR23`, `:9:7: "PCR24"`, ":10:13: ", ":11:13: 0 values", `:12:7: "PCR03"`, `:13:`, `"zz": expected 64`, ":14:13: number 12 where text", ":15:7: number 7 as a key"}},
		{"no PCRs", head + set[:len(set)-1] + " {}\n", []string{":7:11: no PCRs, which every machine matches"}},
		{"SHA-1 bank", head + strings.Replace(set, "sha256", "sha1", 1) + one, []string{`:6:11: bank "sha1": PCRs of tier tpm are of bank sha256`}},
		{"bank of the other tier", head + strings.Replace(set, "tpm", "nitro", 1) + "      PCR0: \"" + n0 + "\"\n", []string{`:6:11: bank "sha256": PCRs of tier nitro are of bank sha384`}},
		{"a name twice", head + set + one + set + one, []string{`:9:11: a second set "a"`}},
		{"a name that commands a terminal", head + strings.Replace(set, "name: a", `name: "\e[31m"`, 1) + one, []string{":4:11: "}},
		{"two documents", good + "---\nversion: 4\n", []string{"second YAML document"}},
		{"no YAML", "version: [", []string{"golden.yaml"}},
		{"too large", strings.Repeat("#", MaxFile+1), []string{"at most"}},
		{"deep", strings.Repeat("[", 100), []string{"golden.yaml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := ParseSource("golden.yaml", []byte(c.text))
			if l != nil || !errors.Is(err, ErrMalformed) {
				t.Fatalf("%v, %v", l, err)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nwithout %q", err, want)
				}
			}
		})
	}
}

func TestSourceRoundTrip(t *testing.T) {
	l := parseGood(t)
	again, err := ParseSource("again", l.Source())
	if err != nil || !bytes.Equal(again.payload(), l.payload()) {
		t.Errorf("%v\n%s", err, l.Source())
	}
}

func TestSignAndOpen(t *testing.T) {
	l := parseGood(t)
	key, der := newKey(t)
	_, stranger := newKey(t)
	file, err := Sign(l, key)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := Open(file, [][]byte{stranger, der})
	if err != nil || !bytes.Equal(opened.payload(), l.payload()) || opened.Hash == (List{}).Hash || !Signed(file) {
		t.Fatalf("%+v, %v", opened, err)
	}
	if read, _, err := Read(file); err != nil || !reflect.DeepEqual(read, opened) {
		t.Errorf("%+v, %v", read, err)
	}
	for name, c := range map[string]struct {
		file []byte
		keys [][]byte
	}{
		"another key": {file, [][]byte{stranger}}, "no key": {file, nil}, "the source": {[]byte(good), [][]byte{der}},
	} {
		if _, err := Open(c.file, c.keys); !errors.Is(err, CheckSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	other, err := sign1.Sign("application/raypher-ceiling+cbor", l.payload(), key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(other, [][]byte{der}); !errors.Is(err, ErrMalformed) {
		t.Errorf("what was signed as a ceiling: %v", err)
	}
	for i := range file {
		bent := bytes.Clone(file)
		bent[i] ^= 1 << (i % 8)
		if _, err := Open(bent, [][]byte{der}); err == nil {
			t.Fatalf("byte %d changed, and it opens", i)
		}
	}
}

// What a source may not say a signed payload may not either.
func TestDecodeBounds(t *testing.T) {
	for name, bend := range map[string]func(*List){
		"version 0":          func(l *List) { l.Version = 0 },
		"no sets":            func(l *List) { l.Sets = nil },
		"ends before begins": func(l *List) { l.NotAfter = l.NotBefore.Add(-time.Second) },
		"a set does":         func(l *List) { l.Sets[0].NotAfter = l.Sets[0].NotBefore.Add(-time.Second) },
		"no PCRs":            func(l *List) { l.Sets[0].PCRs = nil },
		"no values":          func(l *List) { l.Sets[0].PCRs[0].Values = nil },
		"a short value":      func(l *List) { l.Sets[0].PCRs[0].Values[0] = value(1, 20) },
		"PCR 24":             func(l *List) { l.Sets[0].PCRs[1].Index = 24 },
		"PCRs out of order":  func(l *List) { l.Sets[0].PCRs[0].Index = 9 },
		"another tier":       func(l *List) { l.Sets[0].Tier = "software" },
		"no name":            func(l *List) { l.Sets[0].Name = "" },
		"a name twice":       func(l *List) { l.Sets[1].Name = l.Sets[0].Name },
		"a control code":     func(l *List) { l.Sets[0].Version = "\x1b[0m" },
	} {
		l := parseGood(t)
		bend(l)
		if _, err := decode(l.payload()); err == nil {
			t.Errorf("%s: decoded", name)
		}
		key, _ := newKey(t)
		if _, err := Sign(l, key); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestVersionsGoUpwards(t *testing.T) {
	known, next, other := parseGood(t), parseGood(t), parseGood(t)
	if err := known.Follows(known); err != nil {
		t.Error(err)
	}
	s := *known.Sets[0]
	s.Name = "another"
	if err := next.Add(&s); err != nil || next.Version != 4 || next.Follows(known) != nil {
		t.Errorf("%v, version %d", err, next.Version)
	}
	if err := known.Follows(next); !errors.Is(err, CheckVersion) {
		t.Errorf("back again: %v", err)
	}
	other.Sets = other.Sets[:1]
	if err := other.Follows(known); !errors.Is(err, CheckVersion) {
		t.Errorf("another list of the same version: %v", err)
	}
	if err := next.Add(&s); err == nil {
		t.Error("a name twice")
	}
}

func FuzzParseSource(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("version: 1\nsets: [{}]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := ParseSource("f", text)
		if err != nil {
			return
		}
		if again, err := ParseSource("again", l.Source()); err != nil || !bytes.Equal(again.payload(), l.payload()) {
			t.Errorf("%v\n%s", err, l.Source())
		}
	})
}

func FuzzRead(f *testing.F) {
	key, _ := newKey(f)
	file, err := Sign(parseGood(f), key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Fuzz(func(t *testing.T, data []byte) {
		if l, _, err := Read(data); err == nil && l.check() != nil {
			t.Error("a list beyond its bounds")
		}
	})
}
