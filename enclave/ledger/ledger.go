// Package ledger is the budget that cannot be overspent: before a call of a model leaves, the most that it can cost is held, and a call
// is admitted only if what is spent, what is held and this worst stay within every cap above it, host, namespace, agent and run, in one
// step. What a call came to is settled when the provider has said it; where nobody knows, all that was held counts as spent.
//
//	Reserve(worst) -> the call -> Settle(actual) | Keep | Withdraw
//
// Reserve returns when the reservation is durable in the journal, never before. Balances are a Fold of the journal's entries and stand
// nowhere else. Money is in whole micro-dollars and comes from leases at an anchor outside the process (package lease), so a
// restart, an old journal or a clone spends nothing twice. docs/ledger.md says what each promise rests on.
//
// The gateway calls this package. It must never admit what a cap refuses, return from Reserve before the store has the entry, or give
// a hold back without a provider's word or the knowledge that the call never left.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/journal"
)

// Journal is where the ledger puts its entries.
type Journal interface {
	// Attached says whether entries are accepted now.
	Attached() bool
	// TryAppend hands over entries, 1 to MaxEntries, side by side and behind all that were handed over before. then is called once
	// with nil when they are durable, or with an error after which they may or may not become durable; it is called by another
	// goroutine, or before TryAppend returns. taken is false, and then is not called, when there is no room now. An error means that nothing was begun.
	TryAppend(then func(error), entries ...[]byte) (taken bool, err error)
}

// MaxEntries of one call of Journal.TryAppend.
const MaxEntries = 256

// Options of a ledger.
type Options struct {
	Journal Journal
	Control *cost.Control // nil: none is in force yet, and nothing is admitted
	// Fold is what the journal adds up to so far, up to the end of the epoch before; nil: there was none. The ledger owns it from
	// here on.
	Fold *Fold
	// Unread says that what the journal adds up to is not known yet: nothing is admitted before Begin.
	Unread bool
	// Leases, but for Journal, which the ledger is: grants and leases are on record in the order in which they count.
	Leases lease.Options
	Log    *slog.Logger
	// Alarm is told what must not happen. It must not block or call the ledger; nil: the log alone.
	Alarm func(Alarm)
	// Elapsed is the time since the process started, by a clock that nobody can set; nil: Go's monotonic clock. Leases.Now is the
	// wall clock: it places the start and says whether a grant's month is there, and refills no rate while the process lives.
	Elapsed func() time.Duration
}

// Alarm is something that must not happen, and that was refused or contained.
type Alarm struct {
	ID    journal.RequestID // zero: it is about none
	Words string
}

// Ledger admits calls and settles them. It is safe for concurrent use.
type Ledger struct {
	opts    Options
	leases  *lease.Ledger
	started int64 // Unix nanoseconds

	drawing  chan struct{} // held while a lease is drawn
	flushing sync.Mutex    // held by the one who hands entries over; taken before mu

	mu      sync.Mutex
	fold    *Fold
	control *cost.Control
	out     []*record     // to be handed over, in the order in which the fold took them
	handed  int           // records that the journal has taken and not answered
	settled chan struct{} // a grant or lease is on its way into the journal: the others wait until it is closed
	unread  bool          // until Begin
	stopped error         // nothing goes on
	since   int           // records since the newest snapshot
	// unwanted are reservations to be withdrawn when settled is closed.
	unwanted []*record

	wake   chan struct{}
	closed chan struct{}
	wait   sync.WaitGroup
	inline func(done <-chan struct{}) // of the simulation: drives everything until done, instead of goroutines
}

// New opens the ledger of a new epoch on what the journal of those before adds up to.
func New(o Options) *Ledger {
	l := open(o)
	l.wait.Add(1)
	go l.write()
	return l
}

func open(o Options) *Ledger {
	if o.Fold == nil {
		o.Fold = NewFold(o.Leases.OperatorKeys)
	}
	if o.Leases.Now == nil {
		o.Leases.Now = time.Now
	}
	if o.Elapsed == nil {
		start := time.Now()
		o.Elapsed = func() time.Duration { return time.Since(start) }
	}
	l := &Ledger{
		opts: o, fold: o.Fold, control: o.Control, drawing: make(chan struct{}, 1), wake: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	if l.unread = o.Unread; !l.unread {
		l.begun()
	}
	o.Leases.Journal, o.Leases.Log = onRecord{l}, o.Log
	l.leases = lease.NewLedger(o.Leases)
	return l
}

// begun is the first moment of the epoch.
func (l *Ledger) begun() {
	l.fold.beginEpoch()
	l.started = max(l.fold.clock, l.opts.Leases.Now().UnixNano()) - int64(l.opts.Elapsed())
}

// Begin tells a ledger that was opened unread what the journal adds up to, up to the end of the epoch before; nil: it was empty. The ledger
// owns the fold from here on. It is called once.
func (l *Ledger) Begin(f *Fold) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.unread {
		return errors.New("ledger: it knows its journal already")
	}
	if f != nil {
		l.fold = f
	}
	l.unread = false
	l.begun()
	return nil
}

// Unread says whether Begin is still to come.
func (l *Ledger) Unread() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unread
}

// Close ends the ledger; calls that wait get ErrStopped. It is idempotent. What is handed over goes on.
func (l *Ledger) Close() {
	l.mu.Lock()
	if l.stopped == nil || !errors.Is(l.stopped, errClosed) {
		l.stopped = fmt.Errorf("%w: %w", ErrStopped, errClosed)
		close(l.closed)
	}
	l.mu.Unlock()
	l.wait.Wait()
}

var errClosed = errors.New("it was closed")

// SetControl puts another cost_control.yaml in force, for calls from here on.
func (l *Ledger) SetControl(c *cost.Control) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.control = c
}

// Install puts a signed grant on record and in force: more credit, or that of a new month.
func (l *Ledger) Install(ctx context.Context, signed []byte) (*lease.Grant, error) {
	if !l.opts.Journal.Attached() {
		return nil, fmt.Errorf("install grant: %w", lease.ErrNoStore)
	}
	if l.Unread() {
		return nil, fmt.Errorf("install grant: %w", ErrUnread)
	}
	return l.leases.Install(ctx, signed)
}

// Roll puts the grant in force that waits for its month, when that has begun: by the wall clock, and by the one that nobody can set while the
// process lives.
func (l *Ledger) Roll(ctx context.Context) error {
	l.mu.Lock()
	unread, now := l.unread, time.Unix(0, l.now())
	l.mu.Unlock()
	if unread {
		return nil
	}
	return l.leases.Roll(ctx, now)
}

// Ahead are the grants that wait for their month.
func (l *Ledger) Ahead() []*lease.Grant { return l.leases.Ahead() }

// Credit is how the grant in force and its leases stand, with what calls have not used of the open one.
func (l *Ledger) Credit(ctx context.Context) (lease.Status, error) {
	s, err := l.leases.Status(ctx)
	if err != nil {
		return s, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Open += uint64(max(0, l.fold.credit)) // what was drawn of it
	return s, nil
}

// Call is a call of a model that wants to leave.
type Call struct {
	ID        journal.RequestID // drawn at random for each attempt
	Namespace string
	Agent     string
	Run       string
	Provider  string
	Model     string
	Worst     cost.Amount // that it may cost at most
	Tokens    uint64      // that it may use at most
	Prices    journal.Hash
	// Budget of the run, where it was started with one: the narrower of this and the file's counts; nil: the file's.
	Budget *cost.Amount
}

func (c *Call) reservation(control journal.Hash) *journal.Reservation {
	return &journal.Reservation{
		ID: c.ID, Namespace: c.Namespace, Agent: c.Agent, Run: c.Run, Provider: c.Provider, Model: c.Model,
		Worst: uint64(c.Worst), Tokens: c.Tokens, Control: control, Prices: c.Prices,
	}
}

// Reserve holds the worst of a call and returns when that is durable: then, and not before, the call may leave. The same call again, while
// it is under way, holds nothing more. Errors wrap ErrRefused, ErrConflict, ErrStopped, those of package lease, or ErrUnrecorded: the call
// must not leave, and what was held for it is given back.
func (l *Ledger) Reserve(ctx context.Context, c *Call) error {
	if err := l.Roll(ctx); err != nil {
		return err
	}
	for {
		r, short, err := l.begin(ctx, c)
		if err != nil {
			return err
		}
		if !short {
			return l.awaitHold(ctx, r)
		}
		if err := l.draw(ctx, c); err != nil {
			return err
		}
	}
}

// begin admits a call and puts its entry on its way; short: there is too little credit.
func (l *Ledger) begin(ctx context.Context, c *Call) (r *record, short bool, err error) {
	attached := l.opts.Journal.Attached() // not under the lock: the journal calls back under its own
	if err := l.lock(ctx); err != nil {
		return nil, false, err
	}
	defer l.mu.Unlock()
	if l.control == nil {
		return nil, false, ErrNoControl
	}
	entry := c.reservation(l.control.Hash())
	if known, err := l.known(entry); known != nil || err != nil {
		if known != nil {
			known.waiting++
		}
		return known, false, err
	}
	if !attached {
		return nil, false, lease.ErrNoStore
	}
	if err := l.leases.Usable(c.Namespace, lease.MicroUSD); err != nil { // before caps, whose month may be over
		return nil, false, err
	}
	limits := l.control.Limits(c.Namespace, c.Agent)
	if b := c.Budget; b != nil && (limits[Run].Budget == nil || *b < *limits[Run].Budget) {
		limits[Run].Budget = b
	}
	now := l.now()
	where := l.fold.place(entry)
	if err := l.fold.admit(entry, where, &limits, now/int64(time.Second)); err != nil {
		return nil, false, err
	}
	if l.fold.credit < int64(entry.Worst) {
		return nil, true, nil
	}
	return l.hold(entry, where, now)
}

// hold puts a reservation that was admitted into the fold and on its way; l.mu is held.
func (l *Ledger) hold(entry *journal.Reservation, where *place, now int64) (r *record, short bool, err error) {
	payload, err := entry.Encode()
	if err != nil {
		return nil, false, err
	}
	raw, err := journal.Entry{Type: journal.TypeReservation, Time: now, Payload: payload}.Encode()
	if err != nil {
		return nil, false, err
	}
	h, err := l.fold.reserve(entry, where, now)
	if err != nil {
		return nil, false, err
	}
	h.record = &record{entries: [][]byte{raw}, reservation: h, done: make(chan struct{}), waiting: 1}
	l.enqueue(h.record)
	l.snapshotWhenDue()
	return h.record, false, nil
}

// known finds the record of the same call, if it is under way; l.mu is held.
func (l *Ledger) known(r *journal.Reservation) (*record, error) {
	if h := l.fold.open[r.ID]; h != nil {
		same := h.Reservation
		same.Control = r.Control // it may have changed since
		if same == *r {
			return h.record, nil
		}
		return nil, l.alarm(r.ID, fmt.Errorf("%w: it stands for another call that is under way", ErrConflict))
	}
	if _, ended := l.fold.finished[r.ID]; ended {
		return nil, l.alarm(r.ID, fmt.Errorf("%w: its call has ended", ErrConflict))
	}
	return nil, nil
}

// Settle puts what the provider charges in the place of what was held. A charge above the worst is recorded in full and closes the
// caps above the call. Errors wrap ErrSettlement, ErrStopped or ErrUnrecorded; in the last case the settlement counts and goes on record
// when it can.
func (l *Ledger) Settle(ctx context.Context, id journal.RequestID, actual cost.Amount, tokens uint64) error {
	return l.finish(ctx, &journal.Settlement{ID: id, Outcome: journal.Settled, Actual: uint64(actual), Tokens: tokens})
}

// Keep ends a call of which nobody knows what it used: all that was held counts as spent.
func (l *Ledger) Keep(ctx context.Context, id journal.RequestID) error {
	return l.finish(ctx, &journal.Settlement{ID: id, Outcome: journal.Kept})
}

// Withdraw gives back what was held for a call that never left: no byte of it was sent.
func (l *Ledger) Withdraw(ctx context.Context, id journal.RequestID) error {
	return l.finish(ctx, &journal.Settlement{ID: id, Outcome: journal.Withdrawn})
}

// End is Settle, Keep or Withdraw for a caller that does not wait for the journal: it counts when End returns, and goes on record soon. What a
// crash takes before that counts as kept.
func (l *Ledger) End(ctx context.Context, s *journal.Settlement) error {
	_, err := l.end(ctx, s)
	return err
}

func (l *Ledger) finish(ctx context.Context, s *journal.Settlement) error {
	r, err := l.end(ctx, s)
	if err != nil {
		return err
	}
	return l.await(ctx, r)
}

func (l *Ledger) end(ctx context.Context, s *journal.Settlement) (*record, error) {
	if err := l.lock(ctx); err != nil {
		return nil, err
	}
	defer l.mu.Unlock()
	if h := l.fold.open[s.ID]; h == nil || !h.record.durable {
		return nil, l.alarm(s.ID, fmt.Errorf("%w: no call of this id is under way", ErrSettlement))
	}
	r := &record{done: make(chan struct{})}
	if err := l.put(s, r); err != nil {
		return nil, l.alarm(s.ID, err)
	}
	return r, nil
}

// put ends a call in the fold and puts its settlement on its way, as r; nil: nobody waits. After an error nothing has changed. l.mu is
// held.
func (l *Ledger) put(s *journal.Settlement, r *record) error {
	if r == nil {
		r = &record{}
	}
	r.settlement, r.at = s, l.now()
	raw, err := settlementEntry(s, r.at)
	if err != nil {
		return err
	}
	above, err := l.fold.settle(s, r.at)
	if err != nil {
		return err
	}
	if above {
		_ = l.alarm(s.ID, fmt.Errorf("the provider charged %s dollars, more than the call could cost by the price list: the caps above it are closed until another grant is installed", cost.Amount(s.Actual)))
	}
	r.entries = [][]byte{raw}
	l.enqueue(r)
	l.snapshotWhenDue()
	return nil
}

func settlementEntry(s *journal.Settlement, now int64) ([]byte, error) {
	payload, err := s.Encode()
	if err != nil {
		return nil, err
	}
	return journal.Entry{Type: journal.TypeSettlement, Time: now, Payload: payload}.Encode()
}

// now is the ledger's time in Unix nanoseconds: it never goes back and does not jump; l.mu is held.
func (l *Ledger) now() int64 { return max(l.fold.clock, l.started+int64(l.opts.Elapsed())) }

// alarm tells of an error and returns it; l.mu is held.
func (l *Ledger) alarm(id journal.RequestID, err error) error {
	l.opts.Log.Error("ledger", "request", id, "alarm", err)
	if l.opts.Alarm != nil {
		l.opts.Alarm(Alarm{ID: id, Words: err.Error()})
	}
	return err
}

// Balance is how a cap stands. Names are those of Fold: "", namespace, namespace/agent, namespace/agent/run.
func (l *Ledger) Balance(level int, name string) Balance {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.fold.accounts[level][name]
	if a == nil {
		return Balance{}
	}
	return a.balance(l.now() / int64(time.Second))
}
