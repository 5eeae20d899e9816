// Package ceiling is what an operator allows one host at most: the outermost of ceiling ⊇ policy ⊇ manifest ⊇ intent. A
// ceiling reaches the enclave as a bundle signed by an operator key from the start configuration; versions only go upwards.
//
// # Bundle
//
// A COSE_Sign1 as package sign1 makes it, of type application/raypher-ceiling+cbor.
//
//	payload, a map
//	1  version       uint, at least 1
//	2  trust domain  tstr, which must be the enclave's
//	3  grants        array of maps:
//	   1  namespace  tstr, pattern: * any run of characters, ? one
//	   2  agents     array of tstr, patterns of agent names; at least one
//	   3  uids       array of uint; with 4 empty too: any user
//	   4  users      array of tstr
//	   5  binaries   array of bstr, SHA-256 of programs that may be started; empty: any
//	   6  max ttl    uint, seconds; 0: what the enclave is configured for
//	   7  permit     bstr, canonical form of a policy, in which ~ stands for the agent's home
//	   8  own key    true: the namespace, which is then no pattern, has a key of its own; else absent
//	   9  tls keys   true: its agents may have a TLS key of their own; else absent
package ceiling

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/policy"
)

// Bounds.
const (
	MaxBundle   = 512 << 10 // bytes
	MaxGrants   = 256
	MaxPatterns = 64   // agent name patterns of one grant
	MaxUsers    = 1024 // uids and users of one grant
	MaxBinaries = 4096 // of one grant
	MaxText     = 256  // bytes of a pattern, name or domain
	MaxTTL      = 86400
	MaxOwnKeys  = 8 // namespaces with keys of their own: each costs a batch with its visas a signature
)

// Errors that callers tell apart.
var (
	ErrMalformed = errors.New("ceiling bundle is malformed")
	ErrSignature = errors.New("ceiling bundle is not signed by an operator key of this enclave")
	ErrVersion   = errors.New("ceiling versions only go upwards")
)

// Ceiling is a verified or newly written ceiling. It is immutable.
type Ceiling struct {
	Version     uint64
	TrustDomain string
	Grants      []*Grant
	// RequireAttestation: nothing is minted without a valid attestation result of the enclave's controller, and no visa outlives it.
	RequireAttestation bool
	Hash               journal.Hash // SHA-256 of the bundle; zero before it is signed
}

// Grant allows some agents of some users a permit.
type Grant struct {
	Namespace     string
	Agents        []string
	UIDs          []uint32
	Users         []string
	Binaries      [][sha256.Size]byte
	MaxTTLSeconds uint32
	Permit        *policy.Policy
	// OwnKey: heads over the visas of this namespace are also signed with a key that signs for no other namespace.
	OwnKey bool
	// TLSKeys: the agents may authenticate with TLS keys that lie in the signer.
	TLSKeys bool
}

// OwnKey says whether the ceiling gives the namespace a key of its own.
func (c *Ceiling) OwnKey(namespace string) bool {
	return slices.ContainsFunc(c.Grants, func(g *Grant) bool { return g.OwnKey && g.Namespace == namespace })
}

// TLSKeys says whether some grant for this agent allows TLS keys; nil: it does.
func (c *Ceiling) TLSKeys(r Request) error {
	var reasons []error
	for i, g := range c.Grants {
		err := g.Match(r)
		switch {
		case err == nil && g.TLSKeys:
			return nil
		case err == nil:
			err = errors.New("is for this agent and does not say tls_keys: true")
		}
		reasons = append(reasons, fmt.Errorf("grant %d: %w", i+1, err))
	}
	const shown = 8
	return errors.Join(reasons[:min(len(reasons), shown)]...)
}

// Request is who asks, as the parent says.
type Request struct {
	Namespace string
	Name      string // of the agent
	UID       uint32
	User      string
	Binary    []byte // SHA-256, empty: not hashed
}

// Match returns nil when the grant is for this agent, else why it is not.
func (g *Grant) Match(r Request) error {
	switch {
	case !Match(g.Namespace, r.Namespace):
		return fmt.Errorf("namespace %q is not %q", r.Namespace, g.Namespace)
	case !slices.ContainsFunc(g.Agents, func(p string) bool { return Match(p, r.Name) }):
		return fmt.Errorf("agent name %q is none of %q", r.Name, g.Agents)
	case len(g.UIDs)+len(g.Users) > 0 && !slices.Contains(g.UIDs, r.UID) && (r.User == "" || !slices.Contains(g.Users, r.User)):
		return fmt.Errorf("user %q (uid %d) is not listed", r.User, r.UID)
	case len(g.Binaries) > 0 && len(r.Binary) != sha256.Size:
		return errors.New("programs are listed by hash and the request names none")
	case len(g.Binaries) > 0 && !slices.Contains(g.Binaries, [sha256.Size]byte(r.Binary)):
		return fmt.Errorf("program sha256:%x is not listed", r.Binary)
	}
	return nil
}

// NeedsBinary says whether any grant lists programs by hash, so that the parent has to hash what it starts.
func (c *Ceiling) NeedsBinary() bool {
	return slices.ContainsFunc(c.Grants, func(g *Grant) bool { return len(g.Binaries) > 0 })
}

// Match says whether s matches a pattern in which * stands for any run of characters and ? for one byte. It takes time
// proportional to len(pattern) * len(s) at most.
func Match(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}

type wireGrant struct {
	Namespace string   `cbor:"1,keyasint"`
	Agents    []string `cbor:"2,keyasint"`
	UIDs      []uint32 `cbor:"3,keyasint"`
	Users     []string `cbor:"4,keyasint"`
	Binaries  [][]byte `cbor:"5,keyasint"`
	MaxTTL    uint32   `cbor:"6,keyasint"`
	Permit    []byte   `cbor:"7,keyasint"`
	OwnKey    bool     `cbor:"8,keyasint,omitempty"`
	TLSKeys   bool     `cbor:"9,keyasint,omitempty"`
}

type wireCeiling struct {
	Version     uint64      `cbor:"1,keyasint"`
	TrustDomain string      `cbor:"2,keyasint"`
	Grants      []wireGrant `cbor:"3,keyasint"`
	Attestation bool        `cbor:"4,keyasint,omitempty"`
}

var (
	encoding = must(func() cbor.EncOptions {
		o := cbor.CoreDetEncOptions()
		o.NilContainers = cbor.NilContainerAsEmpty
		return o
	}().EncMode())
	decoding = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8RejectInvalid,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
		MaxNestedLevels:   6,
		MaxArrayElements:  MaxBinaries,
		MaxMapPairs:       16,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
	}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // constant options
	}
	return v
}

// decodeStrict decodes data into v and refuses every encoding but the deterministic one.
func decodeStrict(data []byte, v any) error {
	if err := decoding.Unmarshal(data, v); err != nil {
		return err
	}
	again, err := encoding.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return errors.New("not the deterministic encoding")
	}
	return nil
}

// payload is the canonical form that is signed.
func (c *Ceiling) payload() []byte {
	w := wireCeiling{Version: c.Version, TrustDomain: c.TrustDomain, Grants: make([]wireGrant, len(c.Grants)), Attestation: c.RequireAttestation}
	for i, g := range c.Grants {
		wg := wireGrant{Namespace: g.Namespace, Agents: g.Agents, UIDs: g.UIDs, Users: g.Users, MaxTTL: g.MaxTTLSeconds, Permit: g.Permit.Canonical(), OwnKey: g.OwnKey, TLSKeys: g.TLSKeys}
		for _, b := range g.Binaries {
			wg.Binaries = append(wg.Binaries, b[:])
		}
		w.Grants[i] = wg
	}
	return must(encoding.Marshal(w)) // numbers, strings and bytes always encode
}

// decode reads the payload of a bundle and checks every bound.
func decode(payload []byte) (*Ceiling, error) {
	var w wireCeiling
	if err := decodeStrict(payload, &w); err != nil {
		return nil, err
	}
	c := &Ceiling{Version: w.Version, TrustDomain: w.TrustDomain, RequireAttestation: w.Attestation}
	for i, wg := range w.Grants {
		permit, err := policy.ParseCanonical(wg.Permit)
		if err != nil {
			return nil, fmt.Errorf("grant %d: permit: %w", i+1, err)
		}
		g := &Grant{Namespace: wg.Namespace, Agents: wg.Agents, UIDs: wg.UIDs, Users: wg.Users, MaxTTLSeconds: wg.MaxTTL, Permit: permit, OwnKey: wg.OwnKey, TLSKeys: wg.TLSKeys}
		for _, b := range wg.Binaries {
			if len(b) != sha256.Size {
				return nil, fmt.Errorf("grant %d: program hash of %d bytes", i+1, len(b))
			}
			g.Binaries = append(g.Binaries, [sha256.Size]byte(b))
		}
		c.Grants = append(c.Grants, g)
	}
	return c, c.check()
}

// check holds the bounds for bundles: the first mistake.
func (c *Ceiling) check() error {
	if all := c.faults(); len(all) > 0 {
		return fmt.Errorf("%s: %w", all[0].at, all[0].fault)
	}
	return nil
}
