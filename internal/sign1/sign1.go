// Package sign1 is the outer form of the files that operators sign: ceilings and golden measurements. It says who signed which
// bytes and nothing about what they mean.
//
// The envelope is that of package cose1. The protected header:
//
//	1   alg  -8 (EdDSA, Ed25519) or -7 (ES256 with s in the lower half, so that a signature has one form)
//	4   kid  bstr, SHA-256 of the key's PKIX DER
//	16  typ  tstr, what the payload is (RFC 9596): a signature over one kind of file is none over another
package sign1

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"

	"github.com/raypher/raypher/internal/cose1"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// Tag is the first byte of a signed file.
const Tag = cose1.Tag

// Errors of Message.Verify that callers tell apart.
var (
	ErrUnknownKey = errors.New("signed by a key that is not among the trusted ones")
	ErrSignature  = errors.New("the signature is wrong")
)

type protectedHeader struct {
	Algorithm int64    `cbor:"1,keyasint"`
	KeyID     [32]byte `cbor:"4,keyasint"`
	Type      string   `cbor:"16,keyasint"`
}

// Sign returns payload under the signature of a key: ed25519.PrivateKey, or *ecdsa.PrivateKey on P-256.
func Sign(typ string, payload []byte, key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	header := protectedHeader{KeyID: sha256.Sum256(der), Type: typ}
	var sign func(message []byte) ([]byte, error)
	switch k := key.(type) {
	case ed25519.PrivateKey:
		header.Algorithm = cose1.AlgorithmEdDSA
		sign = func(message []byte) ([]byte, error) { return ed25519.Sign(k, message), nil }
	case *ecdsa.PrivateKey:
		if k.Curve != elliptic.P256() {
			return nil, errors.New("an ECDSA key must be on P-256")
		}
		header.Algorithm = cose1.AlgorithmES256
		sign = func(message []byte) ([]byte, error) { return signLow(k, message) }
	default:
		return nil, fmt.Errorf("%T: use an Ed25519 key, or ECDSA on P-256", key)
	}
	protected := strictcbor.Encode(header)
	signature, err := sign(cose1.ToBeSigned(protected, payload))
	if err != nil {
		return nil, err
	}
	return (&cose1.Message{Protected: protected, Payload: payload, Signature: signature}).Encode(), nil
}

// halfOrder is n/2 of P-256: an ECDSA signature with s above it has a twin below it.
var halfOrder = new(big.Int).Rsh(elliptic.P256().Params().N, 1)

func signLow(key *ecdsa.PrivateKey, message []byte) ([]byte, error) {
	digest := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		return nil, err
	}
	if s.Cmp(halfOrder) > 0 {
		s.Sub(elliptic.P256().Params().N, s)
	}
	raw := make([]byte, cose1.SignatureSize)
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return raw, nil
}

func verifyLow(key *ecdsa.PublicKey, message, signature []byte) bool {
	if key.Curve != elliptic.P256() || new(big.Int).SetBytes(signature[32:]).Cmp(halfOrder) > 0 {
		return false
	}
	digest := sha256.Sum256(message)
	return journal.VerifySignature(key, digest[:], signature)
}

// Message is a signed file whose outer form is right. Nothing is verified until Verify.
type Message struct {
	KeyID     [32]byte // SHA-256 of the PKIX DER of the key that it names
	Payload   []byte
	algorithm int64
	envelope  *cose1.Message
}

// Parse checks the outer form of a file of at most limit bytes.
func Parse(typ string, file []byte, limit int) (*Message, error) {
	var h protectedHeader
	m, err := cose1.Decode(file, limit, &h)
	if err != nil {
		return nil, err
	}
	if h.Type != typ {
		return nil, fmt.Errorf("it is of type %.80q, expected %q", h.Type, typ)
	}
	return &Message{KeyID: h.KeyID, Payload: m.Payload, algorithm: h.Algorithm, envelope: m}, nil
}

// Verify checks the signature by one of the trusted keys (PKIX DER). Errors wrap ErrUnknownKey or ErrSignature.
func (m *Message) Verify(keys [][]byte) error {
	for _, der := range keys {
		if sha256.Sum256(der) != m.KeyID {
			continue
		}
		key, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return fmt.Errorf("%w: trusted key: %w", ErrSignature, err)
		}
		message, ok := cose1.ToBeSigned(m.envelope.Protected, m.envelope.Payload), false
		switch k := key.(type) {
		case ed25519.PublicKey:
			ok = m.algorithm == cose1.AlgorithmEdDSA && ed25519.Verify(k, message, m.envelope.Signature)
		case *ecdsa.PublicKey:
			ok = m.algorithm == cose1.AlgorithmES256 && verifyLow(k, message, m.envelope.Signature)
		}
		if !ok {
			return fmt.Errorf("%w: of key sha256:%x", ErrSignature, m.KeyID)
		}
		return nil
	}
	return fmt.Errorf("%w: it names key sha256:%x", ErrUnknownKey, m.KeyID)
}
