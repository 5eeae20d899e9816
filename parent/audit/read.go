package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"sort"
	"time"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/visa"
)

// Record is one entry and where it lies. Raw is the encoded entry.
type Record struct {
	Epoch journal.EpochID
	Index uint64
	Raw   []byte
	Entry journal.Entry
}

// AgentID is the agent that the entry is about, empty where it is about none.
func (r *Record) AgentID() string {
	switch r.Entry.Type {
	case journal.TypeVerdict:
		if v, err := journal.DecodeVerdict(r.Entry.Payload); err == nil {
			return v.AgentID
		}
	case journal.TypeApproval:
		if a, err := journal.DecodeApproval(r.Entry.Payload); err == nil {
			return a.AgentID
		}
	case journal.TypeVisa:
		if c, err := visa.DecodeClaims(r.Entry.Payload); err == nil {
			return c.Asserted.AgentID
		}
	}
	return ""
}

// Filter selects entries; the zero value selects all.
type Filter struct {
	Epoch *journal.EpochID // only this epoch
	From  uint64           // with Epoch: from this entry on
	Types []journal.Type   // only these
	Agent string           // only entries about this agent
	Since time.Time        // only entries of this moment or later
}

func (f *Filter) selects(r *Record) bool {
	return (len(f.Types) == 0 || slices.Contains(f.Types, r.Entry.Type)) &&
		(f.Since.IsZero() || r.Entry.Time >= f.Since.UnixNano()) &&
		(f.Agent == "" || r.AgentID() == f.Agent)
}

// Epochs lists the epochs, oldest first.
func (s *Store) Epochs() []journal.EpochID {
	s.mu.RLock()
	defer s.mu.RUnlock()
	ids := make([]journal.EpochID, len(s.epochs))
	for i, e := range s.epochs {
		ids[i] = e.id
	}
	return ids
}

// Size is the number of entries of an epoch, 0 where there is none.
func (s *Store) Size(id journal.EpochID) uint64 {
	e := s.epoch(id)
	if e == nil {
		return 0
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return e.tree.Size()
}

// EpochKey is the key that signs an epoch, as its entry 0 says; nil where there is no such epoch.
func (s *Store) EpochKey(id journal.EpochID) *journal.Key {
	if e := s.epoch(id); e != nil {
		return e.key
	}
	return nil
}

// Entries yields what the filter selects, oldest first, up to what is durable at the moment it reaches an epoch. It ends
// after an error.
func (s *Store) Entries(f Filter) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for _, id := range s.Epochs() {
			if f.Epoch != nil && *f.Epoch != id {
				continue
			}
			for r, err := range s.entriesOf(s.epoch(id), &f) {
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
	}
}

func (s *Store) entriesOf(e *epoch, f *Filter) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		from := uint64(0)
		if f.Epoch != nil {
			from = f.From
		}
		for fr, err := range s.framesFrom(e, from) {
			if err != nil {
				yield(Record{}, err)
				return
			}
			for i, raw := range fr.entries {
				r := Record{Epoch: e.id, Index: fr.first + uint64(i), Raw: raw}
				if r.Index < from {
					continue
				}
				if r.Entry, err = journal.Decode(raw); err != nil {
					yield(Record{}, s.altered(e, &brokenFrame{r.Index, err.Error()}))
					return
				}
				if f.selects(&r) && !yield(r, nil) {
					return
				}
			}
		}
	}
}

// placedFrame is a frame with the tree before it.
type placedFrame struct {
	*frame
	before journal.Tree
}

// framesFrom yields the committed frames from the one that holds entry index on, or from a few before it.
func (s *Store) framesFrom(e *epoch, index uint64) iter.Seq2[placedFrame, error] {
	return func(yield func(placedFrame, error) bool) {
		s.mu.RLock()
		end, marks := e.end, e.marks
		s.mu.RUnlock()
		at := max(0, sort.Search(len(marks), func(i int) bool { return marks[i].size > index })-1)
		tree, err := journal.TreeFromEdge(marks[at].size, marks[at].edge)
		if err != nil {
			yield(placedFrame{}, err)
			return
		}
		file, err := os.Open(e.path)
		if err != nil {
			yield(placedFrame{}, fmt.Errorf("journal: %w", err))
			return
		}
		defer file.Close()
		scan := &frames{file: file, offset: marks[at].offset, end: end, index: tree.Size()}
		for {
			if scan.offset == end {
				return
			}
			fr, err := scan.next()
			if errors.Is(err, io.EOF) || errors.Is(err, errTorn) {
				err = &brokenFrame{scan.index, "it was there, and is no more"}
			}
			if err != nil {
				yield(placedFrame{}, s.altered(e, err))
				return
			}
			if !yield(placedFrame{fr, tree}, nil) {
				return
			}
			tree.Append(leavesOf(fr.entries))
		}
	}
}

func leavesOf(entries [][]byte) []journal.Hash {
	leaves := make([]journal.Hash, len(entries))
	for i, raw := range entries {
		leaves[i] = journal.LeafHash(raw)
	}
	return leaves
}

// altered names the file in an error of a scan over committed frames, where a torn end cannot be.
func (s *Store) altered(e *epoch, err error) error {
	var broken *brokenFrame
	if errors.As(err, &broken) {
		return &AlteredError{File: e.path, Epoch: e.id, Entry: broken.entry, Reason: broken.reason}
	}
	return fmt.Errorf("journal %s: %w", e.path, err)
}

// Receipt returns an entry with the proof that it lies under the head that was signed with it. The proof is checked before
// it is returned.
func (s *Store) Receipt(id journal.EpochID, index uint64) (*journal.Receipt, []byte, error) {
	e := s.epoch(id)
	if e == nil {
		return nil, nil, fmt.Errorf("%w: epoch %s", ErrNotFound, id)
	}
	for fr, err := range s.framesFrom(e, index) {
		if err != nil {
			return nil, nil, err
		}
		if index >= fr.first+uint64(len(fr.entries)) {
			continue
		}
		tree := fr.before
		batch := tree.Append(leavesOf(fr.entries))
		entry := fr.entries[index-fr.first]
		receipt := &journal.Receipt{Epoch: id, Index: index, Path: batch.Proof(index), SignedHead: fr.signedHead}
		if _, err := receipt.Verify(entry, e.key); err != nil {
			return nil, nil, &AlteredError{File: e.path, Epoch: id, Entry: index, Reason: err.Error()}
		}
		return receipt, entry, nil
	}
	return nil, nil, fmt.Errorf("%w: entry %d of epoch %s", ErrNotFound, index, id)
}

// namedVisa is the visa that an entry names, nil where it names none.
func namedVisa(entry journal.Entry) ([]byte, error) {
	switch entry.Type {
	case journal.TypeVerdict:
		v, err := journal.DecodeVerdict(entry.Payload)
		return v.VisaID, err
	case journal.TypeApproval:
		a, err := journal.DecodeApproval(entry.Payload)
		if err != nil {
			return nil, err
		}
		return a.VisaID, nil
	}
	return nil, nil
}

// Export returns the evidence of one entry, with the visa that it names where the journal holds it.
func (s *Store) Export(id journal.EpochID, index uint64) (*evidence.Bundle, error) {
	receipt, raw, err := s.Receipt(id, index)
	if err != nil {
		return nil, err
	}
	b := &evidence.Bundle{Entry: raw, Receipt: *receipt, KeyEvidence: s.epoch(id).start.KeyEvidence}
	entry, err := journal.Decode(raw)
	if err != nil {
		return nil, err
	}
	visaID, err := namedVisa(entry)
	if err != nil || len(visaID) == 0 {
		return b, err
	}
	granted, at, err := s.Visa(visaID)
	if errors.Is(err, ErrNotFound) {
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	b.Visa = granted
	if at != id {
		ev := s.epoch(at).start.KeyEvidence
		b.VisaKeyEvidence = &ev
	}
	return b, nil
}

// place is where an entry lies.
type place struct {
	epoch journal.EpochID
	index uint64
}

// knownVisas bounds how many places of visas a store remembers.
const knownVisas = 4096

// Visa finds a visa by its cti, newest epoch first, and puts it together again. The first time it reads through the journal.
func (s *Store) Visa(cti []byte) ([]byte, journal.EpochID, error) {
	s.mu.RLock()
	at, known := s.visas[string(cti)]
	s.mu.RUnlock()
	if !known {
		var err error
		if at, err = s.findVisa(cti); err != nil {
			return nil, journal.EpochID{}, err
		}
		s.mu.Lock()
		if s.visas == nil || len(s.visas) >= knownVisas {
			s.visas = map[string]place{}
		}
		s.visas[string(cti)] = at
		s.mu.Unlock()
	}
	receipt, raw, err := s.Receipt(at.epoch, at.index)
	if err != nil {
		return nil, at.epoch, err
	}
	data, err := visa.Encode(raw, receipt)
	return data, at.epoch, err
}

func (s *Store) findVisa(cti []byte) (place, error) {
	ids := s.Epochs()
	slices.Reverse(ids)
	for _, id := range ids {
		for r, err := range s.Entries(Filter{Epoch: &id, Types: []journal.Type{journal.TypeVisa}}) {
			if err != nil {
				return place{}, err
			}
			if !bytes.Contains(r.Entry.Payload, cti) {
				continue
			}
			if claims, err := visa.DecodeClaims(r.Entry.Payload); err == nil && bytes.Equal(claims.ID, cti) {
				return place{id, r.Index}, nil
			}
		}
	}
	return place{}, fmt.Errorf("%w: visa %x", ErrNotFound, cti)
}
