// Package predecessor judges the journal that a parent's store holds when an epoch begins: whether this enclave may follow it. What
// it accepts goes into entry 0, so that a verifier can walk from epoch to epoch. The sequencer calls it; the store is not trusted.
//
// An earlier epoch may be followed when its last head is signed by this enclave's own key, by one that the start configuration
// lists (predecessor = sha256:...), or, for tier nitro, by that of an enclave of the same image and start configuration (sameImage); and
// the evidence of that key is sound and about that head: the same key, tier, epoch and configuration. The evidence is judged at its document's own time, so a journal does not become impossible to follow when a
// certificate in it expires: for tier nitro, the document of a listed key must be sound under the root that it brings along; for tier tpm, one AK must have certified the key and quoted PCRs for exactly this document, at
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

// ErrNotAllowed: the journal is sound, and its key is neither this enclave's, nor a listed one, nor that of an enclave of the same image.
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

// Own is the enclave that asks.
type Own struct {
	Key      *journal.Key
	Evidence *journal.KeyEvidence // of Key
	Allowed  [][32]byte           // SHA-256 of the PKIX DER of other keys that it may follow
	Roots    [][32]byte           // SHA-256 of roots of Nitro documents that it believes besides AWS's
}

// Verify checks a claim and returns what entry 0 says of it.
func Verify(c Claim, own Own) (*journal.Predecessor, error) {
	ev, err := journal.DecodeKeyEvidence(c.KeyEvidence)
	if err != nil {
		return nil, err
	}
	attested, _, err := accepted.VerifyKey(ev)
	if err != nil {
		return nil, err
	}
	key := attested.Key
	if id := key.ID(); id != own.Key.ID() && !slices.Contains(own.Allowed, id) {
		if err := own.sameImage(ev); err != nil {
			return nil, fmt.Errorf("%w: sha256:%s: %w: add `predecessor = sha256:%s` to its start configuration, or give the parent an empty store", ErrNotAllowed, key, err, key)
		}
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

// sameRegisters are the ones by which an enclave knows another one of its own image: kernel, ramdisks, who signed the image, and the start
// configuration.
var sameRegisters = []int{0, 1, 2, 8, nitro.ConfigurationPCR}

// sameImage says why evidence is not that of an enclave like this one: with the registers that this enclave's own module has, under the root of
// AWS or one that the start configuration names. An enclave in debug mode, whose registers are zero, is like no other.
func (own *Own) sameImage(ev *journal.KeyEvidence) error {
	if own.Evidence == nil || own.Evidence.Tier != journal.TierNitro || ev.Tier != journal.TierNitro {
		return errors.New("only enclaves of tier nitro follow their own image")
	}
	mine, err := nitro.Claimed(own.Evidence.Document) // by the module of this enclave, which needs no proof here
	if err != nil {
		return fmt.Errorf("this enclave's own evidence: %w", err)
	}
	expected := make(map[int]nitro.PCR, len(sameRegisters))
	for _, index := range sameRegisters {
		value, ok := mine.PCRs[index]
		if !ok {
			return fmt.Errorf("this enclave's own evidence has no PCR%d", index)
		}
		expected[index] = value
	}
	verifier, err := nitro.NewVerifier(nitro.Config{RootHashes: own.Roots})
	if err != nil {
		return err
	}
	judge := nitro.KeyVerifier{Verifier: verifier, Expected: nitro.Expected{PCRs: expected}, OwnTime: true}
	if _, err := judge.VerifyKey(ev.Document); err != nil {
		return fmt.Errorf("it is not of this enclave's image and start configuration: %w", err)
	}
	return nil
}
