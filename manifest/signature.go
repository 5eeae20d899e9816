package manifest

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Algorithm is the only signature algorithm.
const Algorithm = "Ed25519"

// domain stands in front of the canonical form under the signature, so that a signature made for a manifest is one for
// nothing else, and no other signed JSON of the same key is a manifest.
const domain = "raypher clawmanifest v1\n"

// What callers tell apart of the errors of Verify.
var (
	ErrUnsigned    = errors.New("the manifest is not signed")
	ErrUnsupported = errors.New("unsupported signature algorithm")
	ErrUntrusted   = errors.New("the signer is not trusted")
	ErrAltered     = errors.New("the manifest is not what was signed")
)

// AlteredError names what differs from the signed document. It is ErrAltered to errors.Is.
type AlteredError struct {
	Signer  string
	Changes []string // sentences; at least one
}

func (e *AlteredError) Error() string {
	return fmt.Sprintf("%v by %s: %s: get the original, or have it signed again", ErrAltered, e.Signer, strings.Join(e.Changes, "; "))
}

// Is makes every AlteredError ErrAltered.
func (e *AlteredError) Is(target error) bool { return target == ErrAltered }

// Sign sets the signature of m under name, which is what the verifier's file with the public key is called (or its key id).
// The document is checked as Parse checks it, so that what was signed can be read.
func (m *Manifest) Sign(key ed25519.PrivateKey, name string) error {
	if len(key) != ed25519.PrivateKeySize {
		return fmt.Errorf("sign the manifest: the key has %d bytes, an Ed25519 private key has %d", len(key), ed25519.PrivateKeySize)
	}
	if !signerSyntax().MatchString(name) {
		return fmt.Errorf("sign the manifest: signer %q: names are up to 71 of letters, digits, dot, colon, hyphen and underscore", name)
	}
	signed := *m
	signed.Signature = &Signature{Algorithm: Algorithm, SignedBy: name, Covers: m.fingerprints()}
	message, err := signed.message()
	if err != nil {
		return err
	}
	signed.Signature.Value = base64.StdEncoding.EncodeToString(ed25519.Sign(key, message))
	text, err := signed.Encode()
	if err != nil {
		return err
	}
	if _, err := Parse(text); err != nil {
		return fmt.Errorf("sign the manifest: %w", err)
	}
	m.Signature = signed.Signature
	return nil
}

// Verify checks that a trusted signer signed exactly this document. An *AlteredError names what was changed since, where
// signature.covers lets it be known.
func (m *Manifest) Verify(signers Signers) error {
	s := m.Signature
	if s == nil || s.Value == "" {
		return fmt.Errorf("%w: its author signs it with raypher manifest sign", ErrUnsigned)
	}
	if s.Algorithm != Algorithm {
		return fmt.Errorf("%w: signature.algorithm is %q: only %q is supported", ErrUnsupported, s.Algorithm, Algorithm)
	}
	signer, ok := signers.find(s.SignedBy)
	if !ok {
		return fmt.Errorf("%w: signature.signed_by is %q, %s: put the author's public key there if you trust it", ErrUntrusted, s.SignedBy, signers.describe())
	}
	value, err := base64.StdEncoding.Strict().DecodeString(s.Value)
	if err != nil || len(value) != ed25519.SignatureSize || base64.StdEncoding.EncodeToString(value) != s.Value { // decoding skips line breaks
		return &AlteredError{signer.Name, []string{fmt.Sprintf("signature.value is not the base64 of %d bytes", ed25519.SignatureSize)}}
	}
	message, err := m.message()
	if err != nil {
		return err
	}
	if !ed25519.Verify(signer.Key, message, value) {
		return &AlteredError{signer.Name, m.changes(signers, value)}
	}
	if s.Covers != nil && !maps.EqualFunc(s.Covers, m.fingerprints(), slices.Equal) {
		return fmt.Errorf("%w: its signature is good, but signature.covers does not describe the document: sign it with raypher manifest sign", ErrAltered)
	}
	return nil
}

// message is what is signed.
func (m *Manifest) message() ([]byte, error) {
	canonical, err := m.Canonical()
	if err != nil {
		return nil, err
	}
	return append([]byte(domain), canonical...), nil
}

// fingerprints are what signature.covers holds: eight bytes of SHA-256 for each item. Nothing is decided by them, so that
// colliding ones would only make a message less exact.
func (m *Manifest) fingerprints() map[string][]string {
	covers := make(map[string][]string)
	for section, items := range m.sections() {
		prints := make([]string, len(items))
		for i, item := range items {
			prints[i] = fingerprint(section, item)
		}
		covers[section] = prints
	}
	return covers
}

func fingerprint(section, item string) string {
	sum := sha256.Sum256([]byte(section + "\x00" + item))
	return hex.EncodeToString(sum[:8])
}

// changes says what differs between m and the document that value was made for. The signature is known to be wrong.
func (m *Manifest) changes(signers Signers, value []byte) []string {
	if what := m.changedInSignature(signers, value); what != "" {
		return []string{what}
	}
	if m.Signature.Covers == nil {
		return []string{"what was changed cannot be known, since the signature has no covers"}
	}
	var changes []string
	sections := m.sections()
	for _, section := range slices.Sorted(maps.Keys(sections)) {
		prints, was := m.Signature.Covers[section]
		if !was {
			changes = append(changes, section+" was added after signing")
			continue
		}
		changes = append(changes, compare(section, sections[section], prints)...)
	}
	for _, section := range slices.Sorted(maps.Keys(m.Signature.Covers)) {
		if _, is := sections[section]; !is {
			changes = append(changes, fmt.Sprintf("%.64q was removed after signing", section))
		}
	}
	if len(changes) == 0 {
		return []string{"signature.value was changed, or is of a key that is not trusted here"}
	}
	return changes
}

// changedInSignature finds the case that only a field of the signature itself was changed: with the right one in its place,
// value verifies.
func (m *Manifest) changedInSignature(signers Signers, value []byte) string {
	try := func(s Signature, signer Signer) bool {
		c := *m
		c.Signature = &s
		message, err := c.message()
		return err == nil && ed25519.Verify(signer.Key, message, value)
	}
	for _, signer := range signers {
		for _, by := range []string{signer.Name, signer.KeyID(), m.Signature.SignedBy} {
			s := *m.Signature
			s.SignedBy = by
			if try(s, signer) {
				return fmt.Sprintf("signature.signed_by is %q, but the signature is by %s", m.Signature.SignedBy, signer.Name)
			}
			s.Covers = m.fingerprints()
			if by == m.Signature.SignedBy && try(s, signer) {
				return "signature.covers was changed"
			}
		}
	}
	return ""
}

// compare names the items of one section that have no fingerprint, and counts the fingerprints that have no item.
func compare(section string, items, prints []string) []string {
	left := make(map[string]int)
	for _, p := range prints {
		left[p]++
	}
	var added []string
	inOrder := len(items) == len(prints)
	for i, item := range items {
		f := fingerprint(section, item)
		inOrder = inOrder && prints[i] == f
		if left[f] == 0 {
			added = append(added, item)
			continue
		}
		left[f]--
	}
	gone := len(prints) - (len(items) - len(added))
	single := section == "skill_id" || section == "version"
	switch {
	case inOrder:
		return nil
	case single:
		return []string{fmt.Sprintf("%s was changed to %q", section, items[0])}
	case len(added) == 0 && gone == 0:
		return []string{section + ": the order was changed"}
	}
	var changes []string
	for _, item := range added {
		if path, _, isHash := strings.Cut(item, " sha256:"); isHash && section == "hashes" {
			changes = append(changes, fmt.Sprintf("hashes: the entry of %q is new or changed", path))
			continue
		}
		changes = append(changes, fmt.Sprintf("%s: %q was not there", section, item))
	}
	if gone > len(added) || gone > 0 && section != "hashes" {
		changes = append(changes, fmt.Sprintf("%s: %d signed %s missing", section, gone, plural(gone, "entry is", "entries are")))
	}
	return changes
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
