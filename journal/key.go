package journal

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
)

// Key is a verified-form public key of an enclave: ECDSA on P-256. It is immutable and safe for concurrent use.
type Key struct {
	public *ecdsa.PublicKey
	pkix   []byte
	id     [32]byte
}

// ErrKey means that something is no P-256 public key.
var ErrKey = errors.New("not a P-256 public key in PKIX DER")

// ParseKey reads PKIX DER. Only the encoding that Go makes is taken, so one key has one identifier.
func ParseKey(der []byte) (*Key, error) {
	if len(der) > 256 {
		return nil, ErrKey
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrKey, err)
	}
	public, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return nil, ErrKey
	}
	key, err := NewKey(public)
	if err != nil {
		return nil, err
	}
	if string(key.pkix) != string(der) {
		return nil, fmt.Errorf("%w: another encoding of the same key", ErrKey)
	}
	return key, nil
}

// NewKey wraps a public key, which must be on P-256.
func NewKey(public *ecdsa.PublicKey) (*Key, error) {
	if public == nil || public.Curve != elliptic.P256() {
		return nil, ErrKey
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrKey, err)
	}
	return &Key{public: public, pkix: der, id: sha256.Sum256(der)}, nil
}

// ID is the SHA-256 of the key's PKIX DER: the kid of what it signs.
func (k *Key) ID() [32]byte { return k.id }

// PKIX is the key's DER; do not change it.
func (k *Key) PKIX() []byte { return k.pkix }

// Public is the key itself; do not change it.
func (k *Key) Public() *ecdsa.PublicKey { return k.public }

// String is the identifier in hexadecimal.
func (k *Key) String() string { return fmt.Sprintf("%x", k.id[:]) }

// Signer makes ES256 signatures with the enclave's key. Implementations need not be safe for concurrent use.
type Signer interface {
	// Public returns the P-256 key that Sign uses. It never changes.
	Public() *ecdsa.PublicKey
	// Sign signs a SHA-256 digest (32 bytes) and returns the raw signature of RFC 9053, section 2.1: r || s, 32 bytes each,
	// big endian.
	Sign(digest []byte) ([]byte, error)
}
