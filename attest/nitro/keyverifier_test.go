package nitro_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/nitro/nitrotest"
	"github.com/raypher/raypher/journal"
)

// A document about a key says the same of the configuration in both places.
func TestKeyVerifier(t *testing.T) {
	w := newWorld(t)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := journal.NewKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	binding := nitro.Binding{Epoch: journal.EpochID{1}, Configuration: journal.Hash{2}}
	headed := func(size int) []byte {
		b := binding
		b.Head = bytes.Repeat([]byte{9}, size)
		return b.Encode()
	}
	right := nitro.ConfigurationValue(binding.Configuration)
	other := nitro.ConfigurationValue(journal.Hash{3})
	for _, c := range []struct {
		name string
		edit func(*nitrotest.Draft)
		good bool
	}{
		{"as an enclave makes it", func(*nitrotest.Draft) {}, true},
		{"with the journal's head", func(d *nitrotest.Draft) { d.Set("user_data", headed(32)) }, true},
		{"with half a head", func(d *nitrotest.Draft) { d.Set("user_data", headed(16)) }, false},
		{"no PCR16", func(d *nitrotest.Draft) { delete(d.Get("pcrs").(map[int][]byte), nitro.ConfigurationPCR) }, false},
		{"PCR16 of another configuration", func(d *nitrotest.Draft) { d.Get("pcrs").(map[int][]byte)[nitro.ConfigurationPCR] = other[:] }, false},
		{"no key", func(d *nitrotest.Draft) { d.Set("public_key", nil) }, false},
		{"another kind of key", func(d *nitrotest.Draft) { d.Set("public_key", []byte("key")) }, false},
		{"no binding", func(d *nitrotest.Draft) { d.Set("user_data", nil) }, false},
		{"a binding with more in it", func(d *nitrotest.Draft) { d.Set("user_data", append(binding.Encode(), 0)) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			draft := w.Draft(w.leaf)
			draft.Set("public_key", key.PKIX())
			draft.Set("user_data", binding.Encode())
			draft.Get("pcrs").(map[int][]byte)[nitro.ConfigurationPCR] = right[:]
			c.edit(draft)
			v := &nitro.KeyVerifier{Verifier: w.verifier(t), Expected: nitro.Expected{At: w.At, PCRs: map[int]nitro.PCR{0: nitro.PCR(nitrotest.PCR("image"))}}}
			document := draft.Seal(t)
			a, err := v.VerifyKey(document)
			if _, pinnedErr := (nitro.PinnedKey{}).VerifyKey(document); (pinnedErr == nil) != c.good {
				t.Errorf("for a pinned key: %v", pinnedErr)
			}
			if c.good && (err != nil || a.Key.ID() != key.ID() || a.Epoch != binding.Epoch || a.ConfigurationHash != binding.Configuration) {
				t.Errorf("%+v, %v", a, err)
			}
			if !c.good && !errors.Is(err, nitro.CheckKey) {
				t.Errorf("error %v, want %q", err, nitro.CheckKey)
			}
		})
	}
}

// A pinned key's document is sound as a whole, long after it was made; nobody has to trust its root.
func TestPinnedKeyWantsASoundDocument(t *testing.T) {
	w := newWorld(t)
	document := w.Draft(w.leaf).Seal(t)
	for i := 0; i < len(document); i += 97 {
		bent := bytes.Clone(document)
		bent[i] ^= 1
		if _, err := (nitro.PinnedKey{}).VerifyKey(bent); err == nil {
			t.Fatalf("byte %d changed", i)
		}
	}
	foreign := w.Draft(nitrotest.New(t, w.At).Leaf(t)) // of another issuer than the bundle's
	if _, err := (nitro.PinnedKey{}).VerifyKey(foreign.Seal(t)); !errors.Is(err, nitro.CheckChain) {
		t.Errorf("error %v, want %q", err, nitro.CheckChain)
	}
	for _, none := range [][]byte{nil, make([]byte, nitro.MaxDocumentSize+1)} {
		if _, err := (nitro.PinnedKey{}).VerifyKey(none); err == nil {
			t.Errorf("%d bytes are a document", len(none))
		}
	}
}
