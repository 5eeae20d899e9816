package ceiling

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/sign1"
)

const bundleType = "application/raypher-ceiling+cbor"

// Sign returns the bundle of c, signed with an operator key: ed25519.PrivateKey, or *ecdsa.PrivateKey on P-256.
func Sign(c *Ceiling, key crypto.Signer) ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("sign ceiling: %w", err)
	}
	bundle, err := sign1.Sign(bundleType, c.payload(), key)
	if err != nil {
		return nil, fmt.Errorf("sign ceiling: %w", err)
	}
	if len(bundle) > MaxBundle {
		return nil, fmt.Errorf("sign ceiling: %d bytes, at most %d: split it by host", len(bundle), MaxBundle)
	}
	return bundle, nil
}

// Open verifies a bundle against operator keys (PKIX DER) and returns the ceiling in it. Errors wrap ErrMalformed or
// ErrSignature. The signature is checked before the payload is looked into.
func Open(bundle []byte, operatorKeys [][]byte) (*Ceiling, error) {
	m, err := parse(bundle)
	if err != nil {
		return nil, err
	}
	err = m.Verify(operatorKeys)
	if errors.Is(err, sign1.ErrUnknownKey) {
		return nil, fmt.Errorf("%w: %w: add its operator_key line to the start configuration, or sign with a listed key", ErrSignature, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return read(bundle, m)
}

// Read returns the ceiling in a bundle and the SHA-256 of the key that it names, without verifying the signature: what it
// returns is a claim.
func Read(bundle []byte) (*Ceiling, [32]byte, error) {
	m, err := parse(bundle)
	if err != nil {
		return nil, [32]byte{}, err
	}
	c, err := read(bundle, m)
	return c, m.KeyID, err
}

func parse(bundle []byte) (*sign1.Message, error) {
	m, err := sign1.Parse(bundleType, bundle, MaxBundle)
	if err != nil {
		return nil, fmt.Errorf("%w: %v: sign the YAML source with `raypher ceiling sign`", ErrMalformed, err)
	}
	return m, nil
}

func read(bundle []byte, m *sign1.Message) (*Ceiling, error) {
	c, err := decode(m.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	c.Hash = sha256.Sum256(bundle)
	return c, nil
}
