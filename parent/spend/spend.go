// Package spend reads in this host's journal what calls of models came to: each call, and what they add up to by day, agent and model. raypherd
// shows it to operators beside the enclave's balances. It decides nothing: what may be spent is the enclave's ledger's to say, which
// holds less detail.
package spend

import (
	"context"
	"iter"
	"slices"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
)

// Journal is what is read; audit.Store is one.
type Journal interface {
	Epochs() []journal.EpochID
	Entries(audit.Filter) iter.Seq2[audit.Record, error]
}

// Outcome of a call, in words.
const (
	Settled   = "settled"
	Kept      = "kept" // nobody knows what it used: all that was held counts
	Withdrawn = "withdrawn"
	Open      = "open"
)

// Call is one call of a model. Amounts are in micro-dollars, times in Unix nanoseconds.
type Call struct {
	journal.Reservation
	Epoch        journal.EpochID // where its reservation lies
	Index        uint64
	Began, Ended int64 // 0: it is open, or it ended with the enclave's process
	Outcome      string
	Spent, Used  uint64 // Used in tokens
}

// reading is how far a journal was read, and what was open there.
type reading struct {
	epoch journal.EpochID // the newest that was read
	next  uint64          // entry of it
	open  map[journal.RequestID]*Call
}

var aboutMoney = []journal.Type{journal.TypeEpoch, journal.TypeReservation, journal.TypeSettlement}

// on reads what is new, and hands out each call that has ended. Memory is bounded by the calls that are open.
func (r *reading) on(ctx context.Context, j Journal, ended func(*Call) error) error {
	if r.open == nil {
		r.open = map[journal.RequestID]*Call{}
	}
	epochs := j.Epochs()
	if at := slices.Index(epochs, r.epoch); at >= 0 {
		epochs = epochs[at:]
	} else {
		r.next = 0
	}
	for _, id := range epochs {
		if id != r.epoch {
			r.epoch, r.next = id, 0
		}
		for record, err := range j.Entries(audit.Filter{Epoch: &id, From: r.next, Types: aboutMoney}) {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = r.take(&record, ended)
			}
			if err != nil {
				return err
			}
			r.next = record.Index + 1
		}
	}
	return nil
}

// take reads one entry, as the ledger's fold does.
func (r *reading) take(record *audit.Record, ended func(*Call) error) error {
	switch record.Entry.Type {
	case journal.TypeEpoch: // nobody will hear of those calls any more
		for _, c := range r.underWay() {
			c.Outcome, c.Spent = Kept, c.Worst
			delete(r.open, c.ID)
			if err := ended(c); err != nil {
				return err
			}
		}
	case journal.TypeReservation:
		reservation, err := journal.DecodeReservation(record.Entry.Payload)
		if err != nil {
			return err
		}
		r.open[reservation.ID] = &Call{Reservation: *reservation, Epoch: record.Epoch, Index: record.Index, Began: record.Entry.Time, Outcome: Open}
	case journal.TypeSettlement:
		s, err := journal.DecodeSettlement(record.Entry.Payload)
		if err != nil {
			return err
		}
		c := r.open[s.ID]
		if c == nil { // said again
			return nil
		}
		delete(r.open, s.ID)
		c.Ended = record.Entry.Time
		switch s.Outcome {
		case journal.Settled:
			c.Outcome, c.Spent, c.Used = Settled, s.Actual, s.Tokens
		case journal.Kept:
			c.Outcome, c.Spent = Kept, c.Worst
		default:
			c.Outcome = Withdrawn
		}
		return ended(c)
	}
	return nil
}

// underWay are the open calls, in the order in which they began.
func (r *reading) underWay() []*Call {
	var all []*Call
	for _, c := range r.open {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *Call) int {
		if a.Began != b.Began {
			return int(min(max(a.Began-b.Began, -1), 1))
		}
		return slices.Compare(a.ID[:], b.ID[:])
	})
	return all
}

// Calls hands out every call that began at a moment (Unix nanoseconds) or later, in the order of their ends, open ones last.
func Calls(ctx context.Context, j Journal, since int64, each func(*Call) error) error {
	var r reading
	after := func(c *Call) error {
		if c.Began < since {
			return nil
		}
		return each(c)
	}
	if err := r.on(ctx, j, after); err != nil {
		return err
	}
	for _, c := range r.underWay() {
		if err := after(c); err != nil {
			return err
		}
	}
	return nil
}
