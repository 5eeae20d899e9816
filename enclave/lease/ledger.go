package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/raypher/raypher/enclave/rate"
	"github.com/raypher/raypher/internal/statefile"
	"github.com/raypher/raypher/journal"
)

// GrantFile is the name of the grant in the state folder.
const GrantFile = "grant.cose"

// How fast leases are taken at most, whatever a grant allows: a burst, then one per interval.
const (
	paceBurst    = 8
	paceInterval = 10 * time.Second
)

// takeTimeout bounds one step with its entry, so that a caller who gives up does not lose a lease for all.
const takeTimeout = 30 * time.Second

// Journal is where leases are put on record.
type Journal interface {
	// Attached says whether Append would be accepted.
	Attached() bool
	// Append returns once the entries are durable, side by side.
	Append(ctx context.Context, entries ...[]byte) error
}

// Options of a ledger.
type Options struct {
	State        string   // folder of the grant; private
	OperatorKeys [][]byte // PKIX DER
	Anchor       Anchor
	Journal      Journal
	Log          *slog.Logger
	Now          func() time.Time // nil: time.Now
}

// Ledger admits spending against the open lease and takes the next one when it is used up. It is safe for concurrent use.
type Ledger struct {
	opts Options
	pace *rate.Limiter

	taking chan struct{} // held while the anchor is asked or a grant installed; taken before mu

	mu     sync.Mutex
	fold   *Fold    // what this process has put into the journal
	grant  *Grant   // in force; nil: none
	ahead  []*Grant // that wait for their month, the next one first
	open   uint64   // left of the open lease
	closed error    // why there is no credit until a grant is installed or the process starts anew

	// Guarded by taking.
	known   bool   // the counter was read by this process
	counter uint64 // when it was read or counted last
	unsure  uint64 // steps since then that may or may not have been taken
}

// NewLedger reads the installed grant. A grant that does not hold is no error: there is no credit, and Status says why.
func NewLedger(o Options) *Ledger {
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Ledger{opts: o, pace: rate.New(1/paceInterval.Seconds(), (paceBurst * paceInterval).Seconds()), taking: make(chan struct{}, 1), fold: NewFold(o.OperatorKeys)}
	l.readAhead()
	signed, err := statefile.Read(filepath.Join(o.State, GrantFile), journal.MaxGrantSize)
	if err != nil {
		l.closed = noGrant(err)
		return l
	}
	if l.grant, err = Open(signed, o.OperatorKeys); err != nil {
		l.closed = fmt.Errorf("%w: installed grant: %w", ErrNoCredit, err)
	}
	return l
}

// Spend takes n of a unit from the credit of a namespace, or nothing. It is fast while the open lease lasts; when it does not,
// the next one is taken, which waits for the anchor and the journal, at most takeTimeout a lease, also when ctx ends.
func (l *Ledger) Spend(ctx context.Context, namespace, unit string, n uint64) error {
	if err := l.Roll(ctx, l.opts.Now()); err != nil {
		return err
	}
	if spent, err := l.admit(namespace, unit, n); spent || err != nil {
		return err
	}
	if err := l.lock(ctx); err != nil {
		return err
	}
	defer l.unlock()
	for {
		if spent, err := l.admit(namespace, unit, n); spent || err != nil { // also: another caller was faster
			return err
		}
		if err := l.next(ctx, n); err != nil {
			return err
		}
	}
}

// admit spends from the open lease; neither spent nor an error: it holds too little.
func (l *Ledger) admit(namespace, unit string, n uint64) (spent bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.covered(namespace, unit); err != nil {
		return false, err
	}
	if n > l.open {
		return false, nil
	}
	l.open -= n
	return true, nil
}

// covers says why the grant is not for this, if it is not.
func (g *Grant) covers(namespace, unit string, now time.Time) error {
	switch {
	case now.Unix() < g.NotBefore:
		return fmt.Errorf("%w: the grant of %s begins at %s", ErrNoCredit, g.Period, time.Unix(g.NotBefore, 0).UTC().Format(time.RFC3339))
	case now.Unix() >= g.NotAfter:
		return fmt.Errorf("%w: the grant of %s was over at %s: install the next one, `raypher grant install`", ErrNoCredit, g.Period, time.Unix(g.NotAfter, 0).UTC().Format(time.RFC3339))
	case unit != g.Unit:
		return fmt.Errorf("%w: the grant is of %s, not of %s", ErrNoCredit, g.Unit, unit)
	case g.Namespace != "" && namespace != g.Namespace:
		return fmt.Errorf("%w: the grant is for namespace %q, not %q", ErrNoCredit, g.Namespace, namespace)
	}
	return nil
}

func (l *Ledger) lock(ctx context.Context) error {
	select {
	case l.taking <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("lease: wait for the counter: %w", ctx.Err())
	}
}

func (l *Ledger) unlock() { <-l.taking }

// next takes one lease, if n can be spent at all then or with more leases; l.taking is held.
func (l *Ledger) next(ctx context.Context, n uint64) error {
	if !l.opts.Journal.Attached() { // or the lease would be lost
		return ErrNoStore
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeTimeout)
	defer cancel()
	before, err := l.read(ctx)
	if err != nil {
		return err
	}
	g := l.grant
	taken := before - g.Baseline
	if n > g.Left(taken)+l.left() {
		return fmt.Errorf("%w: %d asked, %d of %d left until %s: install another grant, `raypher grant install`",
			ErrExhausted, n, g.Left(taken)+l.left(), g.Cap, time.Unix(g.NotAfter, 0).UTC().Format(time.RFC3339))
	}
	// The counter of tier software is a file, which does not wear out, and grants of development are cut into many small leases.
	if l.opts.Anchor.Tier() != journal.TierSoftware && !l.pace.Take(l.opts.Now()) {
		return fmt.Errorf("%w: at most one each %s after the first %d, or the counter wears out: wait as long, or sign a grant with larger leases",
			ErrPace, paceInterval, paceBurst)
	}
	counter, err := l.opts.Anchor.Take(ctx)
	if errors.Is(err, ErrContended) || err == nil && counter != before+1 {
		return l.close(fmt.Errorf("%w: %w while a lease was taken: a copy of this enclave runs: stop it, then start this one again", ErrNoCredit, ErrContended))
	}
	if err != nil {
		l.unsure++
		return fmt.Errorf("%w: %w", ErrNoCredit, err)
	}
	l.counter, l.unsure = counter, 0
	if err := l.record(ctx, before, counter); err != nil {
		return fmt.Errorf("put lease %d on record, which is lost: %w", counter-g.Baseline, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open += g.Amount(counter - g.Baseline)
	return nil
}

func (l *Ledger) left() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// close ends all credit, the open lease too, until a grant is installed or the process starts anew.
func (l *Ledger) close(reason error) error {
	l.opts.Log.Error("credit is closed", "reason", reason)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.open = reason, 0
	return reason
}

// read returns the counter, when the anchor is the grant's and has not moved without this process; l.taking is held.
func (l *Ledger) read(ctx context.Context) (uint64, error) {
	r, err := l.opts.Anchor.Read(ctx)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoCredit, err)
	}
	if l.known && (r.Counter < l.counter || r.Counter > l.counter+l.unsure) {
		return 0, l.close(fmt.Errorf("%w: %w moved from %d to %d without this process: a copy of this enclave runs, or somebody plays with the counter: stop it, then start this one again",
			ErrNoCredit, ErrAnchor, l.counter, r.Counter))
	}
	if err := l.grant.on(l.opts.Anchor.ID(), r); err != nil {
		return 0, l.close(err)
	}
	l.known, l.counter, l.unsure = true, r.Counter, 0
	return r.Counter, nil
}

// on says why the grant does not hold at an anchor, if it does not.
func (g *Grant) on(id [32]byte, r Reading) error {
	if err := g.names(id, r); err != nil {
		return err
	}
	if r.Counter < g.Baseline {
		return fmt.Errorf("%w: %w is at %d, below the grant's baseline %d: it went back, or the baseline is wrong: sign a new grant, see `raypher grant status`",
			ErrNoCredit, ErrAnchor, r.Counter, g.Baseline)
	}
	return nil
}

// names says why a grant is none for an anchor, wherever the counter is.
func (g *Grant) names(id [32]byte, r Reading) error {
	switch {
	case g.Anchor != id:
		return fmt.Errorf("%w: the grant is for the counter sha256:%x, this host's is sha256:%x: it is another host's grant, or the counter was removed or the TPM cleared: sign a new grant, see `raypher grant status`",
			ErrNoCredit, g.Anchor, id)
	case g.Version < r.Version:
		return fmt.Errorf("%w: %w: it is version %d, version %d was in force before: the state folder was set back: install the newest grant",
			ErrNoCredit, ErrVersion, g.Version, r.Version)
	}
	return nil
}

// record puts a lease into the journal, behind its grant if this epoch has not named it yet; l.taking is held.
func (l *Ledger) record(ctx context.Context, before, counter uint64) error {
	g := l.grant
	var all []*journal.Lease
	if l.fold.Grant() == nil {
		all = append(all, g.entry(before))
	}
	number := counter - g.Baseline
	all = append(all, &journal.Lease{Grant: g.Hash, Version: g.Version, Anchor: g.Anchor, Counter: counter, Number: number, Amount: g.Amount(number)})
	return l.append(ctx, all...)
}

// entry says that the grant is in force.
func (g *Grant) entry(counter uint64) *journal.Lease {
	return &journal.Lease{Grant: g.Hash, Version: g.Version, Anchor: g.Anchor, Counter: counter, Signed: g.signed}
}

// append puts entries into the journal and, once they are durable, into the fold; l.taking is held.
func (l *Ledger) append(ctx context.Context, leases ...*journal.Lease) error {
	entries := make([][]byte, len(leases))
	for i, e := range leases {
		payload, err := e.Encode()
		if err != nil {
			return err
		}
		if entries[i], err = journal.NewEntry(journal.TypeLease, l.opts.Now(), payload); err != nil {
			return err
		}
	}
	if err := l.opts.Journal.Append(ctx, entries...); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range leases {
		if err := l.fold.Apply(e); err != nil {
			return fmt.Errorf("the journal does not add up: this is a bug: %w", err)
		}
	}
	return nil
}
