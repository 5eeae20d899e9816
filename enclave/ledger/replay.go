package ledger

import (
	"errors"
	"fmt"

	"github.com/raypher/raypher/journal"
)

// ErrReplay: what was shown is not the journal that this epoch follows, or not one that adds up.
var ErrReplay = errors.New("replay of the journal")

// Replay reads the journal of the epochs before, as a parent that is not trusted shows it, and adds it up. It begins where the journal does, or
// where a snapshot does. It believes nothing before End: there the last epoch has to be the one whose head was verified; each epoch names
// the head of the one before in its entry 0; and every entry is under its epoch's head. What comes before a snapshot is not read:
// its hashes, which stand for it in the tree, are under the same head.
//
// It holds a fold and an edge of a tree, however long the journal is. It is not safe for concurrent use.
type Replay struct {
	keys [][]byte

	fold    *Fold    // nil: the snapshot is not whole yet
	parts   gathered // of it
	epoch   journal.EpochID
	tree    journal.Tree // of the epoch
	before  *ended       // nil: this epoch is the first one that is shown
	begun   bool
	Entries uint64 // that were read
}

// ended is an epoch that was read to its end.
type ended struct {
	epoch journal.EpochID
	tree  journal.Tree
}

// NewReplay begins one. Grants in the journal must be signed by one of the operator keys (PKIX DER).
func NewReplay(operatorKeys [][]byte) *Replay { return &Replay{keys: operatorKeys} }

// Epoch begins an epoch: its entries follow, from number first on, and edge is the tree of those before them. Only the first epoch may begin
// above 0: with a snapshot.
func (r *Replay) Epoch(id journal.EpochID, first uint64, edge []journal.Hash) error {
	if r.begun && (first != 0 || r.fold == nil) {
		return fmt.Errorf("%w: epoch %s begins at entry %d, behind what does not add up to it", ErrReplay, id, first)
	}
	tree, err := journal.TreeFromEdge(first, edge)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrReplay, err)
	}
	if r.begun {
		r.before = &ended{r.epoch, r.tree}
	} else if first == 0 {
		r.fold = NewFold(r.keys)
	}
	r.begun, r.epoch, r.tree = true, id, tree
	return nil
}

// Read takes the next entries of the epoch that began last.
func (r *Replay) Read(entries ...[]byte) error {
	if !r.begun {
		return fmt.Errorf("%w: entries of no epoch", ErrReplay)
	}
	leaves := make([]journal.Hash, len(entries))
	for i, raw := range entries {
		index := r.tree.Size() + uint64(i)
		e, err := journal.Decode(raw)
		if err == nil {
			err = r.take(index, e)
		}
		if err != nil {
			return fmt.Errorf("%w: entry %d of epoch %s: %w", ErrReplay, index, r.epoch, err)
		}
		leaves[i] = journal.LeafHash(raw)
	}
	r.tree.Append(leaves)
	r.Entries += uint64(len(entries))
	return nil
}

// take adds one entry to the fold, or to the snapshot that it begins with.
func (r *Replay) take(index uint64, e journal.Entry) error {
	if (index == 0) != (e.Type == journal.TypeEpoch) {
		return fmt.Errorf("it is of type %s: an epoch begins with one epoch entry", e.Type)
	}
	if index == 0 {
		if err := r.follows(e.Payload); err != nil {
			return err
		}
	}
	if r.fold != nil {
		return r.fold.Apply(e)
	}
	switch e.Type {
	case journal.TypeSnapshot:
		whole, err := r.parts.add(e.Payload)
		if err == nil && whole == nil && r.parts.next == 0 {
			err = errors.New("a replay begins with the first part of a snapshot")
		}
		if err == nil && whole != nil {
			r.fold, err = RestoreFold(whole, r.keys)
		}
		return err
	case journal.TypeLease, journal.TypeReservation, journal.TypeSettlement:
		return fmt.Errorf("it is of type %s and lies within a snapshot", e.Type)
	}
	if r.parts.next == 0 {
		return fmt.Errorf("it is of type %s: a replay begins with a snapshot", e.Type)
	}
	return nil
}

// follows holds that an epoch follows the one that was read before it.
func (r *Replay) follows(payload []byte) error {
	start, err := journal.DecodeEpochStart(payload)
	if err != nil {
		return err
	}
	if start.Epoch != r.epoch {
		return fmt.Errorf("it begins epoch %s", start.Epoch)
	}
	switch p := start.Predecessor; {
	case p == nil && r.before == nil:
		return nil
	case p == nil:
		return fmt.Errorf("it follows nothing, and epoch %s was shown before it", r.before.epoch)
	case r.before == nil:
		return fmt.Errorf("it follows epoch %s, which was not shown", p.Epoch)
	default:
		return r.before.is(p)
	}
}

// is says why an epoch that was read is not the one that a predecessor names, if it is not. The signature of the head was verified by whoever
// wrote the predecessor.
func (b *ended) is(p *journal.Predecessor) error {
	head, _, err := journal.ReadHead(p.SignedHead)
	if err != nil {
		return err
	}
	if p.Epoch != b.epoch || p.Size != b.tree.Size() || head.Epoch != b.epoch || head.Size != p.Size || head.Root != b.tree.Root() {
		return fmt.Errorf("it follows %d entries of epoch %s with root %s; %d of epoch %s with root %s were shown",
			p.Size, p.Epoch, head.Root, b.tree.Size(), b.epoch, b.tree.Root())
	}
	return nil
}

// End says that all was read, and returns what it adds up to, if it is the journal up to the head that this epoch follows: p, whose
// signature was verified.
func (r *Replay) End(p *journal.Predecessor) (*Fold, error) {
	if !r.begun || r.fold == nil {
		return nil, fmt.Errorf("%w: it ended before there was anything that adds up", ErrReplay)
	}
	if err := (&ended{r.epoch, r.tree}).is(p); err != nil {
		return nil, fmt.Errorf("%w: this epoch: %w", ErrReplay, err)
	}
	return r.fold, nil
}
