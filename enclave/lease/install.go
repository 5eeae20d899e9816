package lease

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/raypher/raypher/internal/statefile"
)

func noGrant(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: no grant is installed: see `raypher grant --help`", ErrNoCredit)
	}
	return fmt.Errorf("%w: installed grant: %w: install it again", ErrNoCredit, err)
}

// Install verifies a signed grant, makes it durable, puts it on record and in force. What the grant before still held is gone:
// leases that were taken since the new one's baseline count as leases of the new one. Installing the grant in force again opens
// credit that was closed, if the counter allows it. A grant whose month has not begun waits for it (Roll).
func (l *Ledger) Install(ctx context.Context, signed []byte) (*Grant, error) {
	g, err := Open(signed, l.opts.OperatorKeys)
	if err != nil {
		return nil, err
	}
	if err := l.lock(ctx); err != nil {
		return nil, err
	}
	defer l.unlock()
	r, err := l.opts.Anchor.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("install grant: %w", err)
	}
	ahead := l.opts.Now().Unix() < g.NotBefore
	if err := l.installable(g, r, ahead); err != nil {
		return nil, fmt.Errorf("install grant: %w", err)
	}
	if ahead {
		if err := l.installAhead(g); err != nil {
			return nil, fmt.Errorf("install grant: %w", err)
		}
		return g, nil
	}
	if err := l.enforce(ctx, g, r.Counter); err != nil {
		return nil, fmt.Errorf("install grant: %w", err)
	}
	return g, nil
}

// enforce makes a grant durable, puts it on record and in force; l.taking is held.
func (l *Ledger) enforce(ctx context.Context, g *Grant, counter uint64) error {
	// Until the end of this, none is in force: one of the two would be spent from beside the other.
	l.mu.Lock()
	again := l.grant != nil && l.grant.Hash == g.Hash && l.closed == nil
	if !again {
		l.closed, l.open = fmt.Errorf("%w: the installation of a grant stopped halfway: install it again", ErrNoCredit), 0
	}
	l.mu.Unlock()
	if again {
		return nil
	}
	if err := l.opts.Anchor.Raise(ctx, g.Version); err != nil {
		return err
	}
	if err := statefile.Write(l.opts.State, GrantFile, g.signed); err != nil {
		return err
	}
	if err := l.append(ctx, g.entry(counter)); err != nil {
		return fmt.Errorf("stored, not yet in force: %w: install it again", err)
	}
	l.known, l.counter, l.unsure = true, counter, 0
	l.mu.Lock()
	defer l.mu.Unlock()
	l.grant, l.open, l.closed = g, 0, nil
	return nil
}

// installable says why a verified grant is not taken, if it is not.
func (l *Ledger) installable(g *Grant, r Reading, ahead bool) error {
	on := g.on
	if ahead {
		on = g.names
	}
	if err := on(l.opts.Anchor.ID(), r); err != nil {
		return err
	}
	l.mu.Lock()
	current, in := l.grant, l.fold.Grant()
	l.mu.Unlock()
	if err := older(g, current, in); err != nil {
		return err
	}
	if now := l.opts.Now(); now.Unix() >= g.NotAfter {
		return fmt.Errorf("%w: the grant of %s is over", ErrNoCredit, g.Period)
	}
	if !l.opts.Journal.Attached() {
		return ErrNoStore
	}
	return nil
}

// older says why a grant does not come behind others, if it does not; nil among them are none.
func older(g *Grant, others ...*Grant) error {
	for _, old := range others {
		if old != nil && g.Hash != old.Hash && g.Version <= old.Version {
			return fmt.Errorf("%w: it is version %d, the last one was %d: raise its version and sign it again", ErrVersion, g.Version, old.Version)
		}
	}
	return nil
}

// Status is how credit stands.
type Status struct {
	Anchor [32]byte // zero: there is none
	Tier   string   // of the anchor
	Reading
	AnchorError error // why the anchor cannot be read

	Grant  *Grant // nil: none
	Taken  uint64 // leases of the grant, lost ones too
	Open   uint64 // left of the open lease
	Left   uint64 // in leases that were not taken
	Closed error  // why nothing can be spent; nil: something can, or the grant is used up
}

// Status asks the anchor. It waits for a lease that is being taken.
func (l *Ledger) Status(ctx context.Context) (Status, error) {
	if err := l.lock(ctx); err != nil {
		return Status{}, err
	}
	defer l.unlock()
	s := Status{Tier: l.opts.Anchor.Tier()}
	s.Reading, s.AnchorError = l.opts.Anchor.Read(ctx)
	s.Anchor = l.opts.Anchor.ID() // one that lies elsewhere knows it by then
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Grant, s.Open, s.Closed = l.grant, l.open, l.closed
	if s.Grant == nil {
		return s, nil
	}
	switch {
	case s.Closed != nil:
	case s.AnchorError != nil:
		s.Closed = fmt.Errorf("%w: %w", ErrNoCredit, s.AnchorError)
	default:
		if s.Closed = s.Grant.on(s.Anchor, s.Reading); s.Closed == nil {
			s.Closed = s.Grant.covers(s.Grant.Namespace, s.Grant.Unit, l.opts.Now())
		}
	}
	if s.AnchorError == nil && s.Counter >= s.Grant.Baseline {
		s.Taken = min(s.Counter-s.Grant.Baseline, s.Grant.Leases())
		s.Left = s.Grant.Left(s.Taken)
	}
	return s, nil
}
