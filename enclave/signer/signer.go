// Package signer is the contract between the trusted service and the key that signs its journal. One implementation exists
// per tier: software (key files) and tpm, and later nitro. All of them run the same conformance test, signertest.Run, and those
// that hold further keys signertest.RunKeyring.
//
// The key signs tree heads, statements about itself, and the certificate of the enclave's TLS key. What is signed never
// collides between the three: a COSE Sig_structure begins with the text "Signature1" (RFC 9052 section 4.4), a certificate
// with an ASN.1 SEQUENCE. Further keys (Keyring) sign one kind of thing each.
package signer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"

	"github.com/raypher/raypher/journal"
)

// Sizes of the contract, in bytes.
const (
	DigestSize    = 32 // SHA-256
	SignatureSize = 64 // r || s, each 32 bytes big-endian (RFC 9053 section 2.1)
	MaxNonce      = journal.MaxNonceSize
	MaxKeyName    = 512 // of a further key
)

// Errors that callers tell apart. An implementation wraps them with what it knows.
var (
	// ErrClosed: the signer was closed; nothing will ever be signed again.
	ErrClosed = errors.New("signer is closed")
	// ErrInput: digest, nonce or name of a key has the wrong size. A bug of the caller; nothing was signed.
	ErrInput = errors.New("input of the wrong size")
	// ErrFull: MaxKeys further keys exist.
	ErrFull = errors.New("no further key can be made")
	// ErrDevice: the device that holds the key failed. The caller may try again; the same digest may then have two
	// different valid signatures.
	ErrDevice = errors.New("signing device failed")
)

// Binding is what evidence covers besides the key: the life of the process and the configuration that it started with.
type Binding struct {
	Epoch         journal.EpochID
	Configuration journal.Hash // of the start configuration
	// Head is the SHA-256 of the journal's newest signed tree head; zero: none. Tier nitro covers it, the others have no place for it.
	Head journal.Hash
}

// Signer holds one P-256 key that never changes while the process lives.
//
// All methods may be called concurrently; an implementation whose device is serial queues the calls. Every method that can
// wait takes a context and returns its error, wrapped, when it ends first; a call that was cut off may still have signed.
type Signer interface {
	// Public is the public key. It needs no device and never fails, also after Close. Callers do not change it.
	Public() *ecdsa.PublicKey

	// Tier is one of the tiers of package journal, a fact about where the key lies and never taken from configuration.
	Tier() string

	// Sign signs a SHA-256 digest of DigestSize bytes with ECDSA and returns SignatureSize bytes. Time: microseconds
	// (software) to hundreds of milliseconds (a slow TPM), which is why the journal signs once per batch.
	Sign(ctx context.Context, digest []byte) ([]byte, error)

	// Evidence returns the tier's document about the key, fresh for this nonce (0 to MaxNonce bytes; none: for the journal),
	// covering binding.
	Evidence(ctx context.Context, nonce []byte, binding Binding) (*journal.KeyEvidence, error)

	// Close releases the device and wipes what can be wiped. It waits for running calls, is idempotent, and makes every
	// later Sign and Evidence fail with ErrClosed.
	Close() error
}

// ForJournal adapts s to what package journal signs with, within ctx.
func ForJournal(ctx context.Context, s Signer) journal.Signer { return adapter{ctx, s} }

type adapter struct {
	ctx    context.Context
	signer Signer
}

func (a adapter) Public() *ecdsa.PublicKey           { return a.signer.Public() }
func (a adapter) Sign(digest []byte) ([]byte, error) { return a.signer.Sign(a.ctx, digest) }

// ForX509 adapts s to what crypto/x509 signs with, within ctx: its signatures are in ASN.1 DER.
func ForX509(ctx context.Context, s Signer) crypto.Signer { return inDER{ctx, s} }

type inDER struct {
	ctx    context.Context
	signer Signer
}

func (d inDER) Public() crypto.PublicKey { return d.signer.Public() }

func (d inDER) Sign(_ io.Reader, digest []byte, _ crypto.SignerOpts) ([]byte, error) {
	raw, err := d.signer.Sign(d.ctx, digest)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), new(big.Int).SetBytes(raw[32:])})
}
