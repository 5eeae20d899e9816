package journal

import (
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/cborscan"
	"github.com/raypher/raypher/internal/strictcbor"
)

// Bounds of snapshots.
const (
	// MaxSnapshotPart bounds the bytes of one part.
	MaxSnapshotPart = 48 << 10
	// MaxSnapshotParts bounds how many a snapshot has: 192 MiB, above all that a ledger may hold.
	MaxSnapshotParts = 4096
)

// SnapshotPart is the payload of an entry of TypeSnapshot: a part of what all entries about money before the first part add up to
// (enclave/ledger). The parts of a snapshot follow each other, with no entry about money between them.
type SnapshotPart struct {
	ID     Hash   // SHA-256 of the whole
	Number uint64 // from 0
	Parts  uint64
	Bytes  []byte
}

// Encode returns the payload.
func (p *SnapshotPart) Encode() ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	out := make(cborscan.Output, 0, len(p.Bytes)+64)
	out.Map(4)
	out.Uint(1)
	out.Bytes(p.ID[:])
	out.Uint(2)
	out.Uint(p.Number)
	out.Uint(3)
	out.Uint(p.Parts)
	out.Uint(4)
	out.Bytes(p.Bytes)
	return out, nil
}

// DecodeSnapshotPart reads the payload of an entry of TypeSnapshot, from outside. Bytes points into payload.
func DecodeSnapshotPart(payload []byte) (*SnapshotPart, error) {
	c := cborscan.New(payload)
	var p SnapshotPart
	c.Map(4)
	c.Key(1)
	c.Fixed(p.ID[:])
	c.Key(2)
	p.Number = c.Uint()
	c.Key(3)
	p.Parts = c.Uint()
	c.Key(4)
	p.Bytes = c.Bytes()
	if !c.End() {
		return nil, fmt.Errorf("snapshot entry: %w", strictcbor.ErrEncoding)
	}
	return &p, p.check()
}

func (p *SnapshotPart) check() error {
	if p.Parts == 0 || p.Parts > MaxSnapshotParts || p.Number >= p.Parts || len(p.Bytes) == 0 || len(p.Bytes) > MaxSnapshotPart {
		return errors.New("snapshot entry: a part that no snapshot has")
	}
	return nil
}
