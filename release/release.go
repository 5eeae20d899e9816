// Package release is how a policy reaches a fleet: a file that an operator signs and a controller hands to hosts, and the rule
// that says which agents get the newest one first. Hosts check the operator's signature themselves, so a controller can hold a
// release back and can not make or change one.
//
// Open verifies a release against operator keys; Read only says what it claims. Nothing here reads files or the network.
//
// # File
//
// A COSE_Sign1 as package sign1 makes it, of type application/raypher-policy+cbor. Its payload is a map:
//
//	1  name       tstr, 1 to 128 bytes of a-z A-Z 0-9 . - _, beginning with a letter or digit, so that it can name a file
//	2  version    uint, at least 1; only goes upwards, per name
//	3  policy     bstr, canonical form (policy.Canonical), in which ~ stands for the agent's home
//	4  not after  uint, seconds since the Unix epoch, from which on no agent starts with it; 0: none
package release

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/raypher/raypher/internal/sign1"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/policy"
)

// Bounds.
const (
	MaxName   = 128             // bytes
	MaxPolicy = 256 << 10       // bytes of the canonical form, as an enclave takes it for a visa
	MaxFile   = MaxPolicy + 512 // bytes
	// MaxHeld is how many releases a host keeps: the newest of each name, and while that is a canary the one before.
	MaxHeld = 64
)

const fileType = "application/raypher-policy+cbor"

// Errors that callers tell apart.
var (
	ErrMalformed = errors.New("released policy is malformed")
	ErrSignature = errors.New("released policy is not signed by a trusted operator key")
)

// Release is one version of a named policy. It is immutable once it was opened.
type Release struct {
	Name     string
	Version  uint64
	Policy   *policy.Policy
	NotAfter time.Time         // whole seconds; zero: none
	Hash     [sha256.Size]byte // of the signed file; zero before it is signed
}

type wire struct {
	Name     string `cbor:"1,keyasint"`
	Version  uint64 `cbor:"2,keyasint"`
	Policy   []byte `cbor:"3,keyasint"`
	NotAfter uint64 `cbor:"4,keyasint"`
}

// Over says whether no agent starts with r any more.
func (r *Release) Over(now time.Time) bool { return !r.NotAfter.IsZero() && !now.Before(r.NotAfter) }

// CheckName refuses what cannot be the name of a released policy.
func CheckName(name string) error {
	good := name != "" && len(name) <= MaxName && letterOrDigit(name[0])
	for i := range len(name) {
		good = good && (letterOrDigit(name[i]) || name[i] == '.' || name[i] == '-' || name[i] == '_')
	}
	if !good {
		return fmt.Errorf("name %.140q: use 1 to %d bytes of a-z A-Z 0-9 . - _, a letter or digit first", name, MaxName)
	}
	return nil
}

func letterOrDigit(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// Sign returns the signed file of r: ed25519.PrivateKey, or *ecdsa.PrivateKey on P-256.
func Sign(r *Release, key crypto.Signer) ([]byte, error) {
	w := wire{Name: r.Name, Version: r.Version, Policy: r.Policy.Canonical()}
	if !r.NotAfter.IsZero() {
		if r.NotAfter.Unix() <= 0 {
			return nil, fmt.Errorf("sign policy: it may be used until %s: give a later time", r.NotAfter)
		}
		w.NotAfter = uint64(r.NotAfter.Unix())
	}
	if _, err := w.release(); err != nil {
		return nil, fmt.Errorf("sign policy: %w", err)
	}
	file, err := sign1.Sign(fileType, strictcbor.Encode(&w), key)
	if err != nil {
		return nil, fmt.Errorf("sign policy: %w", err)
	}
	return file, nil
}

// files are the signed ones.
var files = sign1.Kind[*Release]{
	Type: fileType, Limit: MaxFile, Malformed: ErrMalformed, Untrusted: ErrSignature, Make: "make one with `raypher policy release`", Decode: decode,
}

// Open verifies a signed file against operator keys (PKIX DER). Errors wrap ErrMalformed or ErrSignature. The signature is
// checked before the payload is looked into. Whether it is over is the caller's to ask.
func Open(file []byte, operatorKeys [][]byte) (*Release, error) {
	return files.Open(file, operatorKeys)
}

// Read returns the release in a signed file and the SHA-256 of the key that it names, without verifying the signature: what it
// returns is a claim.
func Read(file []byte) (*Release, [32]byte, error) { return files.Read(file) }

func decode(file, payload []byte) (*Release, error) {
	var w wire
	if err := strictcbor.Decode(payload, MaxFile, &w); err != nil {
		return nil, err
	}
	r, err := w.release()
	if err != nil {
		return nil, err
	}
	r.Hash = sha256.Sum256(file)
	return r, nil
}

// release holds the bounds, for releases that are signed and for those that arrive.
func (w *wire) release() (*Release, error) {
	if err := CheckName(w.Name); err != nil {
		return nil, err
	}
	switch {
	case w.Version == 0 || w.Version > math.MaxInt64: // databases count in signed numbers
		return nil, fmt.Errorf("version %d: use a number from 1, larger than the last one", w.Version)
	case len(w.Policy) > MaxPolicy:
		return nil, fmt.Errorf("policy of %d bytes, at most %d", len(w.Policy), MaxPolicy)
	case w.NotAfter > math.MaxInt64:
		return nil, fmt.Errorf("not after %d: no time", w.NotAfter)
	}
	p, err := policy.ParseCanonical(w.Policy)
	if err != nil {
		return nil, err
	}
	r := &Release{Name: w.Name, Version: w.Version, Policy: p}
	if w.NotAfter != 0 {
		r.NotAfter = time.Unix(int64(w.NotAfter), 0)
	}
	return r, nil
}
