package journal

import (
	"errors"
	"fmt"
	"time"

	"github.com/raypher/raypher/internal/strictcbor"
)

// Head is a tree head: what the tree of an epoch was at a size.
type Head struct {
	Epoch             EpochID `cbor:"1,keyasint"`
	Size              uint64  `cbor:"2,keyasint"` // entries, at least 1
	Root              Hash    `cbor:"3,keyasint"`
	Time              int64   `cbor:"4,keyasint"` // nanoseconds since the Unix epoch
	Tier              string  `cbor:"5,keyasint"`
	ConfigurationHash Hash    `cbor:"6,keyasint"`
}

// When is the time at which the head was signed, by the enclave's clock.
func (h *Head) When() time.Time { return time.Unix(0, h.Time) }

// MaxSignedHeadSize bounds a signed head, in bytes.
const MaxSignedHeadSize = 1024

const headType = "application/raypher-head+cbor"

// SignHead returns the COSE_Sign1 of a head.
func SignHead(h Head, signer Signer) ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("tree head: %w", err)
	}
	signed, err := signMessage(headType, vdsRFC9162, strictcbor.Encode(&h), signer)
	if err != nil {
		return nil, fmt.Errorf("tree head: %w", err)
	}
	return signed, nil
}

// VerifyHead reads a signed head and checks its form and its signature. Errors wrap ErrUnknownKey or ErrSignature where
// they are about the key.
func VerifyHead(signed []byte, key *Key) (*Head, error) {
	m, h, err := parseHead(signed)
	if err != nil {
		return nil, err
	}
	if err := m.verify(key); err != nil {
		return nil, fmt.Errorf("tree head: %w", err)
	}
	return h, nil
}

// ReadHead reads a signed head and the identifier of the key that it names without checking the signature: what it
// returns is a claim.
func ReadHead(signed []byte) (*Head, [32]byte, error) {
	m, h, err := parseHead(signed)
	if err != nil {
		return nil, [32]byte{}, err
	}
	return h, m.keyID, nil
}

func parseHead(signed []byte) (*message, *Head, error) {
	m, err := parseMessage(headType, vdsRFC9162, signed, MaxSignedHeadSize)
	if err != nil {
		return nil, nil, fmt.Errorf("tree head: %w", err)
	}
	var h Head
	if err := strictcbor.Decode(m.payload, MaxSignedHeadSize, &h); err != nil {
		return nil, nil, fmt.Errorf("tree head: %w", err)
	}
	if err := h.check(); err != nil {
		return nil, nil, fmt.Errorf("tree head: %w", err)
	}
	return m, &h, nil
}

func (h *Head) check() error {
	if h.Size == 0 || h.Size > maxTreeSize {
		return errors.New("a size that no tree has")
	}
	return checkTier(h.Tier)
}
