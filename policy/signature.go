package policy

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// signatureDomain stands in front of the hash under a signature, so that a signature of a policy is one of nothing else.
const signatureDomain = "raypher policy v1\n"

// signatureAlgorithm is the only one (RFC 8032).
const signatureAlgorithm = "Ed25519"

// maxSignatureBytes bounds a signature file.
const maxSignatureBytes = 4096

// What callers tell apart of the errors of Signature.Verify.
var (
	ErrPolicyChanged = errors.New("the policy is not the one that was signed")
	ErrBadSignature  = errors.New("the signature does not hold")
)

// Signature is a detached signature over the hash of a policy: layout and comments may change under it, meaning may not.
type Signature struct {
	Algorithm  string `json:"algorithm"`   // Ed25519
	PolicyHash string `json:"policy_hash"` // sha256:<hex>
	SignedBy   string `json:"signed_by"`   // name of the signer's key
	Value      string `json:"value"`       // base64
}

// HashText is the hash as people and files write it: sha256: and 64 hex digits.
func (p *Policy) HashText() string {
	hash := p.Hash()
	return "sha256:" + hex.EncodeToString(hash[:])
}

// Sign signs the policy as name.
func (p *Policy) Sign(key ed25519.PrivateKey, name string) *Signature {
	hash := p.HashText()
	value := ed25519.Sign(key, []byte(signatureDomain+hash))
	return &Signature{Algorithm: signatureAlgorithm, PolicyHash: hash, SignedBy: name, Value: base64.StdEncoding.EncodeToString(value)}
}

// ParseSignature reads a signature file.
func ParseSignature(data []byte) (*Signature, error) {
	if len(data) > maxSignatureBytes {
		return nil, fmt.Errorf("signature of %d bytes: at most %d", len(data), maxSignatureBytes)
	}
	var s Signature
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if s.Algorithm != signatureAlgorithm {
		return nil, fmt.Errorf("signature algorithm %q: only %s is known", shorten(s.Algorithm), signatureAlgorithm)
	}
	return &s, nil
}

// Verify checks that key signed exactly this policy.
func (s *Signature) Verify(p *Policy, key ed25519.PublicKey) error {
	hash := p.HashText()
	if s.PolicyHash != hash {
		return fmt.Errorf("%w: it has %s, signed was %s", ErrPolicyChanged, hash, shorten(s.PolicyHash))
	}
	value, err := base64.StdEncoding.Strict().DecodeString(s.Value)
	if err != nil || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, []byte(signatureDomain+hash), value) {
		return ErrBadSignature
	}
	return nil
}
