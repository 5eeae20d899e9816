package lease

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"
	_ "time/tzdata" // zones, where the machine has none: an enclave

	"github.com/raypher/raypher/internal/sign1"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// grantType is the COSE header `typ` of a signed grant.
const grantType = "application/raypher-grant+cbor"

// Units of a grant.
const (
	MicroUSD = "micro-usd"
	Visas    = "visas"
)

// Bounds of a grant.
const (
	// MaxLeases of one grant bounds how often it can make an anchor count. NV memory of TPMs is good for some 100,000 writes
	// of a cell: a grant a month of the most leases is 33 writes a day and lasts eight years, the default of 100 lasts eighty.
	MaxLeases = 1000
	// DefaultLeases: a lease is 1 % of the grant.
	DefaultLeases = 100
	// MaxCap keeps sums of caps far from the end of an integer: 9.2 billion dollars.
	MaxCap       = 1 << 53
	maxNamespace = 128 // bytes
	maxZone      = 64  // bytes
)

// periodLayout is how a month is written.
const periodLayout = "2006-01"

// Grant is so much credit for one host in one month. The zero value is not valid.
type Grant struct {
	Version   uint64   // larger than that of the grant before
	Period    string   // the month, as 2026-11, in Zone
	Zone      string   // whose months they are, an IANA name; empty: UTC
	Namespace string   // who may spend it; empty: the whole host
	Unit      string   // MicroUSD or Visas
	Cap       uint64   // in the unit
	Lease     uint64   // size of a lease; the last one is what is left
	Anchor    [32]byte // ID of the counter
	Baseline  uint64   // value of the counter before the first lease
	NotBefore int64    // Unix seconds, within the month
	NotAfter  int64    // Unix seconds, from which on it is over; at most the month's end
	Hash      journal.Hash
	signed    []byte
}

type wireGrant struct {
	Version   uint64   `cbor:"1,keyasint"`
	Period    string   `cbor:"2,keyasint"`
	Namespace string   `cbor:"3,keyasint"`
	Unit      string   `cbor:"4,keyasint"`
	Cap       uint64   `cbor:"5,keyasint"`
	Lease     uint64   `cbor:"6,keyasint"`
	Anchor    [32]byte `cbor:"7,keyasint"`
	Baseline  uint64   `cbor:"8,keyasint"`
	NotBefore int64    `cbor:"9,keyasint"`
	NotAfter  int64    `cbor:"10,keyasint"`
	Zone      string   `cbor:"11,keyasint,omitempty"`
}

// Signed is the grant as it was signed.
func (g *Grant) Signed() []byte { return g.signed }

// Leases is how many leases the grant has.
func (g *Grant) Leases() uint64 { return (g.Cap + g.Lease - 1) / g.Lease }

// Amount is the size of lease number n, from 1. The sizes of all leases add up to Cap.
func (g *Grant) Amount(n uint64) uint64 {
	if n < 1 || n > g.Leases() {
		return 0
	}
	return min(g.Lease, g.Cap-(n-1)*g.Lease)
}

// Left is what the leases after the first n hold.
func (g *Grant) Left(n uint64) uint64 {
	if n >= g.Leases() {
		return 0
	}
	return g.Cap - n*g.Lease
}

// Month returns the bounds of a period in UTC, in Unix seconds.
func Month(period string) (begin, end int64, err error) { return MonthIn(period, "") }

// MonthIn returns the bounds of a period in a time zone, an IANA name or empty for UTC, in Unix seconds.
func MonthIn(period, zone string) (begin, end int64, err error) {
	location, err := time.LoadLocation(zone)
	if err != nil || len(zone) > maxZone || zone == "Local" {
		return 0, 0, fmt.Errorf("time zone %.80q: use an IANA name, like Europe/Berlin", zone)
	}
	t, err := time.ParseInLocation(periodLayout, period, location)
	if err != nil {
		return 0, 0, fmt.Errorf("period %.40q: write a month as 2026-11", period)
	}
	return t.Unix(), t.AddDate(0, 1, 0).Unix(), nil
}

// PeriodOf is the month of a time, in UTC.
func PeriodOf(t time.Time) string { return t.UTC().Format(periodLayout) }

// check holds the bounds, for grants that are signed and for those that arrive.
func (g *Grant) check() error {
	begin, end, err := MonthIn(g.Period, g.Zone)
	if err != nil {
		return err
	}
	switch {
	case g.Version == 0:
		return errors.New("version: use a number from 1, larger than the last one")
	case len(g.Namespace) > maxNamespace:
		return fmt.Errorf("namespace: %d bytes, at most %d", len(g.Namespace), maxNamespace)
	case g.Unit != MicroUSD && g.Unit != Visas:
		return fmt.Errorf("unit %.40q: use %s or %s", g.Unit, MicroUSD, Visas)
	case g.Cap == 0 || g.Cap > MaxCap:
		return fmt.Errorf("cap: %d, use 1 to %d", g.Cap, uint64(MaxCap))
	case g.Lease == 0 || g.Lease > g.Cap:
		return fmt.Errorf("lease: %d, use 1 to the cap, %d", g.Lease, g.Cap)
	case g.Leases() > MaxLeases:
		return fmt.Errorf("lease: %d makes %d leases, at most %d, or the counter wears out: use at least %d", g.Lease, g.Leases(), MaxLeases, (g.Cap+MaxLeases-1)/MaxLeases)
	case g.Anchor == [32]byte{}:
		return errors.New("anchor: copy it from `raypher grant status`")
	case g.NotBefore < begin || g.NotAfter > end || g.NotBefore >= g.NotAfter:
		return fmt.Errorf("not_before and not_after: they have to lie within %s, one after the other", g.Period)
	}
	return nil
}

// Sign returns the grant signed with an operator key: ed25519.PrivateKey, or *ecdsa.PrivateKey on P-256.
func Sign(g *Grant, key crypto.Signer) ([]byte, error) {
	if err := g.check(); err != nil {
		return nil, fmt.Errorf("sign grant: %w", err)
	}
	signed, err := sign1.Sign(grantType, strictcbor.Encode(g.wire()), key)
	if err != nil {
		return nil, fmt.Errorf("sign grant: %w", err)
	}
	return signed, nil
}

func (g *Grant) wire() wireGrant {
	return wireGrant{g.Version, g.Period, g.Namespace, g.Unit, g.Cap, g.Lease, g.Anchor, g.Baseline, g.NotBefore, g.NotAfter, g.Zone}
}

// grants are the signed ones.
var grants = sign1.Kind[*Grant]{
	Type: grantType, Limit: journal.MaxGrantSize, Malformed: ErrMalformed, Untrusted: ErrSignature, Make: "sign one with `raypher grant sign`",
	Trust:  "add its operator_key line to the start configuration, or sign with a listed key",
	Decode: decodeGrant,
}

// Open verifies a signed grant against operator keys (PKIX DER). Errors wrap ErrMalformed or ErrSignature. The signature is
// checked before the payload is looked into.
func Open(signed []byte, operatorKeys [][]byte) (*Grant, error) {
	return grants.Open(signed, operatorKeys)
}

// Read returns a grant and the SHA-256 of the key that it names, without verifying the signature: what it returns is a claim.
func Read(signed []byte) (*Grant, [32]byte, error) { return grants.Read(signed) }

func decodeGrant(signed, payload []byte) (*Grant, error) {
	var w wireGrant
	if err := strictcbor.Decode(payload, journal.MaxGrantSize, &w); err != nil {
		return nil, err
	}
	g := &Grant{
		Version: w.Version, Period: w.Period, Namespace: w.Namespace, Unit: w.Unit, Cap: w.Cap, Lease: w.Lease, Anchor: w.Anchor,
		Baseline: w.Baseline, NotBefore: w.NotBefore, NotAfter: w.NotAfter, Zone: w.Zone, Hash: sha256.Sum256(signed), signed: signed,
	}
	if err := g.check(); err != nil {
		return nil, err
	}
	return g, nil
}
