// Package predecessor judges the journal that a parent's store holds when an epoch begins: whether this enclave may follow it. What
// it accepts goes into entry 0, so that a verifier can walk from epoch to epoch. The sequencer calls it; the store is not trusted.
//
// An earlier epoch may be followed when its last head is signed by this enclave's own key or by one that the start configuration
// lists (predecessor = sha256:...), and the evidence of that key is sound and about that head: the same key, tier, epoch and
// configuration. The evidence is judged at its document's own time, so a journal does not become impossible to follow when a
// certificate in it expires: for tier nitro, the document must be sound under
// the root that it brings along; for tier tpm, one AK must have certified the key and quoted PCRs for exactly this document, at
// whatever time; who vouches for that AK is left to those who read the journal (package evidence), as the key is known by its hash here.
package predecessor

import (
	"errors"
	"fmt"
	"slices"

	"github.com/raypher/raypher/attest/nitro"
	"github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
)

// ErrNotAllowed: the journal is sound, and its key is neither this enclave's nor a listed one.
var ErrNotAllowed = errors.New("signed by a key that this enclave may not follow")

// Claim is what a store says of the epoch that it ends with. Nothing in it is believed before Verify.
type Claim struct {
	Epoch       journal.EpochID
	Size        uint64 // entries, at least 1
	SignedHead  []byte
	KeyEvidence []byte // as journal.KeyEvidence encodes it
}

// accepted judges evidence without trusting anybody: the keys are known by their hash.
var accepted = evidence.Options{
	AllowSoftware: true,
	Verifiers:     map[string]evidence.KeyVerifier{journal.TierTPM: tpm.PinnedKey{}, journal.TierNitro: nitro.PinnedKey{}},
}

// Verify checks a claim and returns what entry 0 says of it. own is this enclave's key, allowed the SHA-256 of the PKIX DER of others
// that it may follow.
func Verify(c Claim, own *journal.Key, allowed [][32]byte) (*journal.Predecessor, error) {
	ev, err := journal.DecodeKeyEvidence(c.KeyEvidence)
	if err != nil {
		return nil, err
	}
	attested, _, err := accepted.VerifyKey(ev)
	if err != nil {
		return nil, err
	}
	key := attested.Key
	if id := key.ID(); id != own.ID() && !slices.Contains(allowed, id) {
		return nil, fmt.Errorf("%w: sha256:%s: add `predecessor = sha256:%s` to its start configuration, or give the parent an empty store", ErrNotAllowed, key, key)
	}
	head, _, _, err := accepted.VerifyHead(c.SignedHead, ev)
	if err != nil {
		return nil, err
	}
	if head.Epoch != c.Epoch || head.Size != c.Size {
		return nil, fmt.Errorf("it claims %d entries of epoch %s, the signed head says %d of %s", c.Size, c.Epoch, head.Size, head.Epoch)
	}
	return &journal.Predecessor{Epoch: c.Epoch, Size: c.Size, SignedHead: c.SignedHead, KeyEvidence: *ev}, nil
}
