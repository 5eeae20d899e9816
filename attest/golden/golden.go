// Package golden holds reference values (RFC 9334): what the PCRs of a machine or an enclave may be. A list has several sets, one
// for each kind of machine and each release that may run, and serves the tiers tpm and nitro alike. The verifiers of both
// tiers take a list; they accept what some set of it allows, at the time of the check.
//
// A list counts by the signature of a golden key (package sign1, an Ed25519 key or ECDSA on P-256, as operators have for ceilings).
// ParseSource reads the YAML in which lists are written. Nothing here reads files or the network.
//
// # File
//
// A COSE_Sign1 as package sign1 makes it, of type application/raypher-golden+cbor. Its payload is a map:
//
//	1  version     uint, at least 1; only goes upwards
//	2  not before  int, seconds since the Unix epoch
//	3  not after   int, seconds, inclusive
//	4  sets        array of maps:
//	   1  name        tstr, unique in the list
//	   2  version     tstr, of what was measured; for people
//	   3  tier        tstr: tpm (SHA-256 bank, 32 bytes a value), nitro or nitrotpm (SHA-384, 48 bytes)
//	   4  not before  int, seconds
//	   5  not after   int, seconds
//	   6  PCRs        array of maps, ascending: {1: index uint, 2: array of bstr, the allowed values}
package golden

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/internal/sign1"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// The checks, in their order.
const (
	CheckSignature attest.Check = "golden signature" // the list is signed by a trusted key
	CheckVersion   attest.Check = "golden version"   // it is not older than one that was seen
	CheckValidity  attest.Check = "golden validity"  // the list, and the set that matches, are in time
	CheckValues    attest.Check = "golden"           // every PCR of some set has one of its allowed values
)

// ErrMalformed: a list that cannot be read.
var ErrMalformed = errors.New("golden measurements are malformed")

// Bounds.
const (
	MaxFile   = 1 << 20 // bytes, signed or in YAML
	MaxSets   = 128
	MaxValues = 64 // allowed values of one PCR
	MaxText   = 128
)

const fileType = "application/raypher-golden+cbor"

// List is a file of reference values. It is immutable once it was opened.
type List struct {
	Version   uint64
	NotBefore time.Time // whole seconds, as all times here
	NotAfter  time.Time // inclusive
	Sets      []*Set
	Hash      [sha256.Size]byte // of the signed file; zero without a signature
}

// Set is one allowed state.
type Set struct {
	Name      string
	Version   string // of what was measured
	Tier      string
	NotBefore time.Time
	NotAfter  time.Time  // inclusive
	PCRs      []Register // ascending, each once; others may have any value
}

// Register is one PCR and its allowed values.
type Register struct {
	Index  uint64
	Values [][]byte
}

// bank is what the PCRs of a tier are.
type bank struct {
	name  string // as TCG and AWS call the hash
	size  int    // of a value, bytes
	count uint64 // of PCRs
}

// TierNitroTPM is the tier of sets for the NitroTPM of the instance beside an enclave. No key has it.
const TierNitroTPM = "nitrotpm"

var banks = map[string]bank{
	journal.TierTPM:   {"sha256", sha256.Size, 24},
	journal.TierNitro: {"sha384", 48, 32},
	TierNitroTPM:      {"sha384", 48, 24},
}

// check holds the bounds. Sources have better words for the same mistakes.
func (l *List) check() error {
	if l.Version == 0 || len(l.Sets) == 0 || len(l.Sets) > MaxSets || l.NotAfter.Before(l.NotBefore) {
		return fmt.Errorf("version %d with %d sets from %s to %s", l.Version, len(l.Sets), stamp(l.NotBefore), stamp(l.NotAfter))
	}
	names := map[string]bool{}
	for i, s := range l.Sets {
		if err := s.check(); err != nil {
			return fmt.Errorf("set %d: %w", i+1, err)
		}
		if names[s.Name] {
			return fmt.Errorf("set %d: a second one with the name %q", i+1, s.Name)
		}
		names[s.Name] = true
	}
	return nil
}

func (s *Set) check() error {
	b, known := banks[s.Tier]
	switch {
	case !goodText(s.Name) || s.Name == "" || !goodText(s.Version):
		return fmt.Errorf("name or version: use at most %d printable characters", MaxText)
	case !known:
		return fmt.Errorf("tier %.32q: use tpm, nitro or nitrotpm", s.Tier)
	case len(s.PCRs) == 0:
		return errors.New("no PCR, which is true of every machine")
	case s.NotAfter.Before(s.NotBefore):
		return errors.New("it ends before it begins")
	}
	for i, r := range s.PCRs {
		if r.Index >= b.count || i > 0 && r.Index <= s.PCRs[i-1].Index {
			return fmt.Errorf("PCR %d: out of order or beyond %d", r.Index, b.count-1)
		}
		if len(r.Values) == 0 || len(r.Values) > MaxValues {
			return fmt.Errorf("PCR %d: %d values, expected 1 to %d", r.Index, len(r.Values), MaxValues)
		}
		for _, v := range r.Values {
			if len(v) != b.size {
				return fmt.Errorf("PCR %d: a value of %d bytes, expected %d", r.Index, len(v), b.size)
			}
		}
	}
	return nil
}

// goodText: at most MaxText bytes that can be printed on one line.
func goodText(s string) bool {
	return len(s) <= MaxText && !strings.ContainsFunc(s, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) })
}

type wireList struct {
	Version   uint64    `cbor:"1,keyasint"`
	NotBefore int64     `cbor:"2,keyasint"`
	NotAfter  int64     `cbor:"3,keyasint"`
	Sets      []wireSet `cbor:"4,keyasint"`
}

type wireSet struct {
	Name      string         `cbor:"1,keyasint"`
	Version   string         `cbor:"2,keyasint"`
	Tier      string         `cbor:"3,keyasint"`
	NotBefore int64          `cbor:"4,keyasint"`
	NotAfter  int64          `cbor:"5,keyasint"`
	PCRs      []wireRegister `cbor:"6,keyasint"`
}

type wireRegister struct {
	Index  uint64   `cbor:"1,keyasint"`
	Values [][]byte `cbor:"2,keyasint"`
}

// payload is what is signed.
func (l *List) payload() []byte {
	w := wireList{Version: l.Version, NotBefore: l.NotBefore.Unix(), NotAfter: l.NotAfter.Unix(), Sets: make([]wireSet, len(l.Sets))}
	for i, s := range l.Sets {
		w.Sets[i] = wireSet{Name: s.Name, Version: s.Version, Tier: s.Tier, NotBefore: s.NotBefore.Unix(), NotAfter: s.NotAfter.Unix()}
		for _, r := range s.PCRs {
			w.Sets[i].PCRs = append(w.Sets[i].PCRs, wireRegister(r))
		}
	}
	return strictcbor.Encode(&w)
}

func decode(payload []byte) (*List, error) {
	var w wireList
	if err := strictcbor.Decode(payload, MaxFile, &w); err != nil {
		return nil, err
	}
	l := &List{Version: w.Version, NotBefore: time.Unix(w.NotBefore, 0), NotAfter: time.Unix(w.NotAfter, 0)}
	for _, ws := range w.Sets {
		s := &Set{Name: ws.Name, Version: ws.Version, Tier: ws.Tier, NotBefore: time.Unix(ws.NotBefore, 0), NotAfter: time.Unix(ws.NotAfter, 0)}
		for _, r := range ws.PCRs {
			s.PCRs = append(s.PCRs, Register(r))
		}
		l.Sets = append(l.Sets, s)
	}
	return l, l.check()
}

// Sign returns the signed file of a list.
func Sign(l *List, key crypto.Signer) ([]byte, error) {
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("sign golden measurements: %w", err)
	}
	file, err := sign1.Sign(fileType, l.payload(), key)
	if err != nil {
		return nil, fmt.Errorf("sign golden measurements: %w", err)
	}
	if len(file) > MaxFile {
		return nil, fmt.Errorf("sign golden measurements: %d bytes, at most %d: split the list", len(file), MaxFile)
	}
	return file, nil
}

// Open verifies a signed file against golden keys (PKIX DER) and returns the list. A signature that does not hold is a
// refusal of CheckSignature, anything else wraps ErrMalformed. Whether the list is in time is Match's to say.
func Open(file []byte, keys [][]byte) (*List, error) {
	m, err := parse(file)
	if err != nil {
		return nil, err
	}
	if err := m.Verify(keys); err != nil {
		return nil, attest.Refuse(CheckSignature, "%w", err)
	}
	return read(file, m)
}

// Read returns the list in a signed file and the SHA-256 of the key that it names, without verifying the signature: what it
// returns is a claim.
func Read(file []byte) (*List, [32]byte, error) {
	m, err := parse(file)
	if err != nil {
		return nil, [32]byte{}, err
	}
	l, err := read(file, m)
	return l, m.KeyID, err
}

// Signed says whether a file begins as signed ones do.
func Signed(file []byte) bool { return len(file) > 0 && file[0] == sign1.Tag }

func parse(file []byte) (*sign1.Message, error) {
	if !Signed(file) && len(file) > 0 {
		return nil, attest.Refuse(CheckSignature, "the file is not signed: sign it with `raypher attest golden sign`")
	}
	m, err := sign1.Parse(fileType, file, MaxFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return m, nil
}

func read(file []byte, m *sign1.Message) (*List, error) {
	l, err := decode(m.Payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	l.Hash = sha256.Sum256(file)
	return l, nil
}

// Follows refuses a list that is older than one that was accepted before, or another one with the same version.
func (l *List) Follows(known *List) error {
	if l.Version < known.Version {
		return attest.Refuse(CheckVersion, "version %d, and %d was accepted before", l.Version, known.Version)
	}
	if l.Version == known.Version && !bytes.Equal(l.payload(), known.payload()) {
		return attest.Refuse(CheckVersion, "another list of version %d was accepted before: give this one a higher version", l.Version)
	}
	return nil
}

// Add appends a set and raises the version.
func (l *List) Add(s *Set) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("set %q: %w", s.Name, err)
	}
	if slices.ContainsFunc(l.Sets, func(other *Set) bool { return other.Name == s.Name }) {
		return fmt.Errorf("set %q: there is one with this name", s.Name)
	}
	l.Sets = append(l.Sets, s)
	l.Version++
	return l.check()
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
