package journal

import (
	"errors"
	"fmt"
	"time"

	"github.com/raypher/raypher/internal/strictcbor"
)

// KeyEvidence says why a key may be believed to belong to an enclave of a tier. What the document is depends on the tier;
// package evidence verifies them.
type KeyEvidence struct {
	Tier     string `cbor:"1,keyasint"`
	Document []byte `cbor:"2,keyasint"`
}

// MaxKeyEvidenceSize bounds the document, in bytes: a Nitro document has at most 16 KiB.
const MaxKeyEvidenceSize = 16 << 10

// MaxNonceSize bounds the nonce in a statement, in bytes.
const MaxNonceSize = 64

func (e *KeyEvidence) check() error {
	if err := checkTier(e.Tier); err != nil {
		return fmt.Errorf("key evidence: %w", err)
	}
	if len(e.Document) == 0 || len(e.Document) > MaxKeyEvidenceSize {
		return fmt.Errorf("key evidence: a document of %d bytes, expected 1 to %d", len(e.Document), MaxKeyEvidenceSize)
	}
	return nil
}

// Encode returns the evidence as CBOR.
func (e *KeyEvidence) Encode() []byte { return strictcbor.Encode(e) }

// DecodeKeyEvidence reads what Encode made. The document is not looked into.
func DecodeKeyEvidence(data []byte) (*KeyEvidence, error) {
	var e KeyEvidence
	if err := strictcbor.Decode(data, MaxKeyEvidenceSize+64, &e); err != nil {
		return nil, fmt.Errorf("key evidence: %w", err)
	}
	if err := e.check(); err != nil {
		return nil, err
	}
	return &e, nil
}

// Statement is the document of the tier software: what a key says of itself. It proves possession of the key, nothing
// about where it lies.
type Statement struct {
	Tier              string  `cbor:"1,keyasint"`
	PublicKey         []byte  `cbor:"2,keyasint"` // PKIX DER
	Epoch             EpochID `cbor:"3,keyasint"`
	ConfigurationHash Hash    `cbor:"4,keyasint"`
	Nonce             []byte  `cbor:"5,keyasint,omitempty"`
	Time              int64   `cbor:"6,keyasint"` // nanoseconds since the Unix epoch
}

const statementType = "application/raypher-key+cbor"

// SignStatement returns key evidence of the tier software for the signer's key. The nonce may be empty.
func SignStatement(signer Signer, epoch EpochID, configuration Hash, nonce []byte, at time.Time) (*KeyEvidence, error) {
	key, err := NewKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("key statement: %w", err)
	}
	if len(nonce) > MaxNonceSize {
		return nil, fmt.Errorf("key statement: a nonce of %d bytes, the limit is %d", len(nonce), MaxNonceSize)
	}
	s := Statement{Tier: TierSoftware, PublicKey: key.PKIX(), Epoch: epoch, ConfigurationHash: configuration, Nonce: nonce, Time: at.UnixNano()}
	document, err := signMessage(statementType, 0, strictcbor.Encode(&s), signer)
	if err != nil {
		return nil, fmt.Errorf("key statement: %w", err)
	}
	return &KeyEvidence{Tier: TierSoftware, Document: document}, nil
}

// VerifyStatement checks a document of the tier software and returns what it says. Nothing outside the document vouches
// for the key: compare it with one that is pinned, or treat it as what it is.
func VerifyStatement(document []byte) (*Statement, *Key, error) {
	m, err := parseMessage(statementType, 0, document, MaxKeyEvidenceSize)
	if err != nil {
		return nil, nil, fmt.Errorf("key statement: %w", err)
	}
	var s Statement
	if err := strictcbor.Decode(m.payload, MaxKeyEvidenceSize, &s); err != nil {
		return nil, nil, fmt.Errorf("key statement: %w", err)
	}
	if s.Tier != TierSoftware || len(s.Nonce) > MaxNonceSize {
		return nil, nil, errors.New("key statement: a tier other than software, or a nonce that is too long")
	}
	key, err := ParseKey(s.PublicKey)
	if err != nil {
		return nil, nil, fmt.Errorf("key statement: %w", err)
	}
	if err := m.verify(key); err != nil {
		return nil, nil, fmt.Errorf("key statement: %w", err)
	}
	return &s, key, nil
}
