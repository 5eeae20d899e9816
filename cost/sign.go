package cost

import (
	"crypto"
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/sign1"
)

// fileType is the COSE header `typ` of a signed cost control.
const fileType = "application/raypher-cost-control+json"

// MaxFile bounds a signed file, in bytes: its payload and the envelope.
const MaxFile = MaxSize + 1024

// Errors of signed files that callers tell apart.
var (
	ErrMalformed = errors.New("signed cost control is malformed")
	ErrSignature = errors.New("the cost control is not signed by an operator key of this enclave")
)

// files are the signed ones; the payload is the canonical form.
var files = sign1.Kind[*Control]{
	Type: fileType, Limit: MaxFile, Malformed: ErrMalformed, Untrusted: ErrSignature, Make: "sign one with an operator key",
	Trust:  "add its operator_key line to the start configuration, or sign with a listed key",
	Decode: func(_, payload []byte) (*Control, error) { return ParseCanonical(payload) },
}

// Sign returns the file signed with an operator key: ed25519.PrivateKey, or *ecdsa.PrivateKey on P-256. Layout and comments of the file may
// change under a signature, meaning may not.
func (c *Control) Sign(key crypto.Signer) ([]byte, error) {
	signed, err := sign1.Sign(fileType, c.Canonical(), key)
	if err != nil {
		return nil, fmt.Errorf("sign cost control: %w", err)
	}
	return signed, nil
}

// Open verifies a signed file against operator keys (PKIX DER), and then, and not before, reads it. Errors wrap ErrMalformed or
// ErrSignature. That versions only go upwards is the caller's to hold.
func Open(signed []byte, operatorKeys [][]byte) (*Control, error) {
	return files.Open(signed, operatorKeys)
}

// Read returns a signed file and the SHA-256 of the key that it names, without verifying the signature: what it returns is a claim.
func Read(signed []byte) (*Control, [32]byte, error) { return files.Read(signed) }
