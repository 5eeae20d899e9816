// Package attest verifies the evidence behind an enclave's signing key: which tier it is, whether the document is genuine
// and fresh, and which start configuration it covers. Enclave, parent and relying parties use it; it imports neither side.
//
// Words are those of RATS (RFC 9334). So far it knows the tier `software`, whose evidence is a self-signed statement: it
// proves possession of the key and nothing about where the key lies.
package attest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// TierSoftware is the tier of a key that lies in a file.
const TierSoftware = "software"

// Bounds of evidence, in bytes. A Nitro document has at most 16 KiB; a TPM bundle carries a certificate chain.
const (
	MaxDocument = 64 << 10
	MaxNonce    = 64
	MaxBinding  = 512
)

// Errors that callers tell apart.
var (
	ErrMalformed = errors.New("evidence is malformed")
	ErrTier      = errors.New("tier is not accepted")
	ErrNonce     = errors.New("nonce differs: the evidence answers another request")
	ErrStale     = errors.New("evidence is outside the accepted time")
	ErrSignature = errors.New("signature of the evidence is wrong")
)

// Evidence is a document with the tier that says how to read it. On the wire and in journals it is the CBOR map
// {1: tier, 2: document}.
type Evidence struct {
	Tier     string `cbor:"1,keyasint"`
	Document []byte `cbor:"2,keyasint"`
}

var (
	encoding = func() cbor.EncMode {
		m, err := cbor.CoreDetEncOptions().EncMode()
		if err != nil {
			panic(err) // constant options
		}
		return m
	}()
	decoding = func() cbor.DecMode {
		m, err := cbor.DecOptions{
			DupMapKey:         cbor.DupMapKeyEnforcedAPF,
			IndefLength:       cbor.IndefLengthForbidden,
			TagsMd:            cbor.TagsForbidden,
			ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
			MaxNestedLevels:   4,
			MaxMapPairs:       16,
			MaxArrayElements:  16,
		}.DecMode()
		if err != nil {
			panic(err) // constant options
		}
		return m
	}()
)

// Encode returns the CBOR form of e.
func (e Evidence) Encode() []byte {
	b, err := encoding.Marshal(e)
	if err != nil {
		panic(err) // a struct of a string and bytes always encodes
	}
	return b
}

// Decode reads the CBOR form of evidence. Errors wrap ErrMalformed.
func Decode(data []byte) (Evidence, error) {
	var e Evidence
	if len(data) > MaxDocument {
		return e, fmt.Errorf("%w: %d bytes, at most %d", ErrMalformed, len(data), MaxDocument)
	}
	if err := decoding.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if e.Tier == "" || len(e.Document) == 0 {
		return e, fmt.Errorf("%w: tier or document is missing", ErrMalformed)
	}
	return e, nil
}

// Options say what a verifier accepts.
type Options struct {
	AllowSoftware bool          // accept the tier `software`, which protects nothing
	Nonce         []byte        // compared in constant time; nil: any, for evidence that was stored
	Time          time.Time     // the time to verify at; zero: the document's own time (for stored evidence)
	Skew          time.Duration // accepted on both sides of Time; 0: DefaultSkew
}

// DefaultSkew is how far a document's time may lie from the verifier's.
const DefaultSkew = 5 * time.Minute

// Result is what genuine evidence says.
type Result struct {
	Tier      string
	PublicKey *ecdsa.PublicKey // P-256, the key that signs tree heads
	Binding   []byte           // hash of the start configuration
	Nonce     []byte
	Time      time.Time // when the document was made, by the attester's clock
}

// Verify checks evidence. It is pure: no clock but opts.Time, no network.
func Verify(e Evidence, opts Options) (*Result, error) {
	var (
		r   *Result
		err error
	)
	switch e.Tier {
	case TierSoftware:
		if !opts.AllowSoftware {
			return nil, fmt.Errorf("%w: software evidence says nothing about where the key lies: allow it explicitly for development", ErrTier)
		}
		r, err = verifySoftware(e.Document)
	default:
		return nil, fmt.Errorf("%w: unknown tier %.32q", ErrTier, e.Tier)
	}
	if err != nil {
		return nil, err
	}
	if opts.Nonce != nil && subtle.ConstantTimeCompare(opts.Nonce, r.Nonce) != 1 {
		return nil, ErrNonce
	}
	if !opts.Time.IsZero() {
		skew := opts.Skew
		if skew == 0 {
			skew = DefaultSkew
		}
		if d := opts.Time.Sub(r.Time); d > skew || d < -skew {
			return nil, fmt.Errorf("%w: made at %s, now %s", ErrStale, r.Time.UTC().Format(time.RFC3339), opts.Time.UTC().Format(time.RFC3339))
		}
	}
	return r, nil
}

// KeyHash is the SHA-256 of a key's PKIX DER form (SubjectPublicKeyInfo), by which keys are pinned and named.
func KeyHash(key *ecdsa.PublicKey) ([32]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return [32]byte{}, fmt.Errorf("encode public key: %w", err)
	}
	return sha256.Sum256(der), nil
}

// parseKey reads a P-256 key in PKIX DER form, in its only encoding.
func parseKey(der []byte) (*ecdsa.PublicKey, error) {
	k, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, fmt.Errorf("%w: public key: %v", ErrMalformed, err)
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: public key is not on P-256", ErrMalformed)
	}
	return pub, nil
}
