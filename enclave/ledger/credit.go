package ledger

import (
	"context"
	"fmt"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/journal"
)

// draw takes leases until a call can be held, one caller at a time.
func (l *Ledger) draw(ctx context.Context, c *Call) error {
	select {
	case l.drawing <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("ledger: wait for a lease: %w", ctx.Err())
	case <-l.closed:
		return fmt.Errorf("%w: %w", ErrStopped, errClosed)
	}
	defer func() { <-l.drawing }()
	l.mu.Lock()
	credit := l.fold.credit
	l.mu.Unlock()
	if credit >= int64(c.Worst) { // another caller was faster
		return nil
	}
	_, err := l.leases.Draw(ctx, c.Namespace, lease.MicroUSD, uint64(int64(c.Worst)-credit))
	return err
}

// onRecord is the ledger as the journal of its leases.
type onRecord struct{ l *Ledger }

// Attached implements lease.Journal.
func (o onRecord) Attached() bool { return o.l.opts.Journal.Attached() }

// Append implements lease.Journal: it puts grants and leases on record, and into the fold when they are durable. Everything else waits
// meanwhile.
func (o onRecord) Append(ctx context.Context, entries ...[]byte) error {
	l := o.l
	if err := l.lock(ctx); err != nil {
		return err
	}
	r := &record{entries: entries, done: make(chan struct{})}
	done := r.done
	settled := make(chan struct{})
	l.settled = settled
	l.enqueue(r)
	l.mu.Unlock()
	// Not ctx: it ends when the journal has said what became of it.
	err := l.until(context.WithoutCancel(ctx), done)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.settled = nil
	close(settled)
	if err == nil {
		err = r.err
	}
	if err == nil {
		err = l.count(entries)
	}
	for _, r := range l.unwanted {
		l.withdraw(r)
	}
	l.unwanted = nil
	return err
}

// count puts entries that are on record into the fold; l.mu is held.
func (l *Ledger) count(entries [][]byte) error {
	for _, raw := range entries {
		e, err := journal.Decode(raw)
		if err == nil {
			err = l.fold.Apply(e)
		}
		if err != nil {
			l.stopped = fmt.Errorf("%w: what was put on record does not add up: %w", ErrStopped, err)
			return l.alarm(journal.RequestID{}, l.stopped)
		}
	}
	return nil
}
