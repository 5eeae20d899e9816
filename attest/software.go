package attest

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"time"

	"github.com/veraison/go-cose"
)

// statement is the payload of software evidence, as a CBOR map with integer keys. Claim says in words what it is worth.
type statement struct {
	Tier    string `cbor:"1,keyasint"`
	Key     []byte `cbor:"2,keyasint"` // PKIX DER
	Nonce   []byte `cbor:"3,keyasint"`
	Binding []byte `cbor:"4,keyasint"`
	Time    int64  `cbor:"5,keyasint"` // Unix seconds
	Claim   string `cbor:"6,keyasint"`
}

const softwareClaim = "self-signed by a key in a file: proves possession, protects nothing"

// domain separates these signatures from tree heads that the same key signs (external_aad of RFC 9052 section 4.4).
var domain = []byte("raypher software statement v1")

// SignSoftware makes the evidence document of a software key: a COSE_Sign1 (ES256) over a statement. sign gets a SHA-256
// digest and returns r || s.
func SignSoftware(ctx context.Context, key *ecdsa.PublicKey, nonce, binding []byte, now time.Time,
	sign func(ctx context.Context, digest []byte) ([]byte, error)) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	payload, err := encoding.Marshal(statement{
		Tier: TierSoftware, Key: der, Nonce: nonce, Binding: binding, Time: now.Unix(), Claim: softwareClaim,
	})
	if err != nil {
		return nil, fmt.Errorf("encode statement: %w", err)
	}
	message := cose.NewSign1Message()
	message.Headers.Protected.SetAlgorithm(cose.AlgorithmES256)
	message.Payload = payload
	if err := message.Sign(rand.Reader, domain, digestSigner{ctx, sign}); err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	return message.MarshalCBOR()
}

// digestSigner adapts a function over digests to what go-cose asks for.
type digestSigner struct {
	ctx  context.Context
	sign func(ctx context.Context, digest []byte) ([]byte, error)
}

func (digestSigner) Algorithm() cose.Algorithm { return cose.AlgorithmES256 }

func (s digestSigner) Sign(_ io.Reader, content []byte) ([]byte, error) {
	digest := sha256.Sum256(content)
	return s.sign(s.ctx, digest[:])
}

func verifySoftware(document []byte) (*Result, error) {
	if len(document) > MaxDocument {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(document), MaxDocument)
	}
	var message cose.Sign1Message
	if err := message.UnmarshalCBOR(document); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	var s statement
	if err := decoding.Unmarshal(message.Payload, &s); err != nil {
		return nil, fmt.Errorf("%w: statement: %v", ErrMalformed, err)
	}
	if s.Tier != TierSoftware || len(s.Nonce) == 0 || len(s.Nonce) > MaxNonce || len(s.Binding) > MaxBinding {
		return nil, fmt.Errorf("%w: statement is out of bounds", ErrMalformed)
	}
	key, err := parseKey(s.Key)
	if err != nil {
		return nil, err
	}
	verifier, err := cose.NewVerifier(cose.AlgorithmES256, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if err := message.Verify(domain, verifier); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrSignature, err)
	}
	return &Result{Tier: TierSoftware, PublicKey: key, Binding: s.Binding, Nonce: s.Nonce, Time: time.Unix(s.Time, 0)}, nil
}
