package journal

import (
	"fmt"

	"github.com/raypher/raypher/internal/strictcbor"
)

// ControlInstalled is the payload of an entry of TypeControl: a cost_control.yaml was put in force.
type ControlInstalled struct {
	Version uint64 `cbor:"1,keyasint"`
	Hash    Hash   `cbor:"2,keyasint"` // SHA-256 of its canonical form, as reservations name it
}

// Encode returns the payload.
func (c ControlInstalled) Encode() []byte { return strictcbor.Encode(c) }

// DecodeControlInstalled reads the payload of an entry of TypeControl.
func DecodeControlInstalled(payload []byte) (ControlInstalled, error) {
	var c ControlInstalled
	if err := strictcbor.Decode(payload, 64, &c); err != nil {
		return ControlInstalled{}, fmt.Errorf("control entry: %w", err)
	}
	return c, nil
}
