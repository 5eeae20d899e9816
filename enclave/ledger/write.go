package ledger

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/raypher/raypher/journal"
)

// retry is how long the writer waits when the journal takes nothing: nobody tells it when there is room.
const retry = 50 * time.Millisecond

// record is one step on its way into the journal: a reservation, a settlement, or leases.
type record struct {
	entries     [][]byte
	reservation *hold               // or
	settlement  *journal.Settlement // or
	snapshot    bool                // a part of one; or none of these: leases, which are not in the fold yet
	at          int64               // Unix nanoseconds that the entry of a settlement names
	done        chan struct{}       // closed when err is set; nil: nobody waits, as for a repeated settlement
	err         error
	durable     bool
	waiting     int // callers of Reserve
}

// isLease says that everything before it has to be on record before it is handed over.
func (r *record) isLease() bool { return r.reservation == nil && r.settlement == nil && !r.snapshot }

// lock takes l.mu when nothing stands in the way: leases and grants count where they stand in the journal, so everything else waits
// until they are there.
func (l *Ledger) lock(ctx context.Context) error {
	for {
		l.mu.Lock()
		if l.stopped != nil {
			defer l.mu.Unlock()
			return l.stopped
		}
		if l.unread {
			defer l.mu.Unlock()
			return ErrUnread
		}
		waiting := l.settled
		if waiting == nil {
			return nil
		}
		l.mu.Unlock()
		if err := l.until(ctx, waiting); err != nil {
			return err
		}
	}
}

// until waits for something, or for the end of ctx or of the ledger.
func (l *Ledger) until(ctx context.Context, done <-chan struct{}) error {
	if l.inline != nil && ctx.Err() == nil {
		l.inline(done)
	}
	select {
	case <-done:
		return nil
	default:
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("ledger: wait for the journal: %w", ctx.Err())
	case <-l.closed:
		return fmt.Errorf("%w: %w", ErrStopped, errClosed)
	}
}

// await returns when a record is durable.
func (l *Ledger) await(ctx context.Context, r *record) error {
	if err := l.until(ctx, r.done); err != nil {
		return err
	}
	return r.err
}

// awaitHold is await for a reservation. When nobody waits for it any more its call does not leave, and it is withdrawn.
func (l *Ledger) awaitHold(ctx context.Context, r *record) error {
	waited := l.until(ctx, r.done)
	l.mu.Lock()
	defer l.mu.Unlock()
	r.waiting--
	if waited == nil {
		return r.err
	}
	if r.durable && r.waiting == 0 {
		l.withdraw(r)
	}
	return waited
}

// withdraw gives back what an unwanted reservation holds, or has it done when leases that are on their way are on record; l.mu is held.
func (l *Ledger) withdraw(r *record) {
	if l.settled != nil {
		l.unwanted = append(l.unwanted, r)
		return
	}
	if l.fold.open[r.reservation.ID] != r.reservation || l.stopped != nil {
		return
	}
	if err := l.put(&journal.Settlement{ID: r.reservation.ID, Outcome: journal.Withdrawn}, nil); err != nil {
		_ = l.alarm(r.reservation.ID, err)
	}
}

// enqueue puts a record behind those that the fold took before; l.mu is held.
func (l *Ledger) enqueue(r *record) {
	l.out = append(l.out, r)
	l.kick()
}

func (l *Ledger) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// write hands records to the journal as they come.
func (l *Ledger) write() {
	defer l.wait.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.wake:
		case <-timer.C:
		case <-l.closed:
			return
		}
		if !l.flush() {
			timer.Reset(retry)
		}
	}
}

// flush hands over what waits, and says whether the journal took everything.
func (l *Ledger) flush() bool {
	l.flushing.Lock()
	defer l.flushing.Unlock()
	for {
		batch, entries := l.next()
		if len(batch) == 0 {
			return true
		}
		taken, err := l.opts.Journal.TryAppend(func(err error) { l.recorded(batch, err) }, entries...)
		if err != nil {
			l.refused(batch, err)
			return false
		}
		if !taken {
			l.putBack(batch)
			return false
		}
	}
}

// next takes as many records as one call takes. Leases and parts of snapshots go alone, when all that was handed over before is on record.
func (l *Ledger) next() (batch []*record, entries [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n < len(l.out) && len(entries)+len(l.out[n].entries) <= MaxEntries {
		if (l.out[n].isLease() || l.out[n].snapshot) && (n > 0 || l.handed > 0) {
			break
		}
		entries = append(entries, l.out[n].entries...)
		if n++; l.out[n-1].snapshot {
			break
		}
	}
	batch = slices.Clone(l.out[:n])
	if l.out = slices.Delete(l.out, 0, n); len(l.out) == 0 {
		l.out = nil
	}
	l.handed += len(batch)
	return batch, entries
}

func (l *Ledger) putBack(batch []*record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handed -= len(batch)
	l.out = append(batch, l.out...)
}

// refused ends records of which nothing was begun. What has to be on record nevertheless is handed over again, before all others.
func (l *Ledger) refused(batch []*record, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handed -= len(batch)
	var again []*record
	for _, r := range batch {
		if repeated := l.fail(r, fmt.Errorf("%w: %w", ErrUnrecorded, err), false); repeated != nil {
			again = append(again, repeated)
		}
	}
	l.failLeases(err)
	l.out = append(again, l.out...)
}

// recorded ends records that the journal took.
func (l *Ledger) recorded(batch []*record, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handed -= len(batch)
	for _, r := range batch {
		if err != nil {
			if repeated := l.fail(r, fmt.Errorf("%w: %w", ErrUnrecorded, err), true); repeated != nil {
				l.enqueue(repeated)
			}
			continue
		}
		r.durable = true
		r.finish(nil)
		if r.reservation != nil && r.waiting == 0 {
			l.withdraw(r)
		}
	}
	if err != nil {
		l.failLeases(err)
	}
	if len(l.out) > 0 {
		l.kick() // leases, that waited for this
	}
}

// failLeases ends leases that wait for records that are not on record: they would stand before what is said again; l.mu is held.
func (l *Ledger) failLeases(err error) {
	l.out = slices.DeleteFunc(l.out, func(r *record) bool {
		ended := r.isLease() || r.snapshot // which knows of them
		if ended {
			r.finish(fmt.Errorf("%w: %w", ErrUnrecorded, err))
		}
		return ended
	})
}

// fail tells whoever waits for a record that it is not on record, and returns what has to be put there instead. begun: it may yet come
// to be on record. l.mu is held.
//
// A reservation is withdrawn, for its call does not leave. A settlement is repeated. Both are marked as said again: they change a
// fold only where what they repeat has not.
func (l *Ledger) fail(r *record, err error, begun bool) *record {
	r.finish(err)
	var s journal.Settlement
	at := r.at
	switch {
	case r.reservation != nil:
		s, at = journal.Settlement{ID: r.reservation.ID, Outcome: journal.Withdrawn, Again: true}, l.now()
		l.fold.tick(at)
		l.fold.end(r.reservation, s)
	case r.settlement != nil:
		s = *r.settlement
		s.Again = true
	case r.snapshot: // whoever reads the journal does without it
		return nil
	default:
		if begun && l.stopped == nil {
			l.stopped = fmt.Errorf("%w: the journal's store went away while a lease or a grant was put on record: %w", ErrStopped, err)
			_ = l.alarm(journal.RequestID{}, l.stopped)
		}
		return nil
	}
	raw, err := settlementEntry(&s, at)
	if err != nil { // what was encoded before always is
		l.stopped = errors.Join(ErrStopped, err)
		return nil
	}
	return &record{entries: [][]byte{raw}, settlement: &s, at: at}
}

func (r *record) finish(err error) {
	r.err = err
	if r.done != nil {
		close(r.done)
	}
}
