package lease

import (
	"context"
	"fmt"
)

// Draw hands out all that is open, and takes leases until that is at least n of a unit. Whoever draws keeps its own account of it: for
// the ledger of money, which gets back what a call did not use. Errors are those of Spend; after one nothing was handed out.
func (l *Ledger) Draw(ctx context.Context, namespace, unit string, n uint64) (uint64, error) {
	if err := l.Usable(namespace, unit); err != nil {
		return 0, err
	}
	if err := l.lock(ctx); err != nil {
		return 0, err
	}
	defer l.unlock()
	for {
		drawn, err := l.drain(namespace, unit, n)
		if drawn > 0 || err != nil {
			return drawn, err
		}
		if err := l.next(ctx, n); err != nil {
			return 0, err
		}
	}
}

// drain takes all that is open, if that is n.
func (l *Ledger) drain(namespace, unit string, n uint64) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(namespace, unit); err != nil || n > l.open {
		return 0, err
	}
	drawn := l.open
	l.open = 0
	return drawn, nil
}

// Usable says why what was drawn must not be spent now, if it must not: no grant, one for something else, another month, a copy of
// this enclave.
func (l *Ledger) Usable(namespace, unit string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.usable(namespace, unit)
}

func (l *Ledger) usable(namespace, unit string) error {
	if err := l.covered(namespace, unit); err != nil {
		return fmt.Errorf("credit: %w", err)
	}
	return nil
}

// covered says why nothing can be spent on something now; l.mu is held.
func (l *Ledger) covered(namespace, unit string) error {
	switch {
	case l.grant == nil && len(l.ahead) > 0:
		return l.ahead[0].covers(namespace, unit, l.opts.Now())
	case l.closed != nil:
		return l.closed
	}
	return l.grant.covers(namespace, unit, l.opts.Now())
}
