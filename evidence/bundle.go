// Package evidence is the self-contained proof of one journal entry: a bundle that anyone can check offline with the
// enclave's key, or with the evidence behind that key. The parent's store exports bundles, the CLI and third parties verify
// them. It does no input or output and imports neither side of the pair.
//
// # Bundle
//
// Deterministic CBOR, at most MaxSize bytes.
//
//	1  entry              bstr: the journal entry as encoded
//	2  receipt            map, see package journal
//	3  key evidence       map {1: tier, 2: document} for the key that signed the receipt's head, from entry 0 of its epoch
//	4  visa               bstr, see package visa: the one in force when it happened; absent where the entry names none
//	5  visa key evidence  map as in 3, where the visa lies in another epoch
package evidence

import (
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/visa"
)

// MaxSize bounds a bundle, in bytes.
const MaxSize = journal.MaxEntrySize + 2*journal.MaxKeyEvidenceSize + visa.MaxSize + 8<<10

// Bundle is the proof of one entry.
type Bundle struct {
	Entry           []byte               `cbor:"1,keyasint"`
	Receipt         journal.Receipt      `cbor:"2,keyasint"`
	KeyEvidence     journal.KeyEvidence  `cbor:"3,keyasint"`
	Visa            []byte               `cbor:"4,keyasint,omitempty"`
	VisaKeyEvidence *journal.KeyEvidence `cbor:"5,keyasint,omitempty"`
}

// ErrMalformed means that something is no bundle.
var ErrMalformed = errors.New("evidence malformed")

// Encode returns the bundle as CBOR.
func (b *Bundle) Encode() ([]byte, error) {
	c := *b
	if c.Receipt.Path == nil {
		c.Receipt.Path = []journal.Hash{}
	}
	raw := strictcbor.Encode(&c)
	if len(raw) > MaxSize {
		return nil, fmt.Errorf("evidence: %d bytes, the limit is %d", len(raw), MaxSize)
	}
	return raw, nil
}

// Decode reads a bundle. Nothing is verified.
func Decode(data []byte) (*Bundle, error) {
	if len(data) == 0 || len(data) > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, expected 1 to %d", ErrMalformed, len(data), MaxSize)
	}
	b := new(Bundle)
	if err := strictcbor.Decode(data, MaxSize, b); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return b, nil
}
