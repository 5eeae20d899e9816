package ledger

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/internal/cborscan"
	"github.com/raypher/raypher/journal"
)

// A snapshot is all that a fold knows, in CBOR: an array of these, in this order.
//
//	format (1), grant as it was signed, its counter, taken, handed, period, first, clock, control, credit, unaccounted
//	accounts: by level, an array of [name, spent, lost, closed, month, requests, tokens], by name
//	          a window is [newest, [number, count, ...]]
//	open: an array of [reservation as in its entry, at, of the credit there is], by request id
//	finished: their request ids side by side, the oldest first
const (
	snapshotFormat = 1
	snapshotItems  = 14
)

var errSnapshot = errors.New("snapshot of the ledger: malformed")

// Snapshot is what RestoreFold makes the same fold from.
func (f *Fold) Snapshot() ([]byte, error) {
	out := make(cborscan.Output, 0, 4096+len(f.order)*len(journal.RequestID{}))
	out.Array(snapshotItems)
	out.Uint(snapshotFormat)
	credit := f.leases.State()
	out.Bytes(credit.Signed)
	out.Uint(credit.Counter)
	out.Uint(credit.Taken)
	out.Uint(credit.Handed)
	out.Bytes([]byte(f.period))
	putBool(&out, f.first)
	out.Int(f.clock)
	out.Uint(f.control)
	out.Int(f.credit)
	out.Uint(f.unaccounted)
	out.Array(levels)
	for _, accounts := range f.accounts {
		out.Array(uint64(len(accounts)))
		for _, name := range slices.Sorted(maps.Keys(accounts)) {
			accounts[name].encode(&out, name)
		}
	}
	out.Array(uint64(len(f.open)))
	for _, h := range f.byID() {
		payload, err := h.Reservation.Encode()
		if err != nil {
			return nil, err
		}
		out.Array(3)
		out.Bytes(payload)
		out.Int(h.at)
		putBool(&out, h.generation == f.generation)
	}
	ids := make([]byte, 0, len(f.order)*len(journal.RequestID{}))
	for i := range f.order {
		id := f.order[(f.oldest+i)%len(f.order)]
		ids = append(ids, id[:]...)
	}
	out.Bytes(ids)
	return out, nil
}

// byID are the open holds in one order.
func (f *Fold) byID() []*hold {
	return slices.SortedFunc(maps.Values(f.open), func(a, b *hold) int { return bytes.Compare(a.ID[:], b.ID[:]) })
}

func putBool(out *cborscan.Output, is bool) {
	if is {
		out.Uint(1)
	} else {
		out.Uint(0)
	}
}

func (a *account) encode(out *cborscan.Output, name string) {
	out.Array(7)
	out.Bytes([]byte(name))
	out.Uint(a.spent)
	out.Uint(a.lost)
	putBool(out, a.closed)
	out.Bytes([]byte(a.month))
	a.requests.encode(out)
	a.tokens.encode(out)
}

func (w *window) encode(out *cborscan.Output) {
	out.Array(2)
	out.Int(w.newest)
	some := uint64(0)
	for _, n := range w.buckets {
		if n > 0 {
			some++
		}
	}
	out.Array(2 * some)
	size := int64(len(w.buckets))
	for number := w.newest - size + 1; number <= w.newest; number++ {
		if number < 0 {
			continue
		}
		if n := w.buckets[number%size]; n > 0 {
			out.Int(number)
			out.Uint(n)
		}
	}
}

// RestoreFold is the fold whose Snapshot it was. It comes from a journal whose heads were verified, and is read as strictly as what does not.
// The grant in it must be signed by one of the operator keys (PKIX DER).
func RestoreFold(snapshot []byte, operatorKeys [][]byte) (*Fold, error) {
	c := cborscan.New(snapshot)
	if c.Array(snapshotItems) != snapshotItems || c.Uint() != snapshotFormat {
		return nil, errSnapshot
	}
	credit := lease.State{Signed: bytes.Clone(c.Bytes()), Counter: c.Uint(), Taken: c.Uint(), Handed: c.Uint()}
	f := NewFold(operatorKeys)
	f.period, f.first, f.clock, f.control = string(c.Bytes()), c.Uint() == 1, c.Int(), c.Uint()
	f.credit, f.unaccounted = c.Int(), c.Uint()
	if c.Array(levels) != levels {
		return nil, errSnapshot
	}
	for level := range f.accounts {
		for range c.Array(MaxAccounts) {
			name, a := decodeAccount(c)
			f.accounts[level][name] = a
		}
	}
	if err := f.restoreOpen(c); err != nil {
		return nil, err
	}
	ids := c.Bytes()
	size := len(journal.RequestID{})
	if !c.End() || len(ids)%size != 0 || len(ids)/size > MaxFinished || f.accounts[Host][""] == nil || len(f.accounts[Host]) != 1 {
		return nil, errSnapshot
	}
	for id := range slices.Chunk(ids, size) {
		f.finish(journal.RequestID(id))
	}
	var err error
	if f.leases, err = lease.RestoreFold(credit, operatorKeys); err != nil {
		return nil, err
	}
	return f, nil
}

// restoreOpen puts holds back where they were.
func (f *Fold) restoreOpen(c *cborscan.Cursor) error {
	for range c.Array(MaxOpen) {
		if c.Array(3) != 3 {
			return errSnapshot
		}
		r, err := journal.DecodeReservation(c.Bytes())
		if err != nil {
			return err
		}
		h := &hold{Reservation: *r, at: c.Int(), generation: f.generation - 1}
		if c.Uint() == 1 {
			h.generation = f.generation
		}
		for level, name := range names(r) {
			a := f.accounts[level][name]
			if a == nil {
				return fmt.Errorf("%w: a hold of no account", errSnapshot)
			}
			h.accounts[level] = a
			a.held = add(a.held, r.Worst)
		}
		f.open[r.ID] = h
	}
	return nil
}

func decodeAccount(c *cborscan.Cursor) (string, *account) {
	a := newAccount()
	if c.Array(7) != 7 {
		return "", a
	}
	name := strings.Clone(string(c.Bytes()))
	a.spent, a.lost, a.closed, a.month = c.Uint(), c.Uint(), c.Uint() == 1, string(c.Bytes())
	a.requests.decode(c)
	a.tokens.decode(c)
	return name, a
}

func (w *window) decode(c *cborscan.Cursor) {
	if c.Array(2) != 2 {
		return
	}
	w.newest = c.Int()
	for range c.Array(uint64(2*len(w.buckets))) / 2 {
		number, n := c.Int(), c.Uint()
		if b := w.bucket(number * w.step); b != nil && number >= 0 {
			*b = n
			w.sum = add(w.sum, n)
		}
	}
}

// snapshotEntries are the entries of a snapshot, at a time in Unix nanoseconds.
func snapshotEntries(snapshot []byte, at int64) ([][]byte, error) {
	id := journal.Hash(sha256.Sum256(snapshot))
	var entries [][]byte
	parts := uint64((len(snapshot) + journal.MaxSnapshotPart - 1) / journal.MaxSnapshotPart)
	for number := range parts {
		from := number * journal.MaxSnapshotPart
		p := journal.SnapshotPart{ID: id, Number: number, Parts: parts, Bytes: snapshot[from:min(from+journal.MaxSnapshotPart, uint64(len(snapshot)))]}
		payload, err := p.Encode()
		if err != nil {
			return nil, err
		}
		raw, err := journal.Entry{Type: journal.TypeSnapshot, Time: at, Payload: payload}.Encode()
		if err != nil {
			return nil, err
		}
		entries = append(entries, raw)
	}
	return entries, nil
}

// gathered are the parts of a snapshot that were found so far.
type gathered struct {
	id   journal.Hash
	next uint64
	all  []byte
}

// add takes the next part, and returns the snapshot when it is whole. A first part begins anew: the one before was never ended.
func (g *gathered) add(payload []byte) (snapshot []byte, err error) {
	p, err := journal.DecodeSnapshotPart(payload)
	if err != nil {
		return nil, err
	}
	if p.Number == 0 {
		*g = gathered{id: p.ID}
	}
	if p.ID != g.id || p.Number != g.next {
		*g = gathered{}
		return nil, nil
	}
	g.all = append(g.all, p.Bytes...)
	g.next++
	if g.next < p.Parts {
		return nil, nil
	}
	whole := g.all
	*g = gathered{}
	if sha256.Sum256(whole) != p.ID {
		return nil, errSnapshot
	}
	return whole, nil
}
