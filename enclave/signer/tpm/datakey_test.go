package tpm

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/raypher/raypher/enclave/seal"
)

// TestDataKey: a data key is the same after a restart, another one under another name, and another machine's TPM does not open it.
func TestDataKey(t *testing.T) {
	machine, state := blank(t), t.TempDir()
	k := open(t, device(t, machine), state, Configuration{})
	key := must(k.DataKey(t.Context(), "provider-keys"))(t)
	if len(key) != seal.DataKeySize || bytes.Equal(key, make([]byte, len(key))) {
		t.Fatalf("a key of %d bytes, or of zeros", len(key))
	}
	if other := must(k.DataKey(t.Context(), "other"))(t); bytes.Equal(other, key) {
		t.Error("two names have one key")
	}
	if again := must(k.DataKey(t.Context(), "provider-keys"))(t); !bytes.Equal(again, key) {
		t.Error("another key at the second call")
	}
	text := must(os.ReadFile(filepath.Join(state, "provider-keys"+dataKeySuffix)))(t)
	if bytes.Contains(text, key) {
		t.Error("the file has the key in it")
	}
	if _, err := k.Sign(t.Context(), make([]byte, 32)); err != nil {
		t.Errorf("the signing key after it: %v", err)
	}

	elsewhere := t.TempDir()
	if err := os.WriteFile(filepath.Join(elsewhere, "provider-keys"+dataKeySuffix), text, 0o600); err != nil {
		t.Fatal(err)
	}
	stranger := open(t, device(t, blank(t)), elsewhere, Configuration{})
	if got, err := stranger.DataKey(t.Context(), "provider-keys"); err == nil {
		t.Errorf("another TPM opened it: %x", got)
	}
}
