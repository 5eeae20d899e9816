package ledger

import (
	"context"
	"fmt"
	"slices"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/journal"
)

const (
	// SnapshotEvery is after how many entries about money a ledger writes a snapshot by itself.
	SnapshotEvery = 1 << 16
	// partsAtOnce of a snapshot go to the journal in one call: 768 KiB.
	partsAtOnce = 16
)

// snapshotWhenDue writes a snapshot when there are enough entries behind the last one; l.mu is held, and no lease is on its way.
func (l *Ledger) snapshotWhenDue() {
	if l.since++; l.since < SnapshotEvery {
		return
	}
	if _, err := l.remember(); err != nil {
		l.since = 0 // not again for each entry
		_ = l.alarm(journal.RequestID{}, fmt.Errorf("write a snapshot: %w", err))
	}
}

// remember puts a snapshot of the fold behind all that the fold took, and returns its last part; l.mu is held, and no lease is on its way.
func (l *Ledger) remember() (*record, error) {
	now := l.now()
	l.fold.tick(now)
	snapshot, err := l.fold.Snapshot()
	if err != nil {
		return nil, err
	}
	entries, err := snapshotEntries(snapshot, now)
	if err != nil {
		return nil, err
	}
	var last *record
	for parts := range slices.Chunk(entries, partsAtOnce) {
		last = &record{entries: parts, snapshot: true, done: make(chan struct{})}
		l.enqueue(last)
	}
	l.since = 0
	return last, nil
}

// Snapshot puts what everything adds up to into the journal, and returns when it is durable: a replay can begin there.
func (l *Ledger) Snapshot(ctx context.Context) error {
	if !l.opts.Journal.Attached() {
		return lease.ErrNoStore
	}
	if err := l.lock(ctx); err != nil {
		return err
	}
	last, err := l.remember()
	l.mu.Unlock()
	if err != nil {
		return fmt.Errorf("ledger: snapshot: %w", err)
	}
	return l.await(ctx, last)
}

// Behind is how many entries about money there are behind the newest snapshot of this epoch.
func (l *Ledger) Behind() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.since
}

// NoteControl tells the ledger of a cost control that is being put on record, so that a snapshot knows it.
func (l *Ledger) NoteControl(version uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fold.control = max(l.fold.control, version)
}
