package link_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/visa"
)

// With a TPM the sandboxed enclave process mints visas of tier tpm, under one key across restarts, and its attestation verifies
// but for the activation that nobody has run. When the TPM goes, the process ends.
func TestTPM(t *testing.T) {
	ca := tpmtest.NewCA(t)
	machine := ca.Make(t)
	tpm := tpmtest.Start(t, machine)
	dir := folder(t)
	store, err := audit.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	o := link.LocalOptions{
		Development: true,
		Binary:      enclaveBinary, Socket: filepath.Join(dir, "run", "enclave.sock"), State: filepath.Join(dir, "state"),
		Keys: filepath.Join(dir, "keys"), TPMDevice: tpm.Socket, Store: store, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var first *journal.Key
	for range 2 {
		local, err := link.StartLocal(ctx, o)
		if err != nil {
			t.Fatal(err)
		}
		defer local.Close()
		key := mintsTier(t, ctx, local, journal.TierTPM)
		if first == nil {
			first = key
		} else if first.ID() != key.ID() {
			t.Error("another key after a restart")
		}
		nonce := []byte("a nonce of a verifier")
		attested, err := local.Attest(ctx, nonce)
		if err != nil {
			t.Fatal(err)
		}
		checkAttestation(t, ca, attested.GetDocument(), nonce, key)
		checkBundle(t, ca, local, store, key)
		if err := local.Close(); err != nil {
			t.Fatal(err)
		}
	}
	local, err := link.StartLocal(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	tpm.Stop()
	if _, err := local.Mint(ctx, request(t, "agent")); err == nil {
		t.Error("a visa without a TPM")
	}
	select {
	case <-local.Ended():
	case <-ctx.Done():
		t.Error("the enclave process goes on without its TPM")
	}
}

func mintsTier(t *testing.T, ctx context.Context, local *link.Local, tier string) *journal.Key {
	t.Helper()
	d, err := local.Describe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	key, err := journal.ParseKey(d.GetPublicKey())
	if err != nil {
		t.Fatal(err)
	}
	reply, err := local.Mint(ctx, request(t, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	claims, err := visa.Verify(reply.GetVisa(), visa.Options{Keys: []*journal.Key{key}, Tiers: []string{tier}})
	if err != nil {
		t.Fatal(err)
	}
	if claims.Tier != tier || d.GetTier() != tier {
		t.Errorf("visa of tier %q, enclave of tier %q, want %q", claims.Tier, d.GetTier(), tier)
	}
	return key
}

// checkAttestation verifies a bundle for whoever has activated its AK, and sees it refused for everyone else.
func checkAttestation(t *testing.T, ca *tpmtest.CA, document, nonce []byte, key *journal.Key) {
	t.Helper()
	roots, err := attest.LoadRoots(ca.Roots)
	if err != nil {
		t.Fatal(err)
	}
	b, err := attest.Decode(document)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := attest.ParsePublic(b.AKPublic, attest.AttestationKey)
	if err != nil {
		t.Fatal(err)
	}
	r, err := attest.Verify(document, attest.Options{Roots: roots, Nonce: nonce, ActivatedAKs: [][]byte{ak.Name}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Key.ID() != key.ID() {
		t.Error("the attestation is of another key than the one that signs")
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	o := attest.Options{Roots: roots, Nonce: nonce, Activators: []*ecdsa.PublicKey{&stranger.PublicKey}}
	if _, err := attest.Verify(document, o); !errors.Is(err, attest.CheckActivation) {
		t.Errorf("without an activation: error %v", err)
	}
}

// checkBundle records a verdict and verifies its bundle offline: down to the TPM's vendor, or by the pinned key.
func checkBundle(t *testing.T, ca *tpmtest.CA, local *link.Local, store *audit.Store, key *journal.Key) {
	t.Helper()
	verdict, err := journal.EncodeVerdict(journal.Verdict{
		Time: time.Now().UnixNano(), AgentID: "a-1", Subject: "s", Decision: journal.Block, Layer: "landlock", Operation: "open-read", Target: "/etc/shadow", Count: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	epoch, index, err := local.Record(t.Context(), verdict)
	if err != nil {
		t.Fatal(err)
	}
	exported, err := store.Export(epoch, index)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := exported.Encode()
	if err != nil {
		t.Fatal(err)
	}
	roots, err := attest.LoadRoots(ca.Roots)
	if err != nil {
		t.Fatal(err)
	}
	claimed, err := attest.Claimed(exported.KeyEvidence.Document)
	if err != nil {
		t.Fatal(err)
	}
	full := attest.KeyVerifier{Options: attest.Options{Roots: roots, WithoutNonce: true, ActivatedAKs: [][]byte{claimed.AKName}}}
	other := full
	other.Options.ActivatedAKs = [][]byte{make([]byte, attest.AKNameSize)}
	for _, c := range []struct {
		name string
		o    evidence.Options
		want error
	}{
		{"to the vendor", evidence.Options{Verifiers: map[string]evidence.KeyVerifier{journal.TierTPM: full}}, nil},
		{"by the pinned key", evidence.Options{Keys: []*journal.Key{key}, Verifiers: map[string]evidence.KeyVerifier{journal.TierTPM: attest.PinnedKey{}}}, nil},
		{"an AK that nobody has activated", evidence.Options{Verifiers: map[string]evidence.KeyVerifier{journal.TierTPM: other}}, attest.CheckActivation},
		{"nothing to verify with", evidence.Options{}, evidence.ErrTier},
	} {
		if _, err := evidence.Verify(bundle, c.o); !errors.Is(err, c.want) {
			t.Errorf("evidence, %s: error %v, want %v", c.name, err, c.want)
		}
	}
}
