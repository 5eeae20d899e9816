package visa

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/raypher/raypher/journal"
)

// Errors that say which check a visa failed.
var (
	ErrMalformed   = errors.New("visa malformed")
	ErrKey         = errors.New("visa signed by an enclave that is not trusted")
	ErrProof       = errors.New("visa not proven: the entry is not under the signed tree head")
	ErrTier        = errors.New("visa of a tier that is not accepted")
	ErrExpired     = errors.New("visa expired")
	ErrNotYetValid = errors.New("visa not yet valid")
	ErrAudience    = errors.New("visa for another audience")
	ErrNonce       = errors.New("visa with another nonce, or none")
	ErrPossession  = errors.New("the bearer does not hold the visa's key")
)

// MaxSkew bounds the clock difference that Options may forgive.
const MaxSkew = 5 * time.Minute

// Options says what a relying party accepts. A visa's tier is as true as its key is honest: whoever has not learnt the tier with the key
// has it proven by evidence.VerifyVisa.
type Options struct {
	Now           time.Time      // the moment to decide for; zero: the present
	Skew          time.Duration  // clock difference that is forgiven, at most MaxSkew
	Keys          []*journal.Key // the keys that are trusted, at least one: of enclaves, or of namespaces of theirs
	Audience      string         // who is asking: a visa that names an audience must name this one
	NeedAudience  bool           // refuse visas that name none
	Nonce         []byte         // not empty: the visa must hold exactly this
	AllowSoftware bool           // take visas whose key lies in a file: they prove nothing about the host
	Tiers         []string       // not empty: only these
}

// Verify checks a visa offline: the head's signature by one of the trusted keys, the proof, then tier, time, audience and
// nonce. An enclave's key may sign for every namespace; a namespace's own key counts for visas of that namespace only, by the head
// that names it. The error wraps the sentinel of the check that failed; without one the claims hold.
func Verify(data []byte, o Options) (*Claims, error) {
	return (&Verifier{options: o}).Verify(data)
}

// Verifier verifies many visas of the same enclaves. It remembers the tree heads whose signature it has checked, so that a
// further visa under the same head costs hashing only. It is safe for concurrent use. Make one with NewVerifier.
type Verifier struct {
	options Options

	mu    sync.RWMutex
	heads map[[32]byte]*verified // by SHA-256 of the signed head's bytes: a cache of results, no replay key
	order [][32]byte             // ring of what is in heads; the oldest is at next once it is full
	next  int
}

// verified is a head whose signature is that of a trusted key.
type verified struct {
	head      *journal.Head
	namespace string // whose key signed it, and for whose visas alone it counts; empty: the enclave's, for all
}

// knownHeads bounds what a Verifier remembers: about 0.5 KiB each.
const knownHeads = 1024

// NewVerifier returns a verifier for o. A zero Now means the present at each call. The keys must not be changed.
func NewVerifier(o Options) *Verifier {
	return &Verifier{options: o, heads: make(map[[32]byte]*verified)}
}

// Verify checks one visa, as the function of the same name does.
func (v *Verifier) Verify(data []byte) (*Claims, error) {
	o := &v.options
	if o.Skew < 0 || o.Skew > MaxSkew {
		return nil, fmt.Errorf("visa options: a skew of %s, the limit is %s", o.Skew, MaxSkew)
	}
	if len(o.Keys) == 0 {
		return nil, fmt.Errorf("%w: no enclave key was given to check it with", ErrKey)
	}
	entry, receipt, namespaceHead, err := open(data)
	if err != nil {
		return nil, err
	}
	known, err := v.head(receipt.SignedHead, verifyHead)
	if namespaceHead != nil && errors.Is(err, ErrKey) {
		known, err = v.head(namespaceHead, verifyNamespaceHead)
	}
	if err != nil {
		return nil, err
	}
	if err := receipt.VerifyUnder(entry, known.head); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	claims, err := claimsOf(entry)
	if err != nil {
		return nil, err
	}
	if err := claims.agreesWith(known); err != nil {
		return nil, err
	}
	if err := claims.acceptedBy(o); err != nil {
		return nil, err
	}
	return claims, nil
}

// head verifies a signed head, or knows that it has done so.
func (v *Verifier) head(signed []byte, verify func([]byte, []*journal.Key) (*verified, error)) (*verified, error) {
	if v.heads == nil {
		return verify(signed, v.options.Keys)
	}
	id := sha256.Sum256(signed)
	v.mu.RLock()
	known := v.heads[id]
	v.mu.RUnlock()
	if known != nil {
		return known, nil
	}
	known, err := verify(signed, v.options.Keys)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.heads[id] != nil: // another caller was faster
	case len(v.order) < knownHeads:
		v.order, v.heads[id] = append(v.order, id), known
	default:
		delete(v.heads, v.order[v.next])
		v.order[v.next], v.heads[id] = id, known
		v.next = (v.next + 1) % knownHeads
	}
	return known, nil
}

func verifyHead(signed []byte, keys []*journal.Key) (*verified, error) {
	_, signer, err := journal.ReadHead(signed)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	key, err := trusted(signer, keys)
	if err != nil {
		return nil, err
	}
	head, err := journal.VerifyHead(signed, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return &verified{head: head}, nil
}

func verifyNamespaceHead(signed []byte, keys []*journal.Key) (*verified, error) {
	signer, err := journal.NamespaceHeadKey(signed)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	key, err := trusted(signer, keys)
	if err != nil {
		return nil, err
	}
	h, err := journal.VerifyNamespaceHead(signed, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return &verified{&h.Head, h.Namespace}, nil
}

func trusted(signer [32]byte, keys []*journal.Key) (*journal.Key, error) {
	for _, key := range keys {
		if key.ID() == signer {
			return key, nil
		}
	}
	return nil, fmt.Errorf("%w: key %x", ErrKey, signer)
}

// agreesWith refuses claims that say something else of the enclave than the head it signed.
func (c *Claims) agreesWith(known *verified) error {
	head := known.head
	switch {
	case known.namespace != "" && c.Namespace != known.namespace:
		return fmt.Errorf("%w: the claims say namespace %q, the key signs for %q alone", ErrKey, c.Namespace, known.namespace)
	case c.Tier != head.Tier:
		return fmt.Errorf("%w: the claims say tier %q, the signed tree head %q", ErrProof, c.Tier, head.Tier)
	case !bytes.Equal(c.Epoch, head.Epoch[:]):
		return fmt.Errorf("%w: the claims say epoch %x, the signed tree head %s", ErrProof, c.Epoch, head.Epoch)
	case !bytes.Equal(c.ConfigurationHash, head.ConfigurationHash[:]):
		return fmt.Errorf("%w: the claims name another configuration than the signed tree head", ErrProof)
	}
	return nil
}

// acceptedBy decides what the relying party decides: tier, time, audience, nonce.
func (c *Claims) acceptedBy(o *Options) error {
	if c.Tier == journal.TierSoftware && !o.AllowSoftware {
		return fmt.Errorf("%w: software: its key lies in a file and proves nothing about the host; allow it (--allow-software) only where that is enough", ErrTier)
	}
	if len(o.Tiers) > 0 && !slices.Contains(o.Tiers, c.Tier) {
		return fmt.Errorf("%w: %s", ErrTier, c.Tier)
	}
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	if late := now.Add(-o.Skew); !late.Before(time.Unix(c.ExpiresAt, 0)) {
		return fmt.Errorf("%w: at %s, now %s", ErrExpired, stamp(c.ExpiresAt), now.UTC().Format(time.RFC3339))
	}
	if early := now.Add(o.Skew); early.Before(time.Unix(c.NotBefore, 0)) {
		return fmt.Errorf("%w: from %s, now %s", ErrNotYetValid, stamp(c.NotBefore), now.UTC().Format(time.RFC3339))
	}
	if c.Audience == "" && o.NeedAudience {
		return fmt.Errorf("%w: it names none, and one is needed", ErrAudience)
	}
	if c.Audience != "" && c.Audience != o.Audience {
		return fmt.Errorf("%w: for %q, asked as %q", ErrAudience, c.Audience, o.Audience)
	}
	if len(o.Nonce) > 0 && !bytes.Equal(c.Nonce, o.Nonce) {
		return fmt.Errorf("%w: %x", ErrNonce, c.Nonce)
	}
	return nil
}

func stamp(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }
