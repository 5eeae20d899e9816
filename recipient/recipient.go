// Package recipient is how a secret travels to one enclave: the enclave makes a key in its memory and signs its public half with
// its signing key; the controller, which knows from an attestation where that signing key lies, encrypts to it. Both sides and
// nobody else import it; neither side's secrets are in it.
//
// Encryption is HPKE (RFC 9180) in mode base with DHKEM(P-256, HKDF-SHA256), HKDF-SHA256 and AES-256-GCM, one context for each
// secret. Its info is "raypher secret 1"; its additional data are the Label in deterministic CBOR, map 1-4: what stands beside a
// ciphertext cannot be exchanged for what stands beside another one.
//
// The signed recipient is a COSE_Sign1 of package journal, typ application/raypher-recipient+cbor, ES256 by the enclave's signing
// key. Its payload is a map in deterministic CBOR:
//
//	1  bstr, 65 bytes: the HPKE public key, an uncompressed point of P-256
//	2  bstr, 16 bytes: the enclave's epoch
//	3  int, Unix seconds: from then on nothing is to be encrypted to it
package recipient

import (
	"crypto/ecdh"
	"crypto/hpke"
	"errors"
	"fmt"
	"time"

	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// Bounds, in bytes where nothing else is said.
const (
	MaxSize       = 1024     // of a signed recipient
	MaxValue      = 64 << 10 // of a secret; at least 1
	Overhead      = 16       // of a ciphertext over its value
	Encapsulation = 65       // of what stands beside a ciphertext: a point of P-256
	MaxName       = 128      // of a secret, and of a host
	// MaxLifetime bounds what a stolen recipient key opens: secrets of a day.
	MaxLifetime = 24 * time.Hour
)

const (
	messageType = "application/raypher-recipient+cbor"
	info        = "raypher secret 1"
)

// Errors that callers tell apart.
var (
	// ErrMalformed: it is not in the format of this package, or out of its bounds.
	ErrMalformed = errors.New("malformed")
	// ErrExpired: the recipient's time is over, or lies too far ahead.
	ErrExpired = errors.New("recipient is not valid now")
	// ErrOpen: it was encrypted to another key or for another label, or it was changed.
	ErrOpen = errors.New("secret does not open")
)

func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.DHKEM(ecdh.P256()), hpke.HKDFSHA256(), hpke.AES256GCM()
}

// Label is what a secret is encrypted together with: it opens under the same label only.
type Label struct {
	Name    string `cbor:"1,keyasint"` // of the secret
	Version uint64 `cbor:"2,keyasint"`
	Host    string `cbor:"3,keyasint"` // whose enclave it is for
	Expires int64  `cbor:"4,keyasint"` // Unix seconds, from which on it is to be forgotten; 0: never
}

func (l *Label) check() error {
	if l.Name == "" || len(l.Name) > MaxName || l.Host == "" || len(l.Host) > MaxName || l.Version == 0 || l.Expires < 0 {
		return fmt.Errorf("label of secret %.64q, version %d, host %.64q: %w: names have 1 to %d bytes, versions begin with 1", l.Name, l.Version, l.Host, ErrMalformed, MaxName)
	}
	return nil
}

// Key is the private half, for the enclave's memory. It is safe for concurrent use.
type Key struct{ private hpke.PrivateKey }

// Make draws a key.
func Make() (*Key, error) {
	kem, _, _ := suite()
	private, err := kem.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make recipient: %w", err)
	}
	return &Key{private}, nil
}

type wireRecipient struct {
	Key      []byte          `cbor:"1,keyasint"`
	Epoch    journal.EpochID `cbor:"2,keyasint"`
	NotAfter int64           `cbor:"3,keyasint"`
}

// Sign returns the public half, signed by the enclave's signing key.
func (k *Key) Sign(signer journal.Signer, epoch journal.EpochID, notAfter time.Time) ([]byte, error) {
	payload := strictcbor.Encode(wireRecipient{k.private.PublicKey().Bytes(), epoch, notAfter.Unix()})
	signed, err := journal.SignMessage(messageType, payload, signer)
	if err != nil {
		return nil, fmt.Errorf("recipient: %w", err)
	}
	return signed, nil
}

// Open decrypts a secret. Errors wrap ErrOpen or ErrMalformed.
func (k *Key) Open(label Label, encapsulated, ciphertext []byte) ([]byte, error) {
	if err := label.check(); err != nil {
		return nil, err
	}
	if len(encapsulated) != Encapsulation || len(ciphertext) <= Overhead || len(ciphertext) > MaxValue+Overhead {
		return nil, fmt.Errorf("secret %s: %w: %d and %d bytes", label.Name, ErrMalformed, len(encapsulated), len(ciphertext))
	}
	_, kdf, aead := suite()
	r, err := hpke.NewRecipient(encapsulated, k.private, kdf, aead, []byte(info))
	if err != nil {
		return nil, fmt.Errorf("secret %s: %w: %w", label.Name, ErrOpen, err)
	}
	value, err := r.Open(strictcbor.Encode(label), ciphertext)
	if err != nil {
		return nil, fmt.Errorf("secret %s, version %d for %s: %w", label.Name, label.Version, label.Host, ErrOpen)
	}
	return value, nil
}

// Recipient is a verified public half.
type Recipient struct {
	Epoch    journal.EpochID
	NotAfter time.Time
	public   hpke.PublicKey
}

// Verify reads a signed recipient. key is the enclave's signing key, from an attestation; whether Epoch is that of the attestation
// is the caller's to compare. Errors about the signature wrap those of package journal, others ErrMalformed or ErrExpired.
func Verify(signed []byte, key *journal.Key, now time.Time) (*Recipient, error) {
	payload, err := journal.OpenMessage(messageType, signed, MaxSize, key)
	if err != nil {
		if !errors.Is(err, journal.ErrSignature) && !errors.Is(err, journal.ErrUnknownKey) {
			err = fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		return nil, fmt.Errorf("recipient: %w", err)
	}
	var w wireRecipient
	if err := strictcbor.Decode(payload, MaxSize, &w); err != nil {
		return nil, fmt.Errorf("recipient: %w: %w", ErrMalformed, err)
	}
	kem, _, _ := suite()
	public, err := kem.NewPublicKey(w.Key)
	if err != nil {
		return nil, fmt.Errorf("recipient: %w: %w", ErrMalformed, err)
	}
	notAfter := time.Unix(w.NotAfter, 0)
	if !notAfter.After(now) || notAfter.Sub(now) > MaxLifetime {
		return nil, fmt.Errorf("%w: it is signed until %s, now it is %s, and at most %s are taken", ErrExpired,
			notAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), MaxLifetime)
	}
	return &Recipient{Epoch: w.Epoch, NotAfter: notAfter, public: public}, nil
}

// Seal encrypts a value of 1 to MaxValue bytes.
func (r *Recipient) Seal(label Label, value []byte) (encapsulated, ciphertext []byte, err error) {
	if err := label.check(); err != nil {
		return nil, nil, err
	}
	if len(value) == 0 || len(value) > MaxValue {
		return nil, nil, fmt.Errorf("secret %s: %w: %d bytes, use 1 to %d", label.Name, ErrMalformed, len(value), MaxValue)
	}
	_, kdf, aead := suite()
	encapsulated, sender, err := hpke.NewSender(r.public, kdf, aead, []byte(info))
	if err != nil {
		return nil, nil, fmt.Errorf("secret %s: %w", label.Name, err)
	}
	if ciphertext, err = sender.Seal(strictcbor.Encode(label), value); err != nil {
		return nil, nil, fmt.Errorf("secret %s: %w", label.Name, err)
	}
	return encapsulated, ciphertext, nil
}
