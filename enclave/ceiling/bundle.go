package ceiling

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

	"github.com/raypher/raypher/journal"
)

const (
	tagSign1       = 0xd2 // tag 18, RFC 9052 section 2
	algorithmEdDSA = -8   // RFC 9053 table 2
	algorithmES256 = -7   // RFC 9053 table 1
	bundleType     = "application/raypher-ceiling+cbor"
	signatureSize  = 64 // Ed25519, and r || s on P-256
)

type protectedHeader struct {
	Algorithm int64    `cbor:"1,keyasint"`
	KeyID     [32]byte `cbor:"4,keyasint"`
	Type      string   `cbor:"16,keyasint"`
}

type sign1 struct {
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

// signedBytes is the Sig_structure (RFC 9052 section 4.4).
func signedBytes(protected, payload []byte) []byte {
	return must(encoding.Marshal(toBeSigned{Context: "Signature1", Protected: protected, External: []byte{}, Payload: payload}))
}

// Sign returns the bundle of c, signed with an operator key: ed25519.PrivateKey, or *ecdsa.PrivateKey on P-256.
func Sign(c *Ceiling, key crypto.Signer) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("sign ceiling: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("sign ceiling: %w", err)
	}
	header := protectedHeader{KeyID: sha256.Sum256(der), Type: bundleType}
	var sign func(message []byte) ([]byte, error)
	switch k := key.(type) {
	case ed25519.PrivateKey:
		header.Algorithm = algorithmEdDSA
		sign = func(message []byte) ([]byte, error) { return ed25519.Sign(k, message), nil }
	case *ecdsa.PrivateKey:
		if k.Curve != elliptic.P256() {
			return nil, errors.New("sign ceiling: an ECDSA key must be on P-256")
		}
		header.Algorithm = algorithmES256
		sign = func(message []byte) ([]byte, error) { return signLow(k, message) }
	default:
		return nil, fmt.Errorf("sign ceiling: %T: use an Ed25519 key, or ECDSA on P-256", key)
	}
	protected, payload := must(encoding.Marshal(header)), c.payload()
	signature, err := sign(signedBytes(protected, payload))
	if err != nil {
		return nil, fmt.Errorf("sign ceiling: %w", err)
	}
	body := must(encoding.Marshal(sign1{Protected: protected, Unprotected: map[int64]cbor.RawMessage{}, Payload: payload, Signature: signature}))
	if len(body) >= MaxBundle {
		return nil, fmt.Errorf("sign ceiling: %d bytes, at most %d: split it by host", len(body), MaxBundle)
	}
	return append([]byte{tagSign1}, body...), nil
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

// Open verifies a bundle against operator keys (PKIX DER) and returns the ceiling in it. Errors wrap ErrMalformed or
// ErrSignature. The signature is checked before the payload is looked into.
func Open(bundle []byte, operatorKeys [][]byte) (*Ceiling, error) {
	m, h, err := parse(bundle)
	if err != nil {
		return nil, err
	}
	if err := verify(m, h, operatorKeys); err != nil {
		return nil, err
	}
	return read(bundle, m)
}

// Read returns the ceiling in a bundle and the SHA-256 of the key that it names, without verifying the signature: what it
// returns is a claim.
func Read(bundle []byte) (*Ceiling, [32]byte, error) {
	m, h, err := parse(bundle)
	if err != nil {
		return nil, [32]byte{}, err
	}
	c, err := read(bundle, m)
	return c, h.KeyID, err
}

func read(bundle []byte, m *sign1) (*Ceiling, error) {
	c, err := decode(m.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	c.Hash = sha256.Sum256(bundle)
	return c, nil
}

// parse checks the outer form.
func parse(bundle []byte) (*sign1, *protectedHeader, error) {
	if len(bundle) == 0 || len(bundle) > MaxBundle {
		return nil, nil, fmt.Errorf("%w: %d bytes, expected 1 to %d", ErrMalformed, len(bundle), MaxBundle)
	}
	if bundle[0] != tagSign1 {
		return nil, nil, fmt.Errorf("%w: not a COSE_Sign1: sign the YAML source with `raypher ceiling sign`", ErrMalformed)
	}
	var m sign1
	if err := decodeStrict(bundle[1:], &m); err != nil {
		return nil, nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	var h protectedHeader
	if err := decodeStrict(m.Protected, &h); err != nil {
		return nil, nil, fmt.Errorf("%w: protected header: %v", ErrMalformed, err)
	}
	if m.Unprotected == nil || len(m.Unprotected) != 0 || len(m.Signature) != signatureSize || h.Type != bundleType {
		return nil, nil, fmt.Errorf("%w: unprotected header, type or signature size", ErrMalformed)
	}
	return &m, &h, nil
}

func verify(m *sign1, h *protectedHeader, operatorKeys [][]byte) error {
	for _, der := range operatorKeys {
		if sha256.Sum256(der) != h.KeyID {
			continue
		}
		key, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return fmt.Errorf("%w: operator key: %v", ErrSignature, err)
		}
		message, ok := signedBytes(m.Protected, m.Payload), false
		switch k := key.(type) {
		case ed25519.PublicKey:
			ok = h.Algorithm == algorithmEdDSA && ed25519.Verify(k, message, m.Signature)
		case *ecdsa.PublicKey:
			ok = h.Algorithm == algorithmES256 && verifyLow(k, message, m.Signature)
		}
		if !ok {
			return fmt.Errorf("%w: the signature of key sha256:%x is wrong", ErrSignature, h.KeyID)
		}
		return nil
	}
	return fmt.Errorf("%w: it names key sha256:%x: add its operator_key line to the start configuration, or sign with a listed key", ErrSignature, h.KeyID)
}
