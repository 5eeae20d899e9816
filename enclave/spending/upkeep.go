package spending

import (
	"context"
	"time"
)

// When snapshots are written, besides those that the ledger writes by itself.
const (
	// LongReplay is how many entries a replay may read without a snapshot behind it.
	LongReplay = 1 << 14
	// journalGrowth is how far the journal may grow, by entries of any kind, without one: a replay reads them all.
	journalGrowth = 1 << 17
	growthLook    = 10 * time.Second
	snapshotTime  = 30 * time.Second
	closeTime     = 3 * time.Second // for the last one of an epoch
)

// SnapshotSoon has a snapshot written, without waiting for it.
func (s *Spending) SnapshotSoon() {
	select {
	case s.wanted <- struct{}{}:
	default:
	}
}

// upkeep writes snapshots when they are wanted, and when the journal has grown, until ctx ends.
func (s *Spending) upkeep(ctx context.Context) {
	look := time.NewTicker(growthLook)
	defer look.Stop()
	last := uint64(0)
	for {
		size := s.opts.Size()
		select {
		case <-s.wanted:
		case <-look.C:
			s.roll(ctx)
			if size = s.opts.Size(); size < last+journalGrowth {
				continue
			}
		case <-ctx.Done():
			return
		}
		if s.ledger.Unread() {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, snapshotTime)
		if err := s.ledger.Snapshot(ctx); err != nil {
			s.opts.Log.Warn("no snapshot of the ledger was written: the next start reads more of the journal", "reason", err)
		} else {
			last = size
		}
		cancel()
	}
}

// roll lets a new month begin, though nobody calls.
func (s *Spending) roll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, snapshotTime)
	defer cancel()
	if err := s.ledger.Roll(ctx); err != nil {
		s.opts.Log.Error("the grant of this month does not come into force", "reason", err)
	}
}

// lastSnapshot is the end of an epoch: what follows begins there.
func (s *Spending) lastSnapshot() {
	if s.ledger.Unread() || s.ledger.Behind() == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	if err := s.ledger.Snapshot(ctx); err != nil {
		s.opts.Log.Warn("no snapshot at the end: the next start reads more of the journal", "reason", err)
	}
}
