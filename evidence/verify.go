package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/visa"
)

// Errors that say which check failed.
var (
	ErrKey   = errors.New("evidence signed by an enclave that is not trusted")
	ErrProof = errors.New("evidence not proven: the entry is not under the signed tree head")
	ErrTier  = errors.New("evidence of a tier that is not accepted")
	ErrVisa  = errors.New("the visa in the evidence does not belong to it")
	// ErrHead: the tree head is by another key, or of another epoch or configuration, than the key evidence is about. ErrKey too.
	ErrHead = errors.New("the key evidence is not about the signer of this tree head")
)

// Attested is what verified key evidence says.
type Attested struct {
	Tier              string
	Key               *journal.Key
	Epoch             journal.EpochID
	ConfigurationHash journal.Hash
	Nonce             []byte
	Time              int64  // nanoseconds since the Unix epoch
	Golden            string // name of the golden set that the measurements match; empty: they were not compared
	// Head is the SHA-256 of the journal's newest signed tree head when the evidence was made; zero: the evidence does not say.
	Head journal.Hash
}

// KeyVerifier verifies the document of one tier. It returns an error unless the document proves what it says, by the
// means of that tier.
type KeyVerifier interface {
	VerifyKey(document []byte) (*Attested, error)
}

// Software verifies the self-signed statements of the tier software. It proves possession of the key and nothing else,
// which is why Verify also asks for a pinned key or for Options.AllowSoftware.
type Software struct{}

// VerifyKey implements KeyVerifier.
func (Software) VerifyKey(document []byte) (*Attested, error) {
	s, key, err := journal.VerifyStatement(document)
	if err != nil {
		return nil, err
	}
	return &Attested{Tier: s.Tier, Key: key, Epoch: s.Epoch, ConfigurationHash: s.ConfigurationHash, Nonce: s.Nonce, Time: s.Time}, nil
}

// Options says what a verifier accepts.
type Options struct {
	// Keys are the enclave keys that are trusted as they are. Empty: the key evidence alone decides.
	Keys []*journal.Key
	// AllowSoftware takes the tier software. Without Keys such evidence proves only that it was not altered since its
	// writer signed it, whoever that was.
	AllowSoftware bool
	// Verifiers judge key evidence by tier; Software serves the tier software where none is given.
	Verifiers map[string]KeyVerifier
}

// Proven is what a verified bundle says.
type Proven struct {
	Entry    journal.Entry
	Head     *journal.Head
	Index    uint64
	Key      *journal.Key
	Pinned   bool              // Key is one of Options.Keys
	Verdict  *journal.Verdict  // for entries of type verdict
	Approval *journal.Approval // for entries of type approval
	Visa     *visa.Claims      // of the visa in the bundle, proven too; its times are not judged
	KeyTrust *Attested
}

// Verify checks a bundle offline: the key evidence, the head's signature, the proof, then the visa, its proof and that it
// is the one that the entry names.
func Verify(data []byte, o Options) (*Proven, error) {
	b, err := Decode(data)
	if err != nil {
		return nil, err
	}
	return b.Verify(o)
}

// Verify checks a decoded bundle.
func (b *Bundle) Verify(o Options) (*Proven, error) {
	p, err := prove(b.Entry, &b.Receipt, &b.KeyEvidence, o)
	if err != nil {
		return nil, err
	}
	if p.Entry.Type == journal.TypeVerdict {
		v, err := journal.DecodeVerdict(p.Entry.Payload)
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
		}
		p.Verdict = &v
	}
	if p.Entry.Type == journal.TypeApproval {
		if p.Approval, err = journal.DecodeApproval(p.Entry.Payload); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
		}
	}
	if p.Entry.Type == journal.TypeVisa {
		if p.Visa, err = visa.DecodeClaims(p.Entry.Payload); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
		}
	}
	if b.Visa == nil {
		if b.VisaKeyEvidence != nil {
			return nil, fmt.Errorf("%w: evidence for the key of a visa that is not there", ErrVisa)
		}
		return p, nil
	}
	if p.Visa, err = b.verifyVisa(p, o); err != nil {
		return nil, err
	}
	return p, nil
}

// prove checks one entry down to the key that is trusted.
func prove(entry []byte, receipt *journal.Receipt, ev *journal.KeyEvidence, o Options) (*Proven, error) {
	head, attested, pinned, err := o.VerifyHead(receipt.SignedHead, ev)
	if err != nil {
		return nil, err
	}
	if err := receipt.VerifyUnder(entry, head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	e, err := journal.Decode(entry)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return &Proven{Entry: e, Head: head, Index: receipt.Index, Key: attested.Key, Pinned: pinned, KeyTrust: attested}, nil
}

// VerifyHead judges key evidence, and then a signed tree head by the key that the evidence is about: its signature, and that both
// name the same tier, epoch and configuration.
func (o *Options) VerifyHead(signed []byte, ev *journal.KeyEvidence) (head *journal.Head, attested *Attested, pinned bool, err error) {
	if attested, pinned, err = o.VerifyKey(ev); err != nil {
		return nil, nil, false, err
	}
	if head, err = journal.VerifyHead(signed, attested.Key); err != nil {
		return nil, nil, false, fmt.Errorf("%w: %w: %w", ErrKey, ErrHead, err)
	}
	return head, attested, pinned, attested.agreesWith(head)
}

// VerifyKey judges key evidence: its document by the verifier of its tier, then the pinned keys and the tier.
func (o *Options) VerifyKey(ev *journal.KeyEvidence) (_ *Attested, pinned bool, _ error) {
	verifier := o.Verifiers[ev.Tier]
	if verifier == nil && ev.Tier == journal.TierSoftware {
		verifier = Software{}
	}
	if verifier == nil {
		return nil, false, fmt.Errorf("%w: nothing here can verify key evidence of tier %.32q", ErrTier, ev.Tier)
	}
	attested, err := verifier.VerifyKey(ev.Document)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrKey, err)
	}
	if attested.Tier != ev.Tier {
		return nil, false, fmt.Errorf("%w: the document says tier %q, its label %q", ErrTier, attested.Tier, ev.Tier)
	}
	if ev.Tier == journal.TierSoftware && !o.AllowSoftware {
		return nil, false, fmt.Errorf("%w: software: the key lies in a file and proves nothing about the host; allow it (--allow-software) only where that is enough", ErrTier)
	}
	pinned = slices.ContainsFunc(o.Keys, func(k *journal.Key) bool { return k.ID() == attested.Key.ID() })
	if len(o.Keys) > 0 && !pinned {
		return nil, false, fmt.Errorf("%w: key %s is not among the %d that were given", ErrKey, attested.Key, len(o.Keys))
	}
	return attested, pinned, nil
}

func (a *Attested) agreesWith(head *journal.Head) error {
	if a.Tier != head.Tier || a.Epoch != head.Epoch || a.ConfigurationHash != head.ConfigurationHash {
		return fmt.Errorf("%w: %w: evidence about tier %s, epoch %s, a head of tier %s, epoch %s, or the configurations differ",
			ErrKey, ErrHead, a.Tier, a.Epoch, head.Tier, head.Epoch)
	}
	return nil
}

// named is what an entry says of the agent that it is about.
type named struct {
	visa           []byte
	subject, agent string
}

func (p *Proven) named() (named, error) {
	switch {
	case p.Verdict != nil:
		return named{p.Verdict.VisaID, p.Verdict.Subject, p.Verdict.AgentID}, nil
	case p.Approval != nil:
		return named{p.Approval.VisaID, p.Approval.Subject, p.Approval.AgentID}, nil
	}
	return named{}, fmt.Errorf("%w: an entry of type %s names no visa", ErrVisa, p.Entry.Type)
}

// verifyVisa proves the visa and compares it with the verdict or approval that names it.
func (b *Bundle) verifyVisa(p *Proven, o Options) (*visa.Claims, error) {
	about, err := p.named()
	if err != nil {
		return nil, err
	}
	entry, receipt, claims, err := visa.Split(b.Visa)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrVisa, err)
	}
	ev := b.VisaKeyEvidence
	if ev == nil {
		ev = &b.KeyEvidence
	}
	proven, err := prove(entry, receipt, ev, o)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrVisa, err)
	}
	switch {
	case claims.Tier != proven.Head.Tier || !bytes.Equal(claims.Epoch, proven.Head.Epoch[:]) || !bytes.Equal(claims.ConfigurationHash, proven.Head.ConfigurationHash[:]):
		return nil, fmt.Errorf("%w: its claims and its signed tree head differ", ErrVisa)
	case !bytes.Equal(claims.ID, about.visa):
		return nil, fmt.Errorf("%w: visa %x, the entry names %x", ErrVisa, claims.ID, about.visa)
	case claims.Subject != about.subject || claims.Asserted.AgentID != about.agent:
		return nil, fmt.Errorf("%w: visa of %s (agent %s), entry about %s (agent %s)", ErrVisa, claims.Subject, claims.Asserted.AgentID, about.subject, about.agent)
	}
	return claims, nil
}
