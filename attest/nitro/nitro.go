// Package nitro verifies the attestation documents of AWS Nitro Enclaves, offline.
//
// A document is a COSE_Sign1 that the hypervisor signs for an enclave. It says which image runs (the PCRs), on which
// instance, and carries up to three fields that the enclave chose. Verify accepts it only if every check of this package
// passes, in the order of the Check constants, and if a second implementation, github.com/hf/nitrite, agrees.
//
// What an accepted document proves: the Nitro hypervisor, under a root that the caller trusts, made it for an enclave with
// these PCRs at that time. It does not prove that the PCRs are those of good code: name the wanted ones in Expected. Nor that
// the enclave made it for this caller: send a nonce. ECDSA signatures are malleable, so two different byte strings can be
// the same document: never use the bytes, or a hash of them, to recognise one that was seen before. Use the nonce.
package nitro

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/journal"
)

// The checks, in the order in which they run.
const (
	CheckSize          attest.Check = "size"             // at most MaxDocumentSize bytes
	CheckEncoding      attest.Check = "encoding"         // strict CBOR, in the outer structure and in the payload
	CheckCOSE          attest.Check = "cose"             // exactly four elements, this header, this size of signature
	CheckFields        attest.Check = "fields"           // names, presence and bounds of the payload's fields
	CheckRoot          attest.Check = "root"             // the bundle begins with a trusted root
	CheckLeaf          attest.Check = "leaf"             // the signing certificate: P-384, no CA, digitalSignature
	CheckChain         attest.Check = "chain"            // each certificate may issue the next, and did
	CheckValidity      attest.Check = "validity"         // every certificate is valid at the time of the check
	CheckRevocation    attest.Check = "revocation"       // with revocation lists only
	CheckSignature     attest.Check = "signature"        // the leaf's key signed the document
	CheckInstance      attest.Check = "instance"         // PCR4 belongs to the instance in module_id
	CheckDebug         attest.Check = "debug"            // PCR0 to PCR2 are not all zero
	CheckTimestamp     attest.Check = "timestamp"        // inside the leaf's validity
	CheckFreshness     attest.Check = "freshness"        // not older than MaxAge, not from the future
	CheckNonce         attest.Check = "nonce"            // the wanted one
	CheckPCR           attest.Check = "pcr"              // the wanted ones
	CheckGolden        attest.Check = golden.CheckValues // with Golden only: the PCRs are those of a golden set, or golden.CheckValidity
	CheckSecondOpinion attest.Check = "second opinion"   // github.com/hf/nitrite accepts it and reads the same in it
)

// DefaultMaxAge is how old a document may be where Expected names no age.
const DefaultMaxAge = 5 * time.Minute

// ClockSkew is how far a document's timestamp may lie ahead of the time of the check. Certificates get no such grace.
const ClockSkew = 10 * time.Second

// AWSRootFingerprint is the SHA-256 of the DER of the root of the commercial AWS partition, "aws.nitro-enclaves", valid until
// 2049. A document brings the certificate itself; this decides whether it is the right one. AWS publishes it on
// https://docs.aws.amazon.com/enclaves/latest/user/verify-root.html. Other partitions have other roots.
var AWSRootFingerprint = [sha256.Size]byte{
	0x64, 0x1a, 0x03, 0x21, 0xa3, 0xe2, 0x44, 0xef, 0xe4, 0x56, 0x46, 0x31, 0x95, 0xd6, 0x06, 0x31,
	0x7e, 0xd7, 0xcd, 0xcc, 0x3c, 0x17, 0x56, 0xe0, 0x98, 0x93, 0xf3, 0xc6, 0x8f, 0x79, 0xbb, 0x5b,
}

// Config is what a Verifier keeps for all documents.
type Config struct {
	// Roots are trusted instead of the AWS root; none: the AWS root alone.
	Roots []*x509.Certificate
	// RootHashes are the SHA-256 of the DER of roots that are trusted besides these: documents bring the certificates themselves.
	RootHashes [][sha256.Size]byte
	// Lists are certificate revocation lists. None: revocation is not checked. Any: each certificate that names a place to get
	// its list from must be covered by one of these, current at the time of the check.
	Lists []*x509.RevocationList
}

// Expected is what a caller asks of one document.
type Expected struct {
	At         time.Time     // the time of the check; zero: now
	MaxAge     time.Duration // of the document at that time; zero: DefaultMaxAge
	Nonce      []byte        // nil: any or none
	PCRs       map[int]PCR   // these registers must be in the document with these values
	Golden     *golden.List  // the PCRs must be those of one of its sets; nil: they are not judged
	AllowDebug bool          // accept enclaves in debug mode, which hide nothing from their host
}

// Verifier verifies documents. It remembers the chains of certificates that it accepted, so that the second document of an
// enclave costs little. It can be used concurrently.
type Verifier struct {
	roots  map[[sha256.Size]byte]bool
	lists  []*x509.RevocationList
	chains *chainCache
}

// NewVerifier makes a Verifier. The certificates and lists must not be changed afterwards.
func NewVerifier(c Config) (*Verifier, error) {
	roots := map[[sha256.Size]byte]bool{}
	for _, root := range c.Roots {
		roots[sha256.Sum256(root.Raw)] = true
	}
	if len(c.Roots) == 0 {
		roots[AWSRootFingerprint] = true
	}
	for _, hash := range c.RootHashes {
		roots[hash] = true
	}
	for _, list := range c.Lists {
		if err := judgeList(list); err != nil {
			return nil, err
		}
	}
	return &Verifier{roots: roots, lists: slices.Clone(c.Lists), chains: newChainCache(maxChains)}, nil
}

// Verify accepts a document or says with an *attest.Refusal which check failed. Any other error is about e.
func (v *Verifier) Verify(document []byte, e Expected) (*Document, error) {
	return v.verify(document, e, kindEnclave)
}

func (v *Verifier) verify(document []byte, e Expected, kind string) (*Document, error) {
	if err := e.complete(); err != nil {
		return nil, err
	}
	if len(document) > MaxDocumentSize {
		return nil, attest.Refuse(CheckSize, "more than %d bytes", MaxDocumentSize)
	}
	raw := bytes.Clone(document) // the caller may go on to change its own
	s, err := unsealKind(raw, kind)
	if err != nil {
		return nil, err
	}
	c, known, err := v.chainOf(s)
	if err != nil {
		return nil, err
	}
	if err := c.judge(e.At); err != nil {
		return nil, err
	}
	if !s.signedBy(c.leafKey) {
		return nil, attest.Refuse(CheckSignature, "the certificate's key did not sign this document")
	}
	d := &s.document
	d.NotAfter = c.leaf().NotAfter
	judge := d.judgeEnclave
	if kind == kindInstance {
		judge = d.judgeInstance
	}
	if err := judge(c.leaf(), &e); err != nil {
		return nil, err
	}
	if kind == kindInstance { // the second implementation reads documents of enclaves
		if !known {
			v.chains.add(c)
		}
		return d, nil
	}
	trusted := c.root()
	if known {
		trusted = c.leaf()
	}
	if err := secondOpinion(raw, s, e.At, trusted); err != nil {
		return nil, err
	}
	if !known {
		v.chains.add(c)
	}
	return d, nil
}

// chainOf builds the chain of a document, or finds it among those that were accepted before.
func (v *Verifier) chainOf(s *sealed) (c *chain, known bool, err error) {
	key := keyOfChain(s)
	if c = v.chains.get(key); c != nil {
		return c, true, nil
	}
	if root := sha256.Sum256(s.bundle[0]); !v.roots[root] {
		return nil, false, attest.Refuse(CheckRoot, "cabundle begins with a certificate of SHA-256 %x, which is not a trusted root", root)
	}
	c, err = buildChain(s, v.lists)
	if err != nil {
		return nil, false, err
	}
	c.key = key
	return c, false, nil
}

// complete fills in what is absent and refuses what would check less than it seems to.
func (e *Expected) complete() error {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if e.MaxAge == 0 {
		e.MaxAge = DefaultMaxAge
	}
	if e.MaxAge < 0 {
		return fmt.Errorf("an age of %s: give a positive one", e.MaxAge)
	}
	if e.Nonce != nil && (len(e.Nonce) == 0 || len(e.Nonce) > MaxFieldSize) {
		return fmt.Errorf("a wanted nonce of %d bytes: documents carry 1 to %d", len(e.Nonce), MaxFieldSize)
	}
	for index := range e.PCRs {
		if index < 0 || index >= maxPCRs {
			return fmt.Errorf("wanted PCR%d: there are PCR0 to PCR%d", index, maxPCRs-1)
		}
	}
	return nil
}

// judgeEnclave checks what an authentic document of an enclave says.
func (d *Document) judgeEnclave(leaf *x509.Certificate, e *Expected) error {
	// PCR4 = SHA384(48 zero bytes || instance id), "Where to find an enclave's measurements" of the AWS Nitro Enclaves guide.
	if want := PCR(sha512.Sum384(append(make([]byte, PCRSize), d.InstanceID()...))); d.PCRs[4] != want {
		return attest.Refuse(CheckInstance, "PCR4 is not that of %s, the instance in module_id", d.InstanceID())
	}
	var zero PCR
	d.Debug = d.PCRs[0] == zero && d.PCRs[1] == zero && d.PCRs[2] == zero
	if d.Debug && !e.AllowDebug {
		return attest.Refuse(CheckDebug, "PCR0, PCR1 and PCR2 are zero: the enclave runs in debug mode and hides nothing from its host")
	}
	return d.judge(leaf, e, journal.TierNitro)
}

// judge checks what documents of both kinds say; tier is that of golden sets.
func (d *Document) judge(leaf *x509.Certificate, e *Expected, tier string) error {
	if d.Timestamp.Before(leaf.NotBefore) || d.Timestamp.After(leaf.NotAfter) {
		return attest.Refuse(CheckTimestamp, "%s is outside the certificate's validity, %s to %s", stamp(d.Timestamp), stamp(leaf.NotBefore), stamp(leaf.NotAfter))
	}
	if age := e.At.Sub(d.Timestamp); age > e.MaxAge || age < -ClockSkew {
		return attest.Refuse(CheckFreshness, "made at %s, checked at %s: the limits are %s old and %s ahead", stamp(d.Timestamp), stamp(e.At), e.MaxAge, ClockSkew)
	}
	if e.Nonce != nil && subtle.ConstantTimeCompare(e.Nonce, d.Nonce) != 1 {
		return attest.Refuse(CheckNonce, "the document has another nonce, or none")
	}
	for _, index := range slices.Sorted(maps.Keys(e.PCRs)) {
		got, ok := d.PCRs[index]
		if !ok {
			return attest.Refuse(CheckPCR, "PCR%d is not in the document: registers above 15 must be locked to be attested", index)
		}
		if want := e.PCRs[index]; got != want {
			return attest.Refuse(CheckPCR, "PCR%d is %x, expected %x", index, got[:], want[:])
		}
	}
	if e.Golden == nil {
		return nil
	}
	var err error
	d.Golden, err = e.Golden.Match(tier, e.At, d.GoldenValues())
	return err
}

// GoldenValues are the PCRs as package golden compares them.
func (d *Document) GoldenValues() golden.Values {
	values := make(golden.Values, len(d.PCRs))
	for index, value := range d.PCRs {
		values[uint64(index)] = value[:]
	}
	return values
}

// stamp is a time as documents have it, in milliseconds.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// ParseRoots reads the certificates of a PEM file, to be trusted as roots.
func ParseRoots(text []byte) ([]*x509.Certificate, error) {
	var roots []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %q, expected CERTIFICATE", block.Type)
		}
		root, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		roots = append(roots, root)
	}
	if len(roots) == 0 {
		return nil, errors.New("no PEM block of type CERTIFICATE")
	}
	return roots, nil
}

// Claimed reads a document without verifying anything but its form: what it returns is a claim that anybody can make. It is for
// showing what a document says and for comparing it with golden sets.
func Claimed(document []byte) (*Document, error) {
	if len(document) > MaxDocumentSize {
		return nil, attest.Refuse(CheckSize, "more than %d bytes", MaxDocumentSize)
	}
	s, err := unseal(bytes.Clone(document))
	if err != nil {
		return nil, err
	}
	return &s.document, nil
}
