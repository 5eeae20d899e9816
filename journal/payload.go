package journal

import (
	"errors"
	"fmt"

	"github.com/raypher/raypher/internal/strictcbor"
)

// EpochStart is the payload of entry 0 of each epoch: who signs it, and what it follows.
type EpochStart struct {
	Epoch             EpochID      `cbor:"1,keyasint"`
	PublicKey         []byte       `cbor:"2,keyasint"` // PKIX DER, P-256
	Tier              string       `cbor:"3,keyasint"`
	ConfigurationHash Hash         `cbor:"4,keyasint"`
	KeyEvidence       KeyEvidence  `cbor:"5,keyasint"`
	Predecessor       *Predecessor `cbor:"6,keyasint,omitempty"`
}

// Predecessor is the head of the epoch before, as the parent's store held it when this one began. The writer has checked
// its signature; whether its key belonged to an enclave at all is for the verifier of KeyEvidence to say.
type Predecessor struct {
	Epoch       EpochID     `cbor:"1,keyasint"`
	Size        uint64      `cbor:"2,keyasint"`
	SignedHead  []byte      `cbor:"3,keyasint"`
	KeyEvidence KeyEvidence `cbor:"4,keyasint"`
}

// Encode returns the payload.
func (s *EpochStart) Encode() ([]byte, error) {
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("epoch entry: %w", err)
	}
	return strictcbor.Encode(s), nil
}

// DecodeEpochStart reads the payload of an entry of TypeEpoch. It checks the form of the key, not the evidence.
func DecodeEpochStart(payload []byte) (*EpochStart, error) {
	var s EpochStart
	if err := strictcbor.Decode(payload, MaxEntrySize, &s); err != nil {
		return nil, fmt.Errorf("epoch entry: %w", err)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("epoch entry: %w", err)
	}
	return &s, nil
}

// Key returns the key that signs this epoch's heads.
func (s *EpochStart) Key() (*Key, error) { return ParseKey(s.PublicKey) }

func (s *EpochStart) check() error {
	if _, err := ParseKey(s.PublicKey); err != nil {
		return err
	}
	if err := checkTier(s.Tier); err != nil {
		return err
	}
	if err := s.KeyEvidence.check(); err != nil {
		return err
	}
	if p := s.Predecessor; p != nil {
		if p.Size == 0 || len(p.SignedHead) == 0 || len(p.SignedHead) > MaxSignedHeadSize {
			return errors.New("predecessor: no entries, or no signed head of a sound size")
		}
		return p.KeyEvidence.check()
	}
	return nil
}

// CeilingInstalled is the payload of an entry of TypeCeiling: from here on visas name this ceiling.
type CeilingInstalled struct {
	Version uint64 `cbor:"1,keyasint"`
	Hash    Hash   `cbor:"2,keyasint"` // SHA-256 of the bundle
}

// Encode returns the payload.
func (c CeilingInstalled) Encode() []byte { return strictcbor.Encode(c) }

// DecodeCeilingInstalled reads the payload of an entry of TypeCeiling.
func DecodeCeilingInstalled(payload []byte) (CeilingInstalled, error) {
	var c CeilingInstalled
	if err := strictcbor.Decode(payload, 64, &c); err != nil {
		return CeilingInstalled{}, fmt.Errorf("ceiling entry: %w", err)
	}
	return c, nil
}

// The tiers: where the signing key lies.
const (
	TierSoftware = "software" // a file; proves nothing about the host
	TierTPM      = "tpm"
	TierNitro    = "nitro"
)

func checkTier(tier string) error {
	switch tier {
	case TierSoftware, TierTPM, TierNitro:
		return nil
	}
	return fmt.Errorf("tier %.32q is none of software, tpm, nitro", tier)
}
