// Package sign1 is the outer form of the files that operators sign: ceilings and golden measurements. It says who signed which
// bytes and nothing about what they mean.
//
// COSE_Sign1 (RFC 9052 section 4.2), tag 18, deterministic CBOR, external data empty, unprotected header empty. The protected header:
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

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// Tag is the first byte of a signed file: tag 18 (RFC 9052, section 2).
const Tag = 0xd2

const (
	algorithmEdDSA = -8 // RFC 9053, table 2
	algorithmES256 = -7 // RFC 9053, table 1
	signatureSize  = 64 // Ed25519, and r || s on P-256
)

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

type sealed struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected map[int64]cbor.RawMessage
	Payload     []byte
	Signature   []byte
}

type toBeSigned struct {
	_         struct{} `cbor:",toarray"`
	Context   string
	Protected []byte
	External  []byte
	Payload   []byte
}

// signedBytes is the Sig_structure (RFC 9052, section 4.4).
func signedBytes(protected, payload []byte) []byte {
	return strictcbor.Encode(toBeSigned{Context: "Signature1", Protected: protected, External: []byte{}, Payload: payload})
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
		header.Algorithm = algorithmEdDSA
		sign = func(message []byte) ([]byte, error) { return ed25519.Sign(k, message), nil }
	case *ecdsa.PrivateKey:
		if k.Curve != elliptic.P256() {
			return nil, errors.New("an ECDSA key must be on P-256")
		}
		header.Algorithm = algorithmES256
		sign = func(message []byte) ([]byte, error) { return signLow(k, message) }
	default:
		return nil, fmt.Errorf("%T: use an Ed25519 key, or ECDSA on P-256", key)
	}
	protected := strictcbor.Encode(header)
	signature, err := sign(signedBytes(protected, payload))
	if err != nil {
		return nil, err
	}
	body := strictcbor.Encode(sealed{Protected: protected, Unprotected: map[int64]cbor.RawMessage{}, Payload: payload, Signature: signature})
	return append([]byte{Tag}, body...), nil
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
	raw := make([]byte, signatureSize)
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
	protected []byte
	algorithm int64
	signature []byte
}

// Parse checks the outer form of a file of at most limit bytes.
func Parse(typ string, file []byte, limit int) (*Message, error) {
	if len(file) == 0 || len(file) > limit {
		return nil, fmt.Errorf("%d bytes, expected 1 to %d", len(file), limit)
	}
	if file[0] != Tag {
		return nil, errors.New("not a COSE_Sign1")
	}
	var m sealed
	if err := strictcbor.Decode(file[1:], limit, &m); err != nil {
		return nil, err
	}
	var h protectedHeader
	if err := strictcbor.Decode(m.Protected, limit, &h); err != nil {
		return nil, fmt.Errorf("protected header: %w", err)
	}
	if m.Unprotected == nil || len(m.Unprotected) != 0 || len(m.Signature) != signatureSize || m.Payload == nil {
		return nil, errors.New("unprotected header, payload or signature size")
	}
	if h.Type != typ {
		return nil, fmt.Errorf("it is of type %.80q, expected %q", h.Type, typ)
	}
	return &Message{KeyID: h.KeyID, Payload: m.Payload, protected: m.Protected, algorithm: h.Algorithm, signature: m.Signature}, nil
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
		message, ok := signedBytes(m.protected, m.Payload), false
		switch k := key.(type) {
		case ed25519.PublicKey:
			ok = m.algorithm == algorithmEdDSA && ed25519.Verify(k, message, m.signature)
		case *ecdsa.PublicKey:
			ok = m.algorithm == algorithmES256 && verifyLow(k, message, m.signature)
		}
		if !ok {
			return fmt.Errorf("%w: of key sha256:%x", ErrSignature, m.KeyID)
		}
		return nil
	}
	return fmt.Errorf("%w: it names key sha256:%x", ErrUnknownKey, m.KeyID)
}
