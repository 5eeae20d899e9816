package lease

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/internal/strictcbor"
	"github.com/raypher/raypher/journal"
)

// AheadFile is the name of the grants that wait for their month, in the state folder.
const AheadFile = "grants.ahead"

// MaxAhead is how many grants may wait.
const MaxAhead = 24

const maxAheadFile = MaxAhead * (journal.MaxGrantSize + 8)

// A grant that is signed ahead names a baseline that the counter has not reached: behind the last lease of the grants before it, as far as
// anybody knows when it is signed. When its month begins the counter is moved up to there, step by step, which ends what was left of
// the grant before; so "leases taken = counter - baseline" holds for it as for any other, without a file or a journal. Where the counter is
// beyond already, because more was signed for the months before, as many of its leases are gone.

// readAhead finds the grants that wait. One that does not hold is left out, and said.
func (l *Ledger) readAhead() {
	text, err := statefile.Read(filepath.Join(l.opts.State, AheadFile), maxAheadFile)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var all [][]byte
	if err == nil {
		err = strictcbor.Decode(text, maxAheadFile, &all)
	}
	if err != nil {
		l.opts.Log.Error("grants that were installed ahead cannot be read: install them again", "reason", err)
		return
	}
	for _, signed := range all {
		g, err := Open(signed, l.opts.OperatorKeys)
		if err != nil {
			l.opts.Log.Error("a grant that was installed ahead does not hold: install it again", "reason", err)
			continue
		}
		l.ahead = append(l.ahead, g)
	}
}

// keepAhead makes a list of waiting grants durable and takes it; l.taking is held.
func (l *Ledger) keepAhead(all []*Grant) error {
	files := make([][]byte, len(all))
	for i, g := range all {
		files[i] = g.signed
	}
	if err := statefile.Write(l.opts.State, AheadFile, strictcbor.Encode(files)); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ahead = all
	return nil
}

// installAhead lets a verified grant wait for its month; l.taking is held. Of one month the newest version waits.
func (l *Ledger) installAhead(g *Grant) error {
	l.mu.Lock()
	all := slices.Clone(l.ahead)
	l.mu.Unlock()
	for _, other := range all {
		if other.Hash == g.Hash {
			return nil
		}
		if other.NotBefore < g.NotBefore && other.Version >= g.Version || other.NotBefore > g.NotBefore && other.Version <= g.Version ||
			other.NotBefore == g.NotBefore && other.Version >= g.Version {
			return fmt.Errorf("%w: it is version %d, version %d waits for %s: versions rise with the months", ErrVersion, g.Version, other.Version, other.Period)
		}
	}
	all = slices.DeleteFunc(all, func(other *Grant) bool { return other.NotBefore == g.NotBefore })
	if len(all) >= MaxAhead {
		return fmt.Errorf("%d grants wait already, at most %d", len(all), MaxAhead)
	}
	all = append(all, g)
	slices.SortFunc(all, func(a, b *Grant) int { return int(min(max(a.NotBefore-b.NotBefore, -1), 1)) })
	return l.keepAhead(all)
}

// due is the newest grant that waits and whose month has begun; nil: none.
func (l *Ledger) due(now time.Time) *Grant {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range slices.Backward(l.ahead) {
		if now.Unix() >= g.NotBefore && now.Unix() < g.NotAfter {
			return g
		}
	}
	return nil
}

// Roll puts the grant in force whose month has begun, if one waits for that. It is quick where none does. now is the caller's clock: by this
// one's the month must have begun too.
func (l *Ledger) Roll(ctx context.Context, now time.Time) error {
	if wall := l.opts.Now(); wall.Before(now) {
		now = wall
	}
	if l.due(now) == nil {
		return nil
	}
	if err := l.lock(ctx); err != nil {
		return err
	}
	defer l.unlock()
	g := l.due(now)
	if g == nil { // another caller was faster
		return nil
	}
	l.mu.Lock()
	rest := slices.DeleteFunc(slices.Clone(l.ahead), func(other *Grant) bool { return other.NotBefore <= g.NotBefore })
	current, in := l.grant, l.fold.Grant()
	l.mu.Unlock()
	if older(g, current, in) == nil {
		counter, err := l.moveUp(ctx, g)
		if err == nil {
			err = l.enforce(ctx, g, counter)
		}
		if err != nil {
			return fmt.Errorf("put the grant of %s in force: %w", g.Period, err)
		}
		l.opts.Log.Info("the grant of a month has come into force", "period", g.Period, "version", g.Version)
	}
	return l.keepAhead(rest)
}

// moveUp counts until the anchor is at a grant's baseline, and returns where it is then; l.taking is held.
func (l *Ledger) moveUp(ctx context.Context, g *Grant) (uint64, error) {
	if !l.opts.Journal.Attached() {
		return 0, ErrNoStore
	}
	r, err := l.opts.Anchor.Read(ctx)
	if err != nil {
		return 0, err
	}
	if err := g.names(l.opts.Anchor.ID(), r); err != nil {
		return 0, err
	}
	for r.Counter < g.Baseline {
		counter, err := l.opts.Anchor.Take(ctx)
		if err != nil {
			l.unsure++
			return 0, err
		}
		r.Counter = counter
		l.known, l.counter, l.unsure = true, counter, 0
	}
	return r.Counter, nil
}

// Ahead are the grants that wait for their month, the next one first.
func (l *Ledger) Ahead() []*Grant {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.ahead)
}
