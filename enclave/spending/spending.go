// Package spending is what a running enclave may spend on models and what it has spent: the cost_control.yaml in force, what models
// cost by it and by the price list that ships, and the ledger that holds calls to both. The gateway asks it (gateway.Options takes
// Reserve to Withdraw as its Ledger, Providers and Rates), and the enclave's service installs and shows through it.
//
// Nothing is spent before the ledger knows its journal (Begin), a cost control is in force and a grant gives credit. It must never put
// a cost control in force that no operator signed, that is older than one before, or that is not on record.
package spending

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/journal"
)

// Options of Open.
type Options struct {
	State        string   // folder of the cost control and the grants; private
	OperatorKeys [][]byte // PKIX DER
	Anchor       lease.Anchor
	Journal      ledger.Journal
	Size         func() uint64 // entries of this epoch's journal; nil: it is not looked at
	// Record puts an encoded entry into the journal, and returns when it is durable.
	Record func(ctx context.Context, entry []byte) error
	Alarm  func(ledger.Alarm) // as ledger.Options has it; may be nil
	Began  func()             // called when what was spent before is known, before the first call; may be nil
	// Waits is told of a call that waits for an operator's top-up, and why; it must not block. nil: nobody is.
	Waits func(c *ledger.Call, reason error)
	Log   *slog.Logger
	Now   func() time.Time // nil: time.Now
	// Development is the operator key of development, with which what is missing is made; nil: not in development.
	Development crypto.Signer
	Pause       time.Duration // 0: PauseLimit; tests are more impatient
}

// Spending is safe for concurrent use.
type Spending struct {
	opts   Options
	ledger *ledger.Ledger
	list   *prices.List // that ships

	installing sync.Mutex // held while a cost control is installed; taken before mu
	developing sync.Mutex // held while something is made in development; taken before installing

	mu      sync.RWMutex
	force   *force        // nil: no cost control is in force
	missing error         // why
	floor   uint64        // the highest version that was ever in force, as far as state folder and journal tell
	changed chan struct{} // closed and replaced when something came into force that may let a call pass
	paused  int           // calls that wait for that

	wanted chan struct{} // holds a token when a snapshot is wanted
	stop   context.CancelFunc
	wait   sync.WaitGroup
}

// Open reads what is installed. A cost control that does not hold is no error: nothing is spent, and whoever asks is told why. Nothing is
// spent before Begin.
func Open(o Options) (*Spending, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	list, err := prices.Snapshot(cost.ParseRate)
	if err != nil {
		return nil, fmt.Errorf("price list that ships: %w", err)
	}
	if o.Size == nil {
		o.Size = func() uint64 { return 0 }
	}
	s := &Spending{opts: o, list: list, changed: make(chan struct{}), wanted: make(chan struct{}, 1)}
	s.read()
	if o.Development != nil {
		if err := s.developControl(); err != nil {
			return nil, err
		}
	}
	options := ledger.Options{
		Journal: o.Journal, Unread: true, Log: o.Log, Alarm: o.Alarm,
		Leases: lease.Options{State: o.State, OperatorKeys: o.OperatorKeys, Anchor: o.Anchor, Now: o.Now},
	}
	if s.force != nil {
		options.Control = s.force.control
	}
	s.ledger = ledger.New(options)
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.wait.Go(func() { s.upkeep(ctx) })
	return s, nil
}

// Close ends it with a snapshot, if the journal has a store; calls that wait are refused.
func (s *Spending) Close() {
	s.stop()
	s.wait.Wait()
	s.lastSnapshot()
	s.ledger.Close()
}

// Begin tells what the journal of the epochs before adds up to; nil: it was empty. From here on money can be spent.
func (s *Spending) Begin(f *ledger.Fold) error {
	seen := uint64(0)
	if f != nil {
		seen = f.ControlVersion()
	}
	if err := s.ledger.Begin(f); err != nil {
		return err
	}
	if s.opts.Began != nil {
		s.opts.Began()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.NoteControl(s.floorOfForce())
	s.floor = max(s.floor, seen)
	if s.force != nil && s.force.control.Version < s.floor {
		s.missing = fmt.Errorf("%w: version %d is installed, the journal has version %d: the state folder was set back: install the newest", ErrVersion, s.force.control.Version, s.floor)
		s.opts.Log.Error("nothing may be spent", "reason", s.missing)
		s.force = nil
		s.ledger.SetControl(nil)
	}
	s.notify()
	return nil
}

// floorOfForce is the version of the cost control in force, 0: none; s.mu is held.
func (s *Spending) floorOfForce() uint64 {
	if s.force == nil {
		return 0
	}
	return s.force.control.Version
}

// notify lets those who wait look again; s.mu is held.
func (s *Spending) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// InstallGrant puts a signed grant on record and in force.
func (s *Spending) InstallGrant(ctx context.Context, signed []byte) (*lease.Grant, error) {
	if err := s.sameMonths(signed); err != nil {
		return nil, err
	}
	g, err := s.ledger.Install(ctx, signed)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notify()
	return g, nil
}

// sameMonths says why a grant's months are not those of the cost control in force, if they are not. Whether the grant holds at all, others say.
func (s *Spending) sameMonths(signed []byte) error {
	g, _, err := lease.Read(signed)
	control, none := s.Control()
	if err != nil || none != nil || g.Unit != lease.MicroUSD {
		return nil
	}
	zone := g.Zone
	if zone == "" {
		zone = "UTC"
	}
	if zone != control.TimeZone {
		return fmt.Errorf("install grant: %w: its months are those of %s, the cost control's are those of %s: sign it with --zone %s", lease.ErrNoCredit, zone, control.TimeZone, control.TimeZone)
	}
	return nil
}

// GrantsAhead are the grants that wait for their month, the next one first.
func (s *Spending) GrantsAhead() []*lease.Grant { return s.ledger.Ahead() }

// Credit is how the grant in force and its leases stand.
func (s *Spending) Credit(ctx context.Context) (lease.Status, error) { return s.ledger.Credit(ctx) }

// Ledger is the ledger, for what shows it. Calls go through Reserve.
func (s *Spending) Ledger() *ledger.Ledger { return s.ledger }

// End ends a call, and does not wait until that is on record; see ledger.Ledger.End.
func (s *Spending) End(ctx context.Context, e *journal.Settlement) error { return s.ledger.End(ctx, e) }

// Settle puts what a provider charges in the place of what was held; see ledger.Ledger.Settle.
func (s *Spending) Settle(ctx context.Context, id journal.RequestID, actual cost.Amount, tokens uint64) error {
	return s.ledger.Settle(ctx, id, actual, tokens)
}

// Keep counts all that was held as spent; see ledger.Ledger.Keep.
func (s *Spending) Keep(ctx context.Context, id journal.RequestID) error {
	return s.ledger.Keep(ctx, id)
}

// Withdraw gives back what was held for a call of which no byte left; see ledger.Ledger.Withdraw.
func (s *Spending) Withdraw(ctx context.Context, id journal.RequestID) error {
	return s.ledger.Withdraw(ctx, id)
}

// Bounds of a pause.
const (
	// PauseLimit is how long a call waits for an operator at most.
	PauseLimit = 5 * time.Minute
	// MaxPaused is how many calls may wait; more are refused at once.
	MaxPaused = 256
	// pauseLook is how often a call that waits looks whether others have given enough back.
	pauseLook = time.Second
)

// Reserve holds the worst of a call, as ledger.Ledger.Reserve. Where the cost control says `on_exhausted: pause`, a call for which there is no
// money waits for an operator's, at most PauseLimit or until ctx ends, and is refused then as it would have been at once.
func (s *Spending) Reserve(ctx context.Context, c *ledger.Call) error {
	s.mu.RLock()
	changed := s.changed
	s.mu.RUnlock()
	err := s.reserve(ctx, c)
	if err == nil || !s.pauses(err) {
		return err
	}
	if !s.pause(1) {
		return err
	}
	defer s.pause(-1)
	s.opts.Log.Warn("a call waits for an operator's top-up", "namespace", c.Namespace, "agent", c.Agent, "reason", err)
	if s.opts.Waits != nil {
		s.opts.Waits(c, err)
	}
	look := time.NewTicker(pauseLook)
	defer look.Stop()
	over := time.NewTimer(s.pauseFor())
	defer over.Stop()
	for {
		select {
		case <-changed:
		case <-look.C:
		case <-over.C:
			return err
		case <-ctx.Done():
			return fmt.Errorf("ledger: wait for a top-up: %w", ctx.Err())
		}
		s.mu.RLock()
		changed = s.changed
		s.mu.RUnlock()
		if err = s.reserve(ctx, c); err == nil || !s.pauses(err) {
			return err
		}
	}
}

// pauses says whether a refusal is one that an operator's top-up ends, and the cost control in force lets calls wait for that.
func (s *Spending) pauses(err error) bool {
	var refusal *ledger.Refusal
	if !(errors.As(err, &refusal) && refusal.What == ledger.Budget) && !errors.Is(err, lease.ErrExhausted) {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.force != nil && s.force.control.OnExhausted == cost.Pause
}

// pause counts calls that wait; false: there are too many.
func (s *Spending) pause(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paused+n > MaxPaused {
		return false
	}
	s.paused += n
	return true
}

// Paused is how many calls wait for a top-up.
func (s *Spending) Paused() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.paused
}
