package ledger

import (
	"errors"
	"fmt"
	"time"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/journal"
)

// Bounds of what is remembered.
const (
	// MaxOpen is how many calls may be under way.
	MaxOpen = 1 << 16
	// MaxFinished is how many request ids of calls that ended are kept, to refuse what comes twice.
	MaxFinished = 1 << 16
	// MaxAccounts bounds namespaces, agents and runs, each.
	MaxAccounts = 1 << 14
)

// Fold is what the entries of a journal add up to: leases, reservations, settlements. The ledger keeps its balances in one and
// nowhere else, so that replaying the journal gives the same, to the last micro-dollar. It knows no caps: they decide what is put
// into a journal, not what it adds up to.
//
// Holds stay with the account that they were made under when a month begins, so a call across the turn counts in both months.
type Fold struct {
	leases *lease.Fold
	period string // month of the grant in force
	first  bool   // no lease entry in this epoch yet
	clock  int64  // Unix nanoseconds of the newest reservation or settlement; never goes back

	control uint64 // the highest version of a cost control that the journal tells of

	credit     int64  // left of the leases that this epoch took, in micro-dollars; below 0 after a charge above the worst
	generation uint64 // of the credit: what was held from an older one does not come back to it

	accounts [levels]map[string]*account
	places   map[caller]*place // those that were looked for; emptied when accounts go
	// unaccounted is what leases held that the journal knows nothing of. Nobody can tell who spent them, so they count against
	// every cap.
	unaccounted uint64

	open     map[journal.RequestID]*hold
	finished map[journal.RequestID]struct{}
	order    []journal.RequestID // finished, as a ring
	oldest   int
}

// hold is a reservation that has not ended.
type hold struct {
	journal.Reservation
	at         int64 // Unix seconds
	generation uint64
	accounts   [levels]*account
	record     *record // how it comes into the journal; nil in a replay
}

// NewFold starts with an empty journal. Grants in it must be signed by one of the operator keys (PKIX DER).
func NewFold(operatorKeys [][]byte) *Fold {
	f := &Fold{
		leases: lease.NewFold(operatorKeys), open: map[journal.RequestID]*hold{}, finished: map[journal.RequestID]struct{}{}, places: map[caller]*place{},
		accounts: [levels]map[string]*account{{"": newAccount()}, {}, {}, {}},
	}
	return f
}

// Apply adds one entry, in the order of the journal. Entries that are not about money change nothing. After an error the fold is not to be
// used: the journal is not the work of one enclave after the other.
func (f *Fold) Apply(e journal.Entry) error {
	switch e.Type {
	case journal.TypeEpoch:
		f.beginEpoch()
	case journal.TypeLease:
		l, err := journal.DecodeLease(e.Payload)
		if err != nil {
			return err
		}
		return f.lease(l)
	case journal.TypeSnapshot:
		f.tick(e.Time) // what rates forget until then is not in it
	case journal.TypeControl:
		c, err := journal.DecodeControlInstalled(e.Payload)
		if err != nil {
			return err
		}
		f.control = max(f.control, c.Version)
	case journal.TypeReservation:
		r, err := journal.DecodeReservation(e.Payload)
		if err != nil {
			return err
		}
		_, err = f.reserve(r, f.place(r), e.Time)
		return err
	case journal.TypeSettlement:
		s, err := journal.DecodeSettlement(e.Payload)
		if err != nil {
			return err
		}
		_, err = f.settle(s, e.Time)
		return err
	}
	return nil
}

// ControlVersion is the highest version of a cost control that the journal tells of; 0: none.
func (f *Fold) ControlVersion() uint64 { return f.control }

func (f *Fold) host() *account { return f.accounts[Host][""] }

// beginEpoch is the start of a process: its predecessor's open lease is forfeited, and what it held is kept, for nobody will
// hear of those calls any more.
func (f *Fold) beginEpoch() {
	for _, h := range f.byID() {
		f.end(h, journal.Settlement{ID: h.ID, Outcome: journal.Kept})
	}
	f.forfeit()
	f.first = true
}

// forfeit ends the credit there is.
func (f *Fold) forfeit() {
	f.generation++
	if f.credit > 0 {
		f.host().lost = add(f.host().lost, uint64(f.credit))
		f.credit = 0
	}
}

// lease adds a grant or a lease. Leases that were taken and of which the journal says nothing count as lost. If they were taken before
// this epoch, their spending may have been on record and been taken away, so they count against every cap.
func (f *Fold) lease(l *journal.Lease) error {
	before, taken := f.leases.Grant(), f.leases.Taken()
	if err := f.leases.Apply(l); err != nil {
		return err
	}
	g := f.leases.Grant()
	if l.Number == 0 {
		f.forfeit()
	}
	missing := uint64(0)
	switch same := before != nil && before.Hash == g.Hash; {
	case l.Number > 0:
		missing = g.Left(taken) - g.Left(l.Number-1)
	case same:
		missing = g.Left(taken) - g.Left(f.leases.Taken())
	default:
		missing = f.between(before, taken, g)
		f.grant(g)
	}
	if g.Unit != lease.MicroUSD {
		return nil
	}
	f.host().lost = add(f.host().lost, missing)
	if f.first {
		f.unaccounted = add(f.unaccounted, missing)
	}
	f.first = false
	f.credit += int64(l.Amount)
	return nil
}

// between is what those leases hold that were taken between what the journal knows of the grant before and the coming into force of g.
func (f *Fold) between(before *lease.Grant, taken uint64, g *lease.Grant) uint64 {
	known := uint64(0) // leases of g that the journal tells of as leases of the grant before
	missing := uint64(0)
	if before != nil && before.Anchor == g.Anchor {
		counter := before.Baseline + taken
		if counter > g.Baseline {
			known = counter - g.Baseline
		} else if g.Period == f.period {
			missing = before.Left(taken) - before.Left(g.Baseline-before.Baseline)
		}
	}
	return add(missing, g.Left(known)-g.Left(max(known, f.leases.Taken())))
}

// grant puts another grant in force: an operator has looked, so what was closed opens; of another month, the balances begin anew.
func (f *Fold) grant(g *lease.Grant) {
	for _, level := range f.accounts {
		for _, a := range level {
			a.closed = false
		}
	}
	if g.Period <= f.period { // months as 2026-11 sort by time
		return
	}
	clear(f.places)
	ended := f.period
	f.period = g.Period
	now := f.clock / int64(time.Second)
	for level, accounts := range f.accounts {
		for name, a := range accounts {
			if level == Run { // its budget is for its life
				a.lost = add(a.lost, f.unaccounted)
				if a.held == 0 && a.month != ended { // unused for a whole month; months are signed, so no clock can do this
					delete(accounts, name)
				}
				continue
			}
			a.spent, a.lost = 0, 0
			if level != Host && a.idle(now) {
				delete(accounts, name)
			}
		}
	}
	f.unaccounted = 0
}

// Errors of entries that do not follow from those before.
var (
	errReserved = errors.New("the request id was reserved before")
	errUnknown  = errors.New("no such reservation")
	errFull     = errors.New("too many")
)

// tick moves the clock of the fold, which never goes back.
func (f *Fold) tick(at int64) { f.clock = max(f.clock, at) }

// reserve holds the worst of a call at every level.
func (f *Fold) reserve(r *journal.Reservation, p *place, at int64) (*hold, error) {
	if _, done := f.finished[r.ID]; done || f.open[r.ID] != nil {
		return nil, fmt.Errorf("reservation %s: %w", r.ID, errReserved)
	}
	if len(f.open) >= MaxOpen {
		return nil, fmt.Errorf("reservation %s: %w: calls", r.ID, errFull)
	}
	f.tick(at)
	h := &hold{Reservation: *r, at: f.clock / int64(time.Second), generation: f.generation}
	for level, a := range p.accounts {
		if a == nil && len(f.accounts[level]) >= MaxAccounts {
			return nil, fmt.Errorf("reservation %s: %w: %ss", r.ID, errFull, levelNames[level])
		}
	}
	for level, a := range p.accounts {
		if a == nil {
			a = newAccount()
			f.accounts[level][p.names[level]], p.accounts[level] = a, a
		}
		h.accounts[level] = a
		a.held = add(a.held, r.Worst)
		a.requests.add(h.at, 1)
		a.tokens.add(h.at, r.Tokens)
	}
	f.places[caller{r.Namespace, r.Agent, r.Run}] = p
	f.credit -= int64(r.Worst)
	f.open[r.ID] = h
	return h, nil
}

// settle ends a reservation, and says whether the provider charged more than the worst.
func (f *Fold) settle(s *journal.Settlement, at int64) (above bool, err error) {
	f.tick(at)
	h := f.open[s.ID]
	switch {
	case h != nil:
		return f.end(h, *s), nil
	case !s.Again:
		return false, fmt.Errorf("settlement %s: %w", s.ID, errUnknown)
	case s.Outcome == journal.Withdrawn:
		f.finish(s.ID)
	}
	return false, nil
}

// end takes a hold off every level and puts there what it came to.
func (f *Fold) end(h *hold, s journal.Settlement) (above bool) {
	spent := s.Actual
	if s.Outcome == journal.Kept {
		spent = h.Worst
	}
	above = spent > h.Worst
	for _, a := range h.accounts {
		a.held -= h.Worst
		a.spent = add(a.spent, spent)
		a.closed = a.closed || above
		if s.Outcome != journal.Kept {
			a.tokens.take(h.at, h.Tokens)
			a.tokens.add(h.at, s.Tokens) // of Withdrawn 0
		}
		if s.Outcome == journal.Withdrawn {
			a.requests.take(h.at, 1)
		} else {
			a.month = f.period
		}
	}
	switch {
	case above:
		f.credit -= int64(spent - h.Worst)
	case h.generation == f.generation:
		f.credit += int64(h.Worst - spent)
	}
	delete(f.open, h.ID)
	f.finish(h.ID)
	return above
}

// finish remembers an id, and forgets the oldest when there are too many.
func (f *Fold) finish(id journal.RequestID) {
	if _, known := f.finished[id]; known {
		return
	}
	f.finished[id] = struct{}{}
	if len(f.order) < MaxFinished {
		f.order = append(f.order, id)
		return
	}
	delete(f.finished, f.order[f.oldest])
	f.order[f.oldest] = id
	f.oldest = (f.oldest + 1) % MaxFinished
}
