package journal

import (
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/strictcbor"
)

// ProviderKeyAction is what was done to a key of a provider.
type ProviderKeyAction uint64

// The actions.
const (
	KeyAdded   ProviderKeyAction = 1
	KeyRotated ProviderKeyAction = 2
	KeyRemoved ProviderKeyAction = 3
)

// String names the action.
func (a ProviderKeyAction) String() string {
	switch a {
	case KeyAdded:
		return "added"
	case KeyRotated:
		return "rotated"
	case KeyRemoved:
		return "removed"
	}
	return fmt.Sprintf("action %d", uint64(a))
}

const maxProviderKey = 256 // bytes

// ProviderKey is the payload of an entry of TypeProviderKey: an operator changed a key that the enclave holds for calls of a provider. The
// key itself is never in the journal.
type ProviderKey struct {
	Name    string            `cbor:"1,keyasint"`
	Action  ProviderKeyAction `cbor:"2,keyasint"`
	Version uint64            `cbor:"3,keyasint"` // of the change
	// Fingerprint tells two keys apart: a keyed hash whose key only the enclave has.
	Fingerprint [4]byte `cbor:"4,keyasint"`
	Operator    Hash    `cbor:"5,keyasint"` // SHA-256 of the operator key that signed the change
}

// Encode returns the payload.
func (p *ProviderKey) Encode() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("provider key entry: %w", err)
	}
	return strictcbor.Encode(p), nil
}

// DecodeProviderKey reads the payload of an entry of TypeProviderKey.
func DecodeProviderKey(payload []byte) (*ProviderKey, error) {
	var p ProviderKey
	if err := strictcbor.Decode(payload, maxProviderKey, &p); err != nil {
		return nil, fmt.Errorf("provider key entry: %w", err)
	}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("provider key entry: %w", err)
	}
	return &p, nil
}

func (p *ProviderKey) check() error {
	if p.Action < KeyAdded || p.Action > KeyRemoved {
		return fmt.Errorf("action %d is none of 1, 2, 3", p.Action)
	}
	if p.Version == 0 {
		return errors.New("no version")
	}
	return checkName(p.Name)
}
