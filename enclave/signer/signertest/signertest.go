// Package signertest is the conformance test of the signer contract. Every implementation runs it as it stands.
package signertest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"errors"
	"math/big"
	"sync"
	"testing"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
)

// Target is the implementation under test.
type Target struct {
	// Open returns the signer with the same key each time. The test closes what it opens.
	Open func(t *testing.T) signer.Signer
	// Tier that it must report.
	Tier string
	// Persistent: a signer opened anew has the same key (false for keys born in enclave memory).
	Persistent bool
	// Verify is the verifier of this tier's evidence.
	Verify func(t *testing.T, e *journal.KeyEvidence) (Proven, error)
}

// Proven is what verified evidence says.
type Proven struct {
	Key     *journal.Key
	Nonce   []byte
	Binding signer.Binding
}

// Run checks that a signer keeps the contract.
func Run(t *testing.T, target Target) {
	t.Run("key", func(t *testing.T) { testKey(t, target) })
	t.Run("sign", func(t *testing.T) { testSign(t, target) })
	t.Run("sign refuses wrong digests", func(t *testing.T) { testDigests(t, target) })
	t.Run("sign concurrently", func(t *testing.T) { testConcurrent(t, target) })
	t.Run("ended context", func(t *testing.T) { testContext(t, target) })
	t.Run("evidence", func(t *testing.T) { testEvidence(t, target) })
	t.Run("evidence refuses wrong sizes", func(t *testing.T) { testEvidenceSizes(t, target) })
	t.Run("close", func(t *testing.T) { testClose(t, target) })
}

func open(t *testing.T, target Target) signer.Signer {
	t.Helper()
	s := target.Open(t)
	t.Cleanup(func() { s.Close() })
	return s
}

// check verifies a raw signature with the standard library.
func check(t *testing.T, key *ecdsa.PublicKey, digest, signature []byte) {
	t.Helper()
	if len(signature) != signer.SignatureSize {
		t.Fatalf("signature has %d bytes, want %d", len(signature), signer.SignatureSize)
	}
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	if !ecdsa.Verify(key, digest, r, s) {
		t.Fatal("signature does not verify under Public()")
	}
}

func testKey(t *testing.T, target Target) {
	s := open(t, target)
	if s.Tier() != target.Tier {
		t.Errorf("tier %q, want %q", s.Tier(), target.Tier)
	}
	key := s.Public()
	if key == nil || key.Curve != elliptic.P256() {
		t.Fatal("key is not on P-256")
	}
	if !key.Equal(s.Public()) {
		t.Error("key changed between two calls")
	}
	again := open(t, target)
	if same := key.Equal(again.Public()); same != target.Persistent {
		t.Errorf("key is the same after opening anew: %v, want %v", same, target.Persistent)
	}
}

func testSign(t *testing.T, target Target) {
	s := open(t, target)
	for _, text := range []string{"", "a", "tree head"} {
		digest := sha256.Sum256([]byte(text))
		signature, err := s.Sign(context.Background(), digest[:])
		if err != nil {
			t.Fatal(err)
		}
		check(t, s.Public(), digest[:], signature)
		digest[0] ^= 1
		r, x := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
		if ecdsa.Verify(s.Public(), digest[:], r, x) {
			t.Error("signature verifies for another digest")
		}
	}
}

func testDigests(t *testing.T, target Target) {
	s := open(t, target)
	for _, size := range []int{0, 1, 20, 31, 33, 48, 64} {
		if _, err := s.Sign(context.Background(), make([]byte, size)); !errors.Is(err, signer.ErrInput) {
			t.Errorf("digest of %d bytes: error %v, want ErrInput", size, err)
		}
	}
}

func testConcurrent(t *testing.T, target Target) {
	s := open(t, target)
	var wait sync.WaitGroup
	type signed struct{ digest, signature []byte }
	results := make(chan signed, 16)
	for i := range cap(results) {
		wait.Add(1)
		go func() {
			defer wait.Done()
			digest := sha256.Sum256([]byte{byte(i)})
			signature, err := s.Sign(context.Background(), digest[:])
			if err != nil {
				t.Error(err)
				return
			}
			results <- signed{digest[:], signature}
		}()
	}
	wait.Wait()
	close(results)
	for r := range results {
		check(t, s.Public(), r.digest, r.signature)
	}
}

func testContext(t *testing.T, target Target) {
	s := open(t, target)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	digest := sha256.Sum256(nil)
	if _, err := s.Sign(ctx, digest[:]); !errors.Is(err, context.Canceled) {
		t.Errorf("sign: error %v, want context.Canceled", err)
	}
	if _, err := s.Evidence(ctx, []byte("nonce"), signer.Binding{}); !errors.Is(err, context.Canceled) {
		t.Errorf("evidence: error %v, want context.Canceled", err)
	}
}

func testEvidence(t *testing.T, target Target) {
	s := open(t, target)
	nonce := []byte("a fresh nonce of the verifier")
	binding := signer.Binding{Epoch: journal.EpochID{1, 2, 3}, Configuration: journal.Hash{4, 5, 6}}
	e, err := s.Evidence(context.Background(), nonce, binding)
	if err != nil {
		t.Fatal(err)
	}
	if e.Tier != target.Tier {
		t.Errorf("evidence of tier %q, want %q", e.Tier, target.Tier)
	}
	proven, err := target.Verify(t, e)
	if err != nil {
		t.Fatal(err)
	}
	if !proven.Key.Public().Equal(s.Public()) || !bytes.Equal(proven.Nonce, nonce) || proven.Binding != binding {
		t.Errorf("evidence names another key, nonce or binding: %+v", proven)
	}
	for i := range e.Document {
		bent := &journal.KeyEvidence{Tier: e.Tier, Document: bytes.Clone(e.Document)}
		bent.Document[i] ^= 0x01
		if _, err := target.Verify(t, bent); err == nil {
			t.Fatalf("evidence with byte %d changed verifies", i)
		}
	}
	if e, err = s.Evidence(context.Background(), nil, binding); err != nil {
		t.Fatalf("without a nonce: %v", err)
	}
	if _, err := target.Verify(t, e); err != nil {
		t.Fatalf("without a nonce: %v", err)
	}
}

func testEvidenceSizes(t *testing.T, target Target) {
	s := open(t, target)
	if _, err := s.Evidence(context.Background(), make([]byte, signer.MaxNonce+1), signer.Binding{}); !errors.Is(err, signer.ErrInput) {
		t.Errorf("nonce of %d bytes: error %v, want ErrInput", signer.MaxNonce+1, err)
	}
}

func testClose(t *testing.T, target Target) {
	s := target.Open(t)
	key := s.Public()
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !key.Equal(s.Public()) {
		t.Error("Public changed with Close")
	}
	digest := sha256.Sum256(nil)
	if _, err := s.Sign(context.Background(), digest[:]); !errors.Is(err, signer.ErrClosed) {
		t.Errorf("sign: error %v, want ErrClosed", err)
	}
	if _, err := s.Evidence(context.Background(), []byte("nonce"), signer.Binding{}); !errors.Is(err, signer.ErrClosed) {
		t.Errorf("evidence: error %v, want ErrClosed", err)
	}
}
