// Package visa is the format of a visa and its offline verifier. A relying party needs this package, the enclave's public
// key and nothing else: no network, no daemon, no state.
//
// A visa says what an agent may do, until when, and who granted it. It is an entry of the enclave's journal (package
// journal) together with the receipt that proves it, so issuing one and recording it are the same act.
//
// Use [Verify] for one visa and a [Verifier] for many: visas that were granted together share a signed tree head, whose
// signature a Verifier checks once. Neither says that the bearer is the agent: ask for that with [NewChallenge] and
// [VerifyPossession]. What the claims mark as asserted by the parent is only as true as the host is honest.
//
// # Visa
//
// Deterministic CBOR, at most MaxSize bytes. Never use the bytes as a replay key (ECDSA is malleable): use the cti.
//
//	1  entry    bstr: the journal entry of type visa, whose payload is the claims
//	2  receipt  map, see package journal
//	3  head     bstr: the head of the receipt once more, for the visa's namespace and signed by that namespace's own key
//	            (package journal, NamespaceHead); absent where the namespace has none
//
// # Claims
//
// A map of CWT claims (RFC 8392) and EAT claims (RFC 9711); private claims have keys below -65536, as RFC 8392 asks. A
// verifier ignores keys that it does not know; all of them are under the proof.
//
//	1       iss        tstr  spiffe://<trust domain>
//	2       sub        tstr  spiffe://<trust domain>/ns/<namespace>/agent/<name>
//	3       aud        tstr  absent: for everyone
//	4       exp        int   seconds since the Unix epoch; from then on it is expired
//	5       nbf        int   seconds
//	6       iat        int   seconds
//	7       cti        bstr  16 bytes, unique
//	8       cnf        map   {1: COSE_Key} (RFC 8747), P-256
//	10      eat_nonce  bstr  8 to 64 bytes, absent where none was asked for
//	-70001  policy     bstr  SHA-256 of the canonical policy before ~ was expanded
//	-70002  permit     bstr  SHA-256 of the canonical permit that was granted: the intent
//	-70003  config     bstr  SHA-256 of the enclave's start configuration
//	-70004  ceiling    [version uint, SHA-256 bstr]
//	-70005  tier       tstr  software | tpm | nitro
//	-70006  epoch      bstr  16 bytes
//	-70007  namespace  tstr
//	-70008  asserted   map   what the parent said of the agent; the enclave cannot see it:
//	        1 agent id tstr, 2 uid uint, 3 user tstr, 4 pid int, 5 SHA-256 of the program bstr (absent where
//	        it was not hashed), 6 backend tstr (broker | lsm | network: that section alone is held), 7 host tstr,
//	        8 cgroup tstr: the cgroup2 path of programs that ran already, absent where the program was started under the visa
//	-70009  handle     bstr  SHA-256 of the placeholder API key by which the run makes calls of models; absent where it makes none
package visa

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/internal/cborscan"
	"github.com/raypher/raypher/journal"
)

// Bounds, in bytes.
const (
	MaxSize      = 8 << 10 // of a visa
	MaxText      = 256     // of each text claim
	CTISize      = 16
	MinNonceSize = 8
	MaxNonceSize = 64
	maxClaims    = 4 << 10
)

// Claims is what a visa says.
type Claims struct {
	Issuer            string       `cbor:"1,keyasint"`
	Subject           string       `cbor:"2,keyasint"` // SPIFFE ID
	Audience          string       `cbor:"3,keyasint,omitempty"`
	ExpiresAt         int64        `cbor:"4,keyasint"` // seconds since the Unix epoch, like the next two
	NotBefore         int64        `cbor:"5,keyasint"`
	IssuedAt          int64        `cbor:"6,keyasint"`
	ID                []byte       `cbor:"7,keyasint"` // cti
	Confirmation      Confirmation `cbor:"8,keyasint"`
	Nonce             []byte       `cbor:"10,keyasint,omitempty"`
	PolicyHash        []byte       `cbor:"-70001,keyasint"`
	PermitHash        []byte       `cbor:"-70002,keyasint"`
	ConfigurationHash []byte       `cbor:"-70003,keyasint"`
	Ceiling           Ceiling      `cbor:"-70004,keyasint"`
	Tier              string       `cbor:"-70005,keyasint"`
	Epoch             []byte       `cbor:"-70006,keyasint"`
	Namespace         string       `cbor:"-70007,keyasint"`
	Asserted          Asserted     `cbor:"-70008,keyasint"`
	Handle            []byte       `cbor:"-70009,keyasint,omitempty"` // SHA-256 of the placeholder API key
	Budget            uint64       `cbor:"-70010,keyasint,omitempty"` // micro-dollars that the run may spend in its life; 0: none of its own
}

// Confirmation holds the key whose possession the bearer can prove (RFC 8747). Key is a COSE_Key.
type Confirmation struct {
	Key cbor.RawMessage `cbor:"1,keyasint"`
}

// Ceiling names the ceiling under which the visa was granted.
type Ceiling struct {
	_       struct{} `cbor:",toarray"`
	Version uint64
	Hash    []byte // SHA-256 of the bundle
}

// Asserted is what the parent said of the agent. No verifier may take it for more.
type Asserted struct {
	AgentID      string `cbor:"1,keyasint"`
	UID          uint32 `cbor:"2,keyasint"`
	User         string `cbor:"3,keyasint"`
	PID          int32  `cbor:"4,keyasint"`
	BinarySHA256 []byte `cbor:"5,keyasint,omitempty"`
	Backend      string `cbor:"6,keyasint"`
	Host         string `cbor:"7,keyasint"`
	Cgroup       string `cbor:"8,keyasint,omitempty"`
}

var (
	encoding = must(cbor.CoreDetEncOptions().EncMode())
	options  = cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		MaxNestedLevels:   8,
		MaxArrayElements:  64,
		MaxMapPairs:       64,
	}
	lenient = must(options.DecMode()) // claims: keys that this version does not know are under the proof too
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // constant options: cannot fail once it has worked
	}
	return v
}

// Expires is the moment from which the visa counts as expired.
func (c *Claims) Expires() time.Time { return time.Unix(c.ExpiresAt, 0) }

// Encode returns the payload of the journal entry. All claims must be within their bounds.
func (c *Claims) Encode() ([]byte, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("visa claims: %w", err)
	}
	raw := c.encode()
	if len(raw) > maxClaims {
		return nil, fmt.Errorf("visa claims: %d bytes, the limit is %d", len(raw), maxClaims)
	}
	return raw, nil
}

// DecodeClaims reads the payload of a journal entry of type visa. It checks the form, not the truth.
func DecodeClaims(payload []byte) (*Claims, error) {
	if len(payload) > maxClaims {
		return nil, fmt.Errorf("visa claims: %d bytes, the limit is %d", len(payload), maxClaims)
	}
	c := new(Claims)
	if err := lenient.Unmarshal(payload, c); err != nil {
		return nil, fmt.Errorf("visa claims: %w", err)
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("visa claims: %w", err)
	}
	return c, nil
}

func (c *Claims) check() error {
	for _, s := range []struct {
		name, text string
		needed     bool
	}{
		{"iss", c.Issuer, true}, {"sub", c.Subject, true}, {"aud", c.Audience, false}, {"tier", c.Tier, true},
		{"namespace", c.Namespace, false}, {"asserted agent", c.Asserted.AgentID, true}, {"asserted user", c.Asserted.User, false},
		{"asserted backend", c.Asserted.Backend, false}, {"asserted host", c.Asserted.Host, false},
		{"asserted cgroup", c.Asserted.Cgroup, false},
	} {
		if len(s.text) > MaxText || s.needed && s.text == "" {
			return fmt.Errorf("%s: %d bytes, expected at most %d and not none", s.name, len(s.text), MaxText)
		}
	}
	for _, h := range []struct {
		name string
		raw  []byte
		size int
	}{
		{"cti", c.ID, CTISize}, {"epoch", c.Epoch, len(journal.EpochID{})}, {"policy", c.PolicyHash, 32}, {"permit", c.PermitHash, 32},
		{"config", c.ConfigurationHash, 32}, {"ceiling", c.Ceiling.Hash, 32},
	} {
		if len(h.raw) != h.size {
			return fmt.Errorf("%s: %d bytes, expected %d", h.name, len(h.raw), h.size)
		}
	}
	if n := len(c.Asserted.BinarySHA256); n != 0 && n != 32 {
		return fmt.Errorf("asserted program: %d bytes, expected 32", n)
	}
	if n := len(c.Handle); n != 0 && n != 32 {
		return fmt.Errorf("handle: %d bytes, expected 32", n)
	}
	if c.Budget > journal.MaxSpending {
		return fmt.Errorf("budget: %d micro-dollars, at most %d", c.Budget, uint64(journal.MaxSpending))
	}
	if n := len(c.Nonce); n != 0 && (n < MinNonceSize || n > MaxNonceSize) {
		return fmt.Errorf("eat_nonce: %d bytes, expected %d to %d", n, MinNonceSize, MaxNonceSize)
	}
	if !strings.HasPrefix(c.Subject, "spiffe://") || !strings.HasPrefix(c.Issuer, "spiffe://") {
		return errors.New("iss or sub is no SPIFFE ID")
	}
	if c.NotBefore < 0 || c.NotBefore >= c.ExpiresAt || c.IssuedAt < 0 || c.ExpiresAt > maxTime {
		return errors.New("nbf, iat and exp are not in order")
	}
	return checkConfirmationKey(c.Confirmation.Key)
}

// maxTime keeps sums of times within range: the year 9999.
const maxTime = 253402300799

// Encode puts a visa together. The entry is the journal entry as encoded, the receipt proves it.
func Encode(entry []byte, receipt *journal.Receipt) ([]byte, error) {
	return EncodeNamespaced(entry, receipt, nil)
}

// EncodeNamespaced is Encode for a visa whose namespace has a key of its own: namespaceHead is the receipt's head once more, by that
// key; nil where there is none.
func EncodeNamespaced(entry []byte, receipt *journal.Receipt, namespaceHead []byte) ([]byte, error) {
	o := make(cborscan.Output, 0, len(entry)+34*len(receipt.Path)+len(receipt.SignedHead)+len(namespaceHead)+84)
	pairs := uint64(2)
	if namespaceHead != nil {
		pairs = 3
	}
	o.Map(pairs)
	o.Uint(1)
	o.Bytes(entry)
	o.Uint(2)
	o = receipt.AppendTo(o)
	if namespaceHead != nil {
		o.Uint(3)
		o.Bytes(namespaceHead)
	}
	data := []byte(o)
	if len(data) > MaxSize {
		return nil, fmt.Errorf("visa: %d bytes, the limit is %d", len(data), MaxSize)
	}
	return data, nil
}

// Split takes a visa apart: the journal entry, the receipt and the claims, none of them verified.
func Split(data []byte) (entry []byte, receipt *journal.Receipt, claims *Claims, err error) {
	if entry, receipt, _, err = open(bytes.Clone(data)); err != nil {
		return nil, nil, nil, err
	}
	if claims, err = claimsOf(entry); err != nil {
		return nil, nil, nil, err
	}
	return entry, receipt, claims, nil
}

// Read returns the claims of a visa without verifying anything: for display, and for whoever got the visa from the side
// that made it.
func Read(data []byte) (*Claims, error) {
	_, _, claims, err := Split(data)
	return claims, err
}

// open reads the outer form; what it returns points into data. namespaceHead is nil where there is none.
func open(data []byte) (entry []byte, receipt *journal.Receipt, namespaceHead []byte, err error) {
	if len(data) == 0 || len(data) > MaxSize {
		return nil, nil, nil, fmt.Errorf("%w: %d bytes, expected 1 to %d", ErrMalformed, len(data), MaxSize)
	}
	const mapOf3 = 0xa3 // RFC 8949 section 3.1
	pairs := uint64(2)
	if data[0] == mapOf3 {
		pairs = 3
	}
	c := cborscan.New(data)
	c.Map(pairs)
	c.Key(1)
	entry = c.Bytes()
	c.Key(2)
	if !c.OK() {
		return nil, nil, nil, fmt.Errorf("%w: not the expected map in deterministic encoding", ErrMalformed)
	}
	receipt, rest, err := journal.CutReceipt(c.Rest())
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	c = cborscan.New(rest)
	if pairs == 3 {
		c.Key(3)
		namespaceHead = c.Bytes()
	}
	if !c.End() || pairs == 3 && (len(namespaceHead) == 0 || len(namespaceHead) > journal.MaxSignedHeadSize) {
		return nil, nil, nil, fmt.Errorf("%w: after the receipt", ErrMalformed)
	}
	return entry, receipt, namespaceHead, nil
}

func claimsOf(entry []byte) (*Claims, error) {
	e, err := journal.Decode(entry)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if e.Type != journal.TypeVisa {
		return nil, fmt.Errorf("%w: a journal entry of type %s", ErrMalformed, e.Type)
	}
	c, err := DecodeClaims(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return c, nil
}
