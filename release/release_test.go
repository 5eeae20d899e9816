package release

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/internal/sign1"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/policy"
)

func keys(t testing.TB) map[string]crypto.Signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"Ed25519": ed, "P-256": p256}
}

func public(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func example(t testing.TB) *Release {
	t.Helper()
	p, err := policy.Parse("policy.yaml", []byte("namespace: dev\nfilesystem: {read: [\"~/**\", /usr/**], deny: [\"~/.ssh/**\"]}\nnetwork: {egress: [\"example.com:443\"]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return &Release{Name: "coder", Version: 3, Policy: p, NotAfter: time.Unix(1_800_000_000, 0)}
}

func TestSignAndOpen(t *testing.T) {
	for name, key := range keys(t) {
		t.Run(name, func(t *testing.T) {
			r := example(t)
			file, err := Sign(r, key)
			if err != nil {
				t.Fatal(err)
			}
			der, stranger := public(t, key), public(t, keys(t)[name])
			opened, err := Open(file, [][]byte{stranger, der})
			if err != nil {
				t.Fatal(err)
			}
			if opened.Name != r.Name || opened.Version != r.Version || !opened.NotAfter.Equal(r.NotAfter) || opened.Policy.Hash() != r.Policy.Hash() {
				t.Errorf("%+v", opened)
			}
			if claimed, _, err := Read(file); err != nil || !reflect.DeepEqual(claimed, opened) {
				t.Errorf("%+v, %v", claimed, err)
			}
			for what, trusted := range map[string][][]byte{"a stranger's key": {stranger}, "no key": nil} {
				if _, err := Open(file, trusted); !errors.Is(err, ErrSignature) {
					t.Errorf("%s: %v", what, err)
				}
			}
			for i := range file {
				bent := bytes.Clone(file)
				bent[i] ^= 1 << (i % 8)
				if _, err := Open(bent, [][]byte{der}); err == nil {
					t.Fatalf("byte %d changed, and it opens", i)
				}
			}
		})
	}
}

// What nobody may sign is not opened either, whoever signed it.
func TestBounds(t *testing.T) {
	key := keys(t)["Ed25519"]
	good := wire{"coder", 3, example(t).Policy.Canonical(), 0}
	for _, c := range []struct {
		name string
		typ  string
		bend func(*wire)
		ok   bool
	}{
		{"as it is", fileType, func(*wire) {}, true},
		{"a permit without a mode", fileType, func(w *wire) { w.Policy = []byte(`{}`) }, true},
		{"the longest name", fileType, func(w *wire) { w.Name = strings.Repeat("a", MaxName) }, true},
		{"another kind of file", "application/raypher-ceiling+cbor", func(*wire) {}, false},
		{"no name", fileType, func(w *wire) { w.Name = "" }, false},
		{"a longer name", fileType, func(w *wire) { w.Name = strings.Repeat("a", MaxName+1) }, false},
		{"a name that leaves its folder", fileType, func(w *wire) { w.Name = "../coder" }, false},
		{"a hidden name", fileType, func(w *wire) { w.Name = ".coder" }, false},
		{"a name that is no word", fileType, func(w *wire) { w.Name = "co der" }, false},
		{"version 0", fileType, func(w *wire) { w.Version = 0 }, false},
		{"a version beyond a database's numbers", fileType, func(w *wire) { w.Version = 1 << 63 }, false},
		{"an end beyond time", fileType, func(w *wire) { w.NotAfter = 1 << 63 }, false},
		{"no policy", fileType, func(w *wire) { w.Policy = nil }, false},
		{"a policy that is not canonical", fileType, func(w *wire) { w.Policy = append(bytes.Clone(w.Policy), '\n') }, false},
		{"a policy with a mistake", fileType, func(w *wire) { w.Policy = []byte(`{"mode":"maybe"}`) }, false},
	} {
		w := good
		c.bend(&w)
		file, err := sign1.Sign(c.typ, strictcbor.Encode(&w), key)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Open(file, [][]byte{public(t, key)})
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	large := example(t)
	for i := range MaxPolicy / 16 {
		large.Policy.Filesystem.Read = append(large.Policy.Filesystem.Read, fmt.Sprintf("/srv/%016d", i))
	}
	if _, err := Sign(large, key); err == nil || !strings.Contains(err.Error(), "at most 262144") {
		t.Errorf("a policy that no enclave takes: %v", err)
	}
	old := example(t)
	old.NotAfter = time.Unix(0, 0)
	if _, err := Sign(old, key); err == nil {
		t.Error("an end that would mean none was signed")
	}
}

func TestOver(t *testing.T) {
	r := example(t)
	if r.Over(r.NotAfter.Add(-time.Second)) || !r.Over(r.NotAfter) {
		t.Error("it ends at another time than it says")
	}
	r.NotAfter = time.Time{}
	if r.Over(time.Unix(1<<40, 0)) {
		t.Error("without an end it ended")
	}
}

// The rule is part of the format: both sides and every version decide alike.
func TestCanary(t *testing.T) {
	subject := func(i int) string { return fmt.Sprintf("spiffe://raypher.local/ns/dev/agent/a%d", i) }
	const agents = 2000
	before := 0
	for percent := uint32(0); percent <= Everyone; percent++ {
		covered := 0
		for i := range agents {
			in := Covers("coder", subject(i), percent)
			if in {
				covered++
			}
			if percent > 0 && Covers("coder", subject(i), percent-1) && !in {
				t.Fatalf("%s is covered at %d percent and not at %d", subject(i), percent-1, percent)
			}
		}
		// Four standard deviations of 2,000 throws are at most 90.
		if want := agents * int(percent) / Everyone; covered < before || covered < want-90 || covered > want+90 {
			t.Errorf("%d percent cover %d of %d agents", percent, covered, agents)
		}
		before = covered
	}
	if before != agents || Covers("coder", subject(1), 0) {
		t.Errorf("0 and 100 percent are not nobody and everybody: %d", before)
	}
	for _, c := range []struct {
		name, subject string
		place         uint32 // the lowest percentage that covers it, less one
	}{
		{"coder", "spiffe://raypher.local/ns/dev/agent/a1", 55},
		{"coder", "spiffe://raypher.local/ns/dev/agent/a2", 61},
		{"reviewer", "spiffe://raypher.local/ns/dev/agent/a1", 80},
	} {
		if Covers(c.name, c.subject, c.place) || !Covers(c.name, c.subject, c.place+1) {
			t.Errorf("%s, %s: not at place %d", c.name, c.subject, c.place)
		}
	}
}

func FuzzOpen(f *testing.F) {
	key := keys(f)["Ed25519"]
	file, err := Sign(example(f), key)
	if err != nil {
		f.Fatal(err)
	}
	der := public(f, key)
	f.Add(file, []byte{})
	f.Add([]byte{sign1.Tag, 0x84, 0x40, 0xa0, 0x40, 0x40}, strictcbor.Encode(&wire{"coder", 3, []byte("{}"), 0}))
	f.Fuzz(func(t *testing.T, data, payload []byte) {
		if _, err := Open(data, [][]byte{der}); err == nil && !bytes.Equal(data, file) {
			t.Error("a forged file opens")
		}
		Read(data)
		// A payload that an operator signed: what is read is written again byte for byte.
		signed, err := sign1.Sign(fileType, payload, key)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Open(signed, [][]byte{der})
		if err != nil {
			return
		}
		again, err := Sign(r, key)
		if err != nil || !bytes.Equal(again, signed) {
			t.Errorf("%+v is not signed as it was read: %v", r, err)
		}
	})
}
