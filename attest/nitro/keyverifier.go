package nitro

import (
	"bytes"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// Binding is the user data of a document about an enclave's signing key, in deterministic CBOR; the document's public key is the
// signing key as PKIX DER.
type Binding struct {
	Epoch         journal.EpochID `cbor:"1,keyasint"`
	Configuration journal.Hash    `cbor:"2,keyasint"` // hash of the start configuration
	// Head is the SHA-256 of the newest tree head of the journal, as signed, when the document was made: it fixes what the log held then. Absent
	// before there is one, in the documents of entry 0 and of further keys, and in those of enclaves before this field.
	Head []byte `cbor:"3,keyasint,omitempty"`
}

// ConfigurationPCR is the register into which an enclave extends the hash of its start configuration before it locks it, for
// those who ask for registers and not for user data, as AWS KMS does.
const ConfigurationPCR = 16

// ConfigurationValue is the value of that register.
func ConfigurationValue(configuration journal.Hash) PCR {
	return sha512.Sum384(append(make([]byte, PCRSize), configuration[:]...))
}

// Encode returns the binding as CBOR.
func (b *Binding) Encode() []byte { return strictcbor.Encode(b) }

// CheckKey refuses documents that are not about a signing key, or whose two accounts of the configuration differ.
const CheckKey attest.Check = "key"

// KeyVerifier judges the key evidence of tier nitro for package evidence. Expected needs a golden list or PCRs: without them the key
// could be that of any enclave.
type KeyVerifier struct {
	Verifier *Verifier
	Expected Expected
	// OwnTime takes a document that was made earlier, for a journal or a log: its certificates, which live for hours, are judged
	// at the document's own time, and its age is not looked at. Golden sets are judged at Expected.At.
	OwnTime bool
}

// VerifyKey implements evidence.KeyVerifier.
func (v *KeyVerifier) VerifyKey(document []byte) (*evidence.Attested, error) {
	if v.Expected.Golden == nil && len(v.Expected.PCRs) == 0 {
		return nil, fmt.Errorf("evidence of tier nitro: neither golden measurements nor PCRs to compare with: any enclave would do")
	}
	e, golden := v.Expected, v.Expected.Golden
	if v.OwnTime {
		claimed, err := Claimed(document)
		if err != nil {
			return nil, err
		}
		e.At, e.Golden = claimed.Timestamp, nil
	}
	d, err := v.Verifier.Verify(document, e)
	if err != nil {
		return nil, err
	}
	if v.OwnTime && golden != nil {
		at := v.Expected.At
		if at.IsZero() {
			at = time.Now()
		}
		if d.Golden, err = golden.Match(journal.TierNitro, at, d.GoldenValues()); err != nil {
			return nil, err
		}
	}
	return d.Attested()
}

// PinnedKey judges the key evidence of tier nitro for those who know the key by its hash: the document has to be sound, at its own time and
// under the root that it brings along, whoever's that is.
type PinnedKey struct{}

// VerifyKey implements evidence.KeyVerifier.
func (PinnedKey) VerifyKey(document []byte) (*evidence.Attested, error) {
	if len(document) > MaxDocumentSize {
		return nil, attest.Refuse(CheckSize, "more than %d bytes", MaxDocumentSize)
	}
	s, err := unseal(bytes.Clone(document))
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(s.bundle[0])
	if err != nil {
		return nil, attest.Refuse(CheckRoot, "%w", err)
	}
	v, err := NewVerifier(Config{Roots: []*x509.Certificate{root}})
	if err != nil {
		return nil, err
	}
	d, err := v.Verify(document, Expected{At: s.document.Timestamp})
	if err != nil {
		return nil, err
	}
	return d.Attested()
}

// Attested is what a verified document says of a signing key: the key, and the epoch and configuration in its user data, which has to agree
// with PCR16.
func (d *Document) Attested() (*evidence.Attested, error) {
	key, err := journal.ParseKey(d.PublicKey)
	if err != nil {
		return nil, attest.Refuse(CheckKey, "public_key: %w", err)
	}
	b, err := d.Binding()
	if err != nil {
		return nil, attest.Refuse(CheckKey, "user_data is no binding to an epoch: %w", err)
	}
	if got, want := d.PCRs[ConfigurationPCR], ConfigurationValue(b.Configuration); got != want {
		return nil, attest.Refuse(CheckKey, "PCR%d is not that of the configuration in user_data", ConfigurationPCR)
	}
	a := &evidence.Attested{
		Tier: journal.TierNitro, Key: key, Epoch: b.Epoch, ConfigurationHash: b.Configuration, Nonce: d.Nonce, Time: d.Timestamp.UnixNano(),
	}
	copy(a.Head[:], b.Head)
	if d.Golden != nil {
		a.Golden = d.Golden.Name
	}
	return a, nil
}

// Binding reads the user data of a document about a signing key.
func (d *Document) Binding() (*Binding, error) {
	var b Binding
	if err := strictcbor.Decode(d.UserData, MaxFieldSize, &b); err != nil {
		return nil, err
	}
	if len(b.Head) != 0 && len(b.Head) != len(journal.Hash{}) {
		return nil, fmt.Errorf("a tree head's hash of %d bytes", len(b.Head))
	}
	return &b, nil
}
