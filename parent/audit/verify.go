package audit

import (
	"errors"
	"fmt"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
)

// ErrChain means that an epoch does not continue the one before it.
var ErrChain = errors.New("the journal has a gap between two epochs")

// EpochReport is what Verify found in one epoch.
type EpochReport struct {
	Epoch   journal.EpochID
	Tier    string
	Key     *journal.Key
	Pinned  bool // Key is one of the keys in the options
	Entries uint64
	Heads   int
	Began   int64 // nanoseconds since the Unix epoch: time of entry 0
	Ended   int64 // time of the last head
}

// Verify checks the whole journal for somebody who does not trust this host: the key evidence of every epoch, the signature
// of every tree head, that the entries lead to each, and that every epoch names the last head of the one before. What no
// verifier can see is whether entries were cut off the very end.
func (s *Store) Verify(o evidence.Options) ([]EpochReport, error) {
	s.mu.RLock()
	epochs := append([]*epoch(nil), s.epochs...)
	s.mu.RUnlock()
	var reports []EpochReport
	for i, e := range epochs {
		var before *epoch
		if i > 0 {
			before = epochs[i-1]
		}
		if err := e.checkChain(before); err != nil {
			return reports, err
		}
		report, err := s.verifyEpoch(e, &o)
		if err != nil {
			return reports, fmt.Errorf("epoch %s: %w", e.id, err)
		}
		reports = append(reports, *report)
	}
	return reports, nil
}

func (s *Store) verifyEpoch(e *epoch, o *evidence.Options) (*EpochReport, error) {
	attested, pinned, err := o.VerifyKey(&e.start.KeyEvidence)
	if err != nil {
		return nil, err
	}
	r := &EpochReport{Epoch: e.id, Tier: attested.Tier, Key: attested.Key, Pinned: pinned}
	for fr, err := range s.framesFrom(e, 0) {
		if err != nil {
			return nil, err
		}
		last := fr.first + uint64(len(fr.entries)) - 1
		head, err := journal.VerifyHead(fr.signedHead, attested.Key)
		if err != nil {
			return nil, &AlteredError{File: e.path, Epoch: e.id, Entry: last, Reason: err.Error()}
		}
		tree := fr.before
		tree.Append(leavesOf(fr.entries))
		if head.Epoch != e.id || head.Size != tree.Size() || head.Root != tree.Root() || head.Tier != attested.Tier ||
			attested.Epoch != e.id || head.ConfigurationHash != attested.ConfigurationHash {
			return nil, &AlteredError{File: e.path, Epoch: e.id, Entry: fr.first, Reason: "the entries do not lead to the signed tree head, or it disagrees with the key evidence"}
		}
		if fr.first == 0 {
			if r.Began, err = entryTime(fr.entries[0]); err != nil {
				return nil, err
			}
		}
		r.Entries, r.Ended = head.Size, head.Time
		r.Heads++
	}
	return r, nil
}

func entryTime(raw []byte) (int64, error) {
	e, err := journal.Decode(raw)
	return e.Time, err
}

// checkChain compares what entry 0 says of its predecessor with the epoch that lies before it.
func (e *epoch) checkChain(before *epoch) error {
	p := e.start.Predecessor
	switch {
	case before == nil && p == nil:
		return nil
	case before == nil:
		return fmt.Errorf("%w: epoch %s follows epoch %s, which is missing", ErrChain, e.id, p.Epoch)
	case p == nil:
		return fmt.Errorf("%w: epoch %s does not say that it follows epoch %s", ErrChain, e.id, before.id)
	case p.Epoch != before.id || p.Size != before.tree.Size():
		return fmt.Errorf("%w: epoch %s follows %d entries of epoch %s; there are %d of epoch %s", ErrChain, e.id, p.Size, p.Epoch, before.tree.Size(), before.id)
	}
	head, err := journal.VerifyHead(p.SignedHead, before.key)
	if err != nil {
		return fmt.Errorf("%w: the head of epoch %s that epoch %s names: %w", ErrChain, before.id, e.id, err)
	}
	if head.Epoch != before.id || head.Size != p.Size || head.Root != before.tree.Root() {
		return fmt.Errorf("%w: epoch %s follows another history of epoch %s", ErrChain, e.id, before.id)
	}
	return nil
}
