package journal

import (
	"fmt"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/raypher/raypher/internal/cborscan"
	"github.com/raypher/raypher/internal/strictcbor"
)

// Type says what the payload of an entry is. Numbers are never reused; docs/protocol.md is the registry.
type Type uint64

// The entry types.
const (
	TypeEpoch       Type = 1
	TypeVisa        Type = 2
	TypeVerdict     Type = 3
	TypeApproval    Type = 4
	TypeCeiling     Type = 5
	TypeLease       Type = 6
	TypeReservation Type = 7
	TypeSettlement  Type = 8
	TypeSnapshot    Type = 9
	TypeKey         Type = 10
	TypeTLS         Type = 11
	TypeProviderKey Type = 12
	TypeControl     Type = 13
)

var typeNames = map[Type]string{
	TypeEpoch: "epoch", TypeVisa: "visa", TypeVerdict: "verdict", TypeApproval: "approval", TypeCeiling: "ceiling",
	TypeLease: "lease", TypeReservation: "reservation", TypeSettlement: "settlement", TypeSnapshot: "snapshot",
	TypeKey: "key", TypeTLS: "tls", TypeProviderKey: "provider key", TypeControl: "cost control",
}

// String names the type; one that this version does not know reads "type 17".
func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return "type " + strconv.FormatUint(uint64(t), 10)
}

// MaxEntrySize bounds an encoded entry, in bytes.
const MaxEntrySize = 64 << 10

// Hash is a SHA-256 in the tree: of an entry or of two hashes, with the prefixes of RFC 6962.
type Hash = tlog.Hash

// EpochID is drawn at random by each enclave process.
type EpochID [16]byte

// String is the identifier in hexadecimal.
func (e EpochID) String() string { return fmt.Sprintf("%x", e[:]) }

// ParseEpochID reads an identifier from its 16 bytes.
func ParseEpochID(raw []byte) (EpochID, error) {
	if len(raw) != len(EpochID{}) {
		return EpochID{}, fmt.Errorf("epoch: %d bytes, an identifier has %d", len(raw), len(EpochID{}))
	}
	return EpochID(raw), nil
}

// Entry is one entry of the journal.
type Entry struct {
	Type    Type   `cbor:"1,keyasint"`
	Time    int64  `cbor:"2,keyasint"` // nanoseconds since the Unix epoch
	Payload []byte `cbor:"3,keyasint"`
}

// NewEntry returns the encoded entry. The payload must leave room for the frame within MaxEntrySize.
func NewEntry(t Type, at time.Time, payload []byte) ([]byte, error) {
	return Entry{Type: t, Time: at.UnixNano(), Payload: payload}.Encode()
}

// Encode returns the bytes that the leaf hash is taken over.
func (e Entry) Encode() ([]byte, error) {
	if e.Type == 0 {
		return nil, fmt.Errorf("journal entry: no type")
	}
	// By hand because every visa goes through here; the test compares it with a general encoder.
	raw := make(cborscan.Output, 0, len(e.Payload)+32)
	raw.Map(3)
	raw.Uint(1)
	raw.Uint(uint64(e.Type))
	raw.Uint(2)
	raw.Int(e.Time)
	raw.Uint(3)
	raw.Bytes(e.Payload)
	if len(raw) > MaxEntrySize {
		return nil, fmt.Errorf("journal entry: %d bytes, the limit is %d", len(raw), MaxEntrySize)
	}
	return raw, nil
}

// Decode reads an entry. Types that this version does not know are kept, with their payload as it is. The payload points
// into raw.
func Decode(raw []byte) (Entry, error) {
	if len(raw) > MaxEntrySize {
		return Entry{}, fmt.Errorf("journal entry: %d bytes, the limit is %d", len(raw), MaxEntrySize)
	}
	c := cborscan.New(raw)
	var e Entry
	c.Map(3)
	c.Key(1)
	e.Type = Type(c.Uint())
	c.Key(2)
	e.Time = c.Int()
	c.Key(3)
	e.Payload = c.Bytes()
	if !c.End() {
		return Entry{}, fmt.Errorf("journal entry: %w", strictcbor.ErrEncoding)
	}
	if e.Type == 0 {
		return Entry{}, fmt.Errorf("journal entry: no type")
	}
	return e, nil
}

// When is the entry's time.
func (e Entry) When() time.Time { return time.Unix(0, e.Time) }

// LeafHash is the hash of an encoded entry in the tree (RFC 6962, section 2.1).
func LeafHash(raw []byte) Hash { return tlog.RecordHash(raw) }
