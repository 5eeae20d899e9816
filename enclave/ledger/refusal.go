package ledger

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/journal"
)

// Errors that callers tell apart.
var (
	// ErrRefused: a cap or a rate refuses the call; errors.As finds the *Refusal.
	ErrRefused = errors.New("refused")
	// ErrConflict: a request id that stands for something else already, or has ended.
	ErrConflict = errors.New("the request id is taken")
	// ErrSettlement: a settlement without a reservation, or a second one.
	ErrSettlement = errors.New("there is nothing to settle")
	// ErrUnrecorded: it counts, and is not yet on record: the journal's store is away.
	ErrUnrecorded = errors.New("it is counted, and not yet on record")
	// ErrUnread: what was spent before is not known yet, so nothing can be spent.
	ErrUnread = errors.New("the ledger does not know yet what was spent before: wait until the parent has shown its journal (raypherd does by itself)")
	// ErrNoControl: nothing says what may be spent.
	ErrNoControl = errors.New("no cost control is installed, so nothing may be spent: `raypher spend control FILE` installs one")
	// ErrStopped: the ledger does not know what its journal holds, and spends nothing until the enclave starts anew.
	ErrStopped = errors.New("the ledger has stopped: restart the enclave")
)

// What a refusal is about.
const (
	Budget   = "budget"
	Requests = "requests_per_minute"
	Tokens   = "tokens_per_day"
	Closed   = "closed" // a provider charged more than the worst of a call
)

// Refusal says which cap refused a call, and how it stands. Amounts are in micro-dollars, or in what the rate counts.
type Refusal struct {
	Level, Name string // host, namespace, agent, run; as in names
	What        string
	Limit       uint64
	Spent       uint64 // counted already
	Held        uint64 // of calls that are under way; of a budget only
	Lost        uint64 // that nobody can account for; of a budget only
	Asked       uint64
	Refill      time.Time // when the call would pass if nothing else came; zero: not by itself
}

var levelNames = [levels]string{"host", "namespace", "agent", "run"}

// Error implements error: which cap, how it stands, and what helps.
func (r *Refusal) Error() string {
	who := r.Level
	if r.Name != "" {
		who += " " + r.Name
	}
	switch r.What {
	case Budget:
		lost := ""
		if r.Lost > 0 {
			lost = fmt.Sprintf(", %s lost", cost.Amount(r.Lost))
		}
		return fmt.Sprintf("the budget of %s does not hold the call: %s of %s dollars spent, %s held%s, the call may cost %s: %s",
			who, cost.Amount(r.Spent), cost.Amount(r.Limit), cost.Amount(r.Held), lost, cost.Amount(r.Asked), r.helps())
	case Closed:
		return fmt.Sprintf("%s is closed: a provider charged more than a call could cost by the price list: check the prices, then install another grant", who)
	}
	when := "never, it is above the limit by itself"
	if !r.Refill.IsZero() {
		when = "at " + r.Refill.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%s of %s: %d of %d used, the call asks %d: it passes %s", r.What, who, r.Spent, r.Limit, r.Asked, when)
}

// helps is what lets a call through that a budget does not hold.
func (r *Refusal) helps() string {
	var ways []string
	if add(add(r.Spent, r.Held), r.Lost) < r.Limit {
		ways = append(ways, "ask for a shorter answer")
	}
	if r.Asked <= r.Limit && r.Held > 0 {
		ways = append(ways, "wait for calls that are under way")
	}
	if r.Asked <= r.Limit && r.Level != levelNames[Run] {
		ways = append(ways, "wait for the next month")
	}
	return strings.Join(append(ways, "raise the budget"), ", or ")
}

// Unwrap makes it an ErrRefused.
func (r *Refusal) Unwrap() error { return ErrRefused }

// admit says which cap refuses a call, if any does, and changes nothing that counts. now is in Unix seconds.
func (f *Fold) admit(r *journal.Reservation, p *place, limits *[levels]cost.Limits, now int64) error {
	if len(f.open) >= MaxOpen {
		return fmt.Errorf("%w: %d calls are under way: %w", ErrRefused, MaxOpen, errFull)
	}
	for level, a := range p.accounts {
		if a == nil {
			if len(f.accounts[level]) >= MaxAccounts {
				return fmt.Errorf("%w: %d %ss since the month began: %w", ErrRefused, MaxAccounts, levelNames[level], errFull)
			}
			a = newAccount()
		}
		lost := a.lost
		if level != Host {
			lost = add(lost, f.unaccounted)
		}
		refusal := a.refuses(r, &limits[level], lost, now)
		if refusal != nil {
			refusal.Level, refusal.Name = levelNames[level], p.names[level]
			return refusal
		}
	}
	return nil
}

func (a *account) refuses(r *journal.Reservation, l *cost.Limits, lost uint64, now int64) *Refusal {
	if a.closed {
		return &Refusal{What: Closed}
	}
	if l.Budget != nil && above(add(add(a.spent, a.held), lost), r.Worst, uint64(*l.Budget)) {
		return &Refusal{What: Budget, Limit: uint64(*l.Budget), Spent: a.spent, Held: a.held, Lost: lost, Asked: r.Worst}
	}
	if l.RequestsPerMinute != nil {
		if refusal := a.requests.refuses(1, *l.RequestsPerMinute, now); refusal != nil {
			refusal.What = Requests
			return refusal
		}
	}
	if l.TokensPerDay != nil {
		if refusal := a.tokens.refuses(r.Tokens, *l.TokensPerDay, now); refusal != nil {
			refusal.What = Tokens
			return refusal
		}
	}
	return nil
}

func (w *window) refuses(n, limit uint64, now int64) *Refusal {
	w.advance(now)
	if !above(w.sum, n, limit) {
		return nil
	}
	refusal := &Refusal{Limit: limit, Spent: w.sum, Asked: n}
	if at := w.refill(n, limit); at > 0 {
		refusal.Refill = time.Unix(at, 0)
	}
	return refusal
}

// above says whether used and more together exceed a limit.
func above(used, more, limit uint64) bool { return used > limit || more > limit-used }
