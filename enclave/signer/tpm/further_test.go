package tpm

import (
	"context"
	"crypto/ecdsa"
	"math/big"
	"os"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/raypher/raypher/enclave/signer"
)

func further(t testing.TB, k *Key, name string) *Further {
	t.Helper()
	return must(k.Key(context.Background(), name))(t).(*Further)
}

func mustSignWith(t testing.TB, f *Further) {
	t.Helper()
	signature := must(f.Sign(context.Background(), digest[:]))(t)
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(f.Public(), digest[:], r, s) {
		t.Error("a signature of another key")
	}
}

// Saved contexts end with a reset of the TPM; the keys do not.
func TestFurtherKeysAfterReset(t *testing.T) {
	tpm := plain(t)
	k := open(t, device(t, tpm), t.TempDir(), Configuration{})
	one, other := further(t, k, "one"), further(t, k, "other")
	mustSignWith(t, one)
	tpm.Reset(t)
	mustSignWith(t, other)
	mustSign(t, k)
	mustSignWith(t, one)
}

// A further key in use is loaded from its context: no primary key is made, which takes chips a tenth of a second and more.
func TestFurtherKeysAreQuick(t *testing.T) {
	b := &between{TPMCloser: device(t, plain(t))}
	k := open(t, b, t.TempDir(), Configuration{})
	one := further(t, k, "one")
	commands := map[tpm2.TPMCC]int{}
	b.set(func(command []byte, send func() ([]byte, error)) ([]byte, error) {
		commands[commandCode(command)]++
		return send()
	})
	mustSignWith(t, one)
	if commands[tpm2.TPMCCCreatePrimary] != 0 || commands[tpm2.TPMCCContextLoad] != 1 || commands[tpm2.TPMCCSign] != 1 {
		t.Errorf("commands for one signature: %v", commands)
	}
}

// The blobs of another TPM are an error that names the file, and are kept.
func TestForeignFurtherKey(t *testing.T) {
	here, there := t.TempDir(), t.TempDir()
	further(t, open(t, device(t, plain(t)), there, Configuration{}), "one")
	k := open(t, device(t, plain(t)), here, Configuration{})
	further(t, k, "two")
	text := must(os.ReadFile(signer.KeyPath(there, "one")))(t)
	if err := os.WriteFile(signer.KeyPath(here, "one"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Key(t.Context(), "one"); err == nil || !strings.Contains(err.Error(), signer.KeyPath(here, "one")) || !strings.Contains(err.Error(), "of another TPM") {
		t.Errorf("error %v", err)
	}
	mustSign(t, k)
}
