package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"

	attest "github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/internal/strictcbor"
)

// Bounds of a sealed secret, in bytes.
const (
	MaxSecret   = 64 << 10
	MaxSealed   = MaxSecret + 4096
	DataKeySize = 32
)

const sealedFormat = 1

// Sealed is a secret in its file. The TPM holds a data key under Public and Private; the secret is encrypted with it.
type Sealed struct {
	Format     uint64 `cbor:"1,keyasint"`
	Name       string `cbor:"2,keyasint"`
	PolicyKey  []byte `cbor:"3,keyasint"` // PKIX DER
	MinVersion uint64 `cbor:"4,keyasint"` // of a policy that opens it
	Primary    []byte `cbor:"5,keyasint"` // name of the primary key above it
	Public     []byte `cbor:"6,keyasint"` // TPMT_PUBLIC of the object with the data key
	Private    []byte `cbor:"7,keyasint"` // TPM2B_PRIVATE's content, encrypted by the TPM to itself
	Ciphertext []byte `cbor:"8,keyasint"` // AES-256-GCM with nonce 0: a data key encrypts once. Everything above is authenticated
}

// Lock encrypts the secret. The data key must be fresh.
func (s *Sealed) Lock(dataKey, secret []byte) error {
	if len(secret) == 0 || len(secret) > MaxSecret {
		return fmt.Errorf("secret of %d bytes, use 1 to %d", len(secret), MaxSecret)
	}
	s.Format = sealedFormat
	aead, err := gcm(dataKey)
	if err != nil {
		return err
	}
	s.Ciphertext = aead.Seal(nil, make([]byte, aead.NonceSize()), secret, s.header())
	return nil
}

// Unlock decrypts the secret, when nothing in the file was changed.
func (s *Sealed) Unlock(dataKey []byte) ([]byte, error) {
	aead, err := gcm(dataKey)
	if err != nil {
		return nil, err
	}
	secret, err := aead.Open(nil, make([]byte, aead.NonceSize()), s.Ciphertext, s.header())
	if err != nil {
		return nil, fmt.Errorf("sealed secret: %w: it was changed", ErrMalformed)
	}
	return secret, nil
}

func gcm(key []byte) (cipher.AEAD, error) {
	if len(key) != DataKeySize {
		return nil, fmt.Errorf("data key of %d bytes", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// header is all but the ciphertext.
func (s *Sealed) header() []byte {
	h := *s
	h.Ciphertext = []byte{}
	return strictcbor.Encode(h)
}

// Encode returns the file.
func (s *Sealed) Encode() []byte { return strictcbor.Encode(s) }

// Decode reads a file. Nothing in it is authenticated before Unlock.
func Decode(file []byte) (*Sealed, error) {
	var s Sealed
	err := strictcbor.Decode(file, MaxSealed, &s)
	if err == nil && (s.Format != sealedFormat || s.Name == "" || s.MinVersion == 0 || len(s.Public) == 0 || len(s.Private) == 0 || len(s.Ciphertext) == 0) {
		err = errors.New("format, or something is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("sealed secret: %w: %w", ErrMalformed, err)
	}
	return &s, nil
}

// Choose returns the first policy that opens the secret in a state of the machine, which value gives. The error says for each
// policy why it does not.
func (s *Sealed) Choose(signed [][]byte, value func(index uint64) ([attest.PCRSize]byte, error)) (*Policy, error) {
	var reasons []error
	for _, file := range signed {
		p, err := Open(file, s.PolicyKey)
		if err == nil {
			err = s.approves(p, value)
		}
		if err == nil {
			return p, nil
		}
		reasons = append(reasons, err)
	}
	if len(reasons) == 0 {
		return nil, fmt.Errorf("%w: name one with --policy", ErrPCRs)
	}
	return nil, errors.Join(reasons...)
}

func (s *Sealed) approves(p *Policy, value func(index uint64) ([attest.PCRSize]byte, error)) error {
	if p.Name != s.Name {
		return fmt.Errorf("%w: the policy is for the secret %q, this is %q", ErrPCRs, p.Name, s.Name)
	}
	if p.Version < s.MinVersion {
		return fmt.Errorf("%w: it is version %d, at least %d is needed: have the state of now approved by a newer one", ErrVersion, p.Version, s.MinVersion)
	}
	var differ []error
	for _, want := range p.PCRs {
		got, err := value(want.Index)
		if err != nil {
			return err
		}
		if got != want.Value {
			differ = append(differ, fmt.Errorf("%w: PCR %d is %x, policy version %d approves %x", ErrPCRs, want.Index, got, p.Version, want.Value))
		}
	}
	return errors.Join(differ...)
}
