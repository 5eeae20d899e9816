package tpm

import (
	"context"
	"testing"

	"github.com/google/go-tpm/tpm2/transport"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/signertest"
	"github.com/raypher/raypher/journal"
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func device(t testing.TB, tpm *tpmtest.TPM) *Device {
	t.Helper()
	return must(OpenDevice(tpm.Socket))(t)
}

// open opens the signer on a device; the test closes it.
func open(t testing.TB, tpm transport.TPMCloser, state string, c Configuration) *Key {
	t.Helper()
	k, _, err := Open(context.Background(), Options{TPM: tpm, State: state, Configuration: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

// activate ties the AK to the EK, as a verifier does, and returns the challenge for a record.
func activate(t testing.TB, k *Key, roots *attest.Roots) *attest.Challenge {
	t.Helper()
	id := must(k.Identity(t.Context()))(t)
	challenge, err := attest.NewChallenge(*id, roots, now())
	if err != nil {
		t.Fatal(err)
	}
	answer, err := k.Activate(t.Context(), challenge.Credential, challenge.Secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := challenge.Finish(answer); err != nil {
		t.Fatal(err)
	}
	return challenge
}

func akName(t testing.TB, k *Key) []byte {
	t.Helper()
	id := must(k.Identity(t.Context()))(t)
	return must(attest.ParsePublic(id.AKPublic, attest.AttestationKey))(t).Name
}

func TestConformance(t *testing.T) {
	ca := tpmtest.NewCA(t)
	machine := ca.Make(t)
	roots := must(attest.LoadRoots(ca.Roots))(t)
	state := t.TempDir()
	first := open(t, device(t, tpmtest.Start(t, machine)), state, Configuration{})
	activate(t, first, roots)
	name := akName(t, first)

	target := signertest.Target{
		Open: func(t *testing.T) signer.Signer {
			// The simulator takes one client at a time, so each signer gets the same TPM anew, as after a restart.
			return open(t, device(t, tpmtest.Start(t, copyState(t, machine))), state, Configuration{})
		},
		Tier:       journal.TierTPM,
		Persistent: true,
		Verify: func(t *testing.T, e *journal.KeyEvidence) (signertest.Proven, error) {
			o := attest.Options{Roots: roots, ActivatedAKs: [][]byte{name}}
			if b, err := attest.Decode(e.Document); err == nil {
				o.Nonce, o.WithoutNonce = b.Nonce, len(b.Nonce) == 0
			}
			r, err := attest.Verify(e.Document, o)
			if err != nil {
				return signertest.Proven{}, err
			}
			return signertest.Proven{Key: r.Key, Nonce: r.Nonce, Binding: signer.Binding{Epoch: r.Epoch, Configuration: r.Configuration}}, nil
		},
	}
	signertest.Run(t, target)
	signertest.RunKeyring(t, target)
}
