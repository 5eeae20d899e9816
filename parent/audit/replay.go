package audit

import (
	"fmt"

	"github.com/raypher/raypher/journal"
)

// snapshots finds the newest whole snapshot of an epoch: where a replay may begin (enclave/ledger).
type snapshots struct {
	found []part // of the frame that is being read, not committed yet

	id    journal.Hash
	first uint64 // index of the first part of the one that is being written
	next  uint64 // part
	whole bool   // there is one:
	at    uint64 // index of its first part
}

// part is one that was found.
type part struct {
	index  uint64
	id     journal.Hash
	number uint64
	parts  uint64
}

func (s *snapshots) find(index uint64, payload []byte) error {
	p, err := journal.DecodeSnapshotPart(payload)
	if err == nil {
		s.found = append(s.found, part{index, p.ID, p.Number, p.Parts})
	}
	return err
}

// commit takes what was found for durable.
func (s *snapshots) commit() {
	for _, p := range s.found {
		if p.number == 0 {
			s.id, s.first, s.next = p.id, p.index, 0
		}
		if p.id != s.id || p.number != s.next {
			s.id = journal.Hash{}
			continue
		}
		if s.next++; s.next == p.parts {
			s.whole, s.at, s.id = true, s.first, journal.Hash{}
		}
	}
	s.found = s.found[:0]
}

// Replay hands out what an enclave needs to know what was spent: the entries up to the end of an epoch, from the newest snapshot in it
// or before it, or from the beginning. Each begins an epoch, at an entry with the tree before it; entries come in order, some at a time.
func (s *Store) Replay(last journal.EpochID, begins func(id journal.EpochID, first uint64, edge []journal.Hash) error, entries func(raw [][]byte) error) error {
	s.mu.RLock()
	var shown []*epoch
	from := uint64(0)
	for i := len(s.epochs) - 1; i >= 0; i-- {
		e := s.epochs[i]
		if len(shown) == 0 && e.id != last {
			continue
		}
		shown = append([]*epoch{e}, shown...)
		if e.snapshots.whole {
			from = e.snapshots.at
			break
		}
	}
	s.mu.RUnlock()
	if len(shown) == 0 {
		return fmt.Errorf("%w: epoch %s", ErrNotFound, last)
	}
	for _, e := range shown {
		if err := s.replayEpoch(e, from, begins, entries); err != nil {
			return err
		}
		from = 0
	}
	return nil
}

func (s *Store) replayEpoch(e *epoch, from uint64, begins func(journal.EpochID, uint64, []journal.Hash) error, entries func([][]byte) error) error {
	begun := false
	for f, err := range s.framesFrom(e, from) {
		if err != nil {
			return err
		}
		if f.first+uint64(len(f.entries)) <= from {
			continue
		}
		rest := f.entries
		if !begun {
			tree, skipped := f.before, max(from, f.first)-f.first
			if skipped > 0 {
				tree.Append(leavesOf(rest[:skipped]))
			}
			if err := begins(e.id, tree.Size(), tree.Edge()); err != nil {
				return err
			}
			begun, rest = true, rest[skipped:]
		}
		if err := entries(rest); err != nil {
			return err
		}
	}
	return nil
}
