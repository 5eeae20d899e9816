package journal

import (
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/strictcbor"
)

// MaxGrantSize bounds a signed grant of credit, in bytes.
const MaxGrantSize = 4096

// Lease is the payload of an entry of TypeLease: a grant of credit was put in force, or one lease of it was taken. What a lease
// is and how it is counted, package enclave/lease says.
type Lease struct {
	Grant   Hash     `cbor:"1,keyasint"` // SHA-256 of the signed grant
	Version uint64   `cbor:"2,keyasint"` // of the grant
	Anchor  [32]byte `cbor:"3,keyasint"` // names the counter
	Counter uint64   `cbor:"4,keyasint"` // of the anchor: with this lease, or when the grant came into force
	// Number of the lease within the grant, from 1; 0: the grant came into force.
	Number uint64 `cbor:"5,keyasint"`
	Amount uint64 `cbor:"6,keyasint"`           // of the lease, in the grant's unit; 0 with number 0
	Signed []byte `cbor:"7,keyasint,omitempty"` // the signed grant, with number 0 only
}

// Encode returns the payload.
func (l *Lease) Encode() ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("lease entry: %w", err)
	}
	return strictcbor.Encode(l), nil
}

// DecodeLease reads the payload of an entry of TypeLease. It checks the form, not the signature of the grant.
func DecodeLease(payload []byte) (*Lease, error) {
	var l Lease
	if err := strictcbor.Decode(payload, MaxGrantSize+256, &l); err != nil {
		return nil, fmt.Errorf("lease entry: %w", err)
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("lease entry: %w", err)
	}
	return &l, nil
}

func (l *Lease) check() error {
	if l.Number == 0 && (l.Amount != 0 || len(l.Signed) == 0 || len(l.Signed) > MaxGrantSize) {
		return errors.New("a grant that comes into force has no amount and is carried along")
	}
	if l.Number > 0 && (l.Amount == 0 || len(l.Signed) > 0 || l.Counter < l.Number) {
		return errors.New("a lease has an amount, a counter not below its number, and no grant beside it")
	}
	return nil
}
