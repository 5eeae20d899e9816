package signertest

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/raypher/raypher/enclave/signer"
)

// RunKeyring checks that the further keys of a signer keep the contract: each is a signer like the first, and none is another.
func RunKeyring(t *testing.T, target Target) {
	t.Run("further key", func(t *testing.T) {
		one := target
		one.Open = func(t *testing.T) signer.Signer {
			ring := keyring(t, target.Open(t))
			key, err := ring.Key(t.Context(), "namespace/dev")
			if err != nil {
				t.Fatal(err)
			}
			return withRing{key, ring}
		}
		Run(t, one)
	})
	t.Run("names", func(t *testing.T) { testNames(t, target) })
	t.Run("made at once", func(t *testing.T) { testMadeAtOnce(t, target) })
	t.Run("closed keyring", func(t *testing.T) { testClosedKeyring(t, target) })
}

func keyring(t *testing.T, s signer.Signer) signer.Keyring {
	t.Helper()
	ring, ok := s.(signer.Keyring)
	if !ok {
		t.Fatalf("%T holds no further keys", s)
	}
	return ring
}

// withRing closes the keyring with the key.
type withRing struct {
	signer.Signer
	ring signer.Keyring
}

func (w withRing) Close() error { return errors.Join(w.Signer.Close(), w.ring.Close()) }

func testNames(t *testing.T, target Target) {
	ring := keyring(t, open(t, target))
	digest := sha256.Sum256([]byte("tree head"))
	seen := []signer.Signer{ring}
	for _, name := range []string{"a", "b", "a/b", "../a", strings.Repeat("n", signer.MaxKeyName)} {
		key, err := ring.Key(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for _, other := range seen {
			if key.Public().Equal(other.Public()) {
				t.Errorf("%.20q: the key of another name", name)
			}
		}
		seen = append(seen, key)
		again, err := ring.Key(t.Context(), name)
		if err != nil || !again.Public().Equal(key.Public()) {
			t.Errorf("%.20q: another key the second time, %v", name, err)
		}
	}
	// In turns: one key in use does not disturb the others.
	for range 2 {
		for _, key := range seen {
			signature, err := key.Sign(t.Context(), digest[:])
			if err != nil {
				t.Fatal(err)
			}
			check(t, key.Public(), digest[:], signature)
		}
	}
	for _, name := range []string{"", strings.Repeat("n", signer.MaxKeyName+1)} {
		if _, err := ring.Key(t.Context(), name); !errors.Is(err, signer.ErrInput) {
			t.Errorf("name of %d bytes: error %v, want ErrInput", len(name), err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ring.Key(ended, "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func testMadeAtOnce(t *testing.T, target Target) {
	ring := keyring(t, open(t, target))
	keys := make([]signer.Signer, 8)
	var wait sync.WaitGroup
	for i := range keys {
		wait.Add(1)
		go func() {
			defer wait.Done()
			var err error
			if keys[i], err = ring.Key(t.Context(), "made at once"); err != nil {
				t.Error(err)
			}
		}()
	}
	wait.Wait()
	for _, key := range keys {
		if key != nil && !key.Public().Equal(keys[0].Public()) {
			t.Error("two keys of one name")
		}
	}
}

func testClosedKeyring(t *testing.T, target Target) {
	ring := keyring(t, target.Open(t))
	key, err := ring.Key(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Close(); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	if _, err := key.Sign(t.Context(), digest[:]); err != nil {
		t.Errorf("closing a further key ended it: %v", err)
	}
	if err := ring.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := key.Sign(t.Context(), digest[:]); !errors.Is(err, signer.ErrClosed) {
		t.Errorf("sign: error %v, want ErrClosed", err)
	}
	if _, err := key.Evidence(t.Context(), nil, signer.Binding{}); !errors.Is(err, signer.ErrClosed) {
		t.Errorf("evidence: error %v, want ErrClosed", err)
	}
	if _, err := ring.Key(t.Context(), "b"); !errors.Is(err, signer.ErrClosed) {
		t.Errorf("key: error %v, want ErrClosed", err)
	}
}
