package ceiling

import (
	"crypto"
	"crypto/sha256"
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

// bundles are the signed ones.
var bundles = sign1.Kind[*Ceiling]{
	Type: bundleType, Limit: MaxBundle, Malformed: ErrMalformed, Untrusted: ErrSignature, Make: "sign the YAML source with `raypher ceiling sign`",
	Trust: "add its operator_key line to the start configuration, or sign with a listed key",
	Decode: func(bundle, payload []byte) (*Ceiling, error) {
		c, err := decode(payload)
		if err != nil {
			return nil, err
		}
		c.Hash = sha256.Sum256(bundle)
		return c, nil
	},
}

// Open verifies a bundle against operator keys (PKIX DER) and returns the ceiling in it. Errors wrap ErrMalformed or
// ErrSignature. The signature is checked before the payload is looked into.
func Open(bundle []byte, operatorKeys [][]byte) (*Ceiling, error) {
	return bundles.Open(bundle, operatorKeys)
}

// Read returns the ceiling in a bundle and the SHA-256 of the key that it names, without verifying the signature: what it
// returns is a claim.
func Read(bundle []byte) (*Ceiling, [32]byte, error) { return bundles.Read(bundle) }
