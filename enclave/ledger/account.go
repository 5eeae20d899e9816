package ledger

import (
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/journal"
)

// The levels of caps, widest first. A call counts at each of them.
const (
	Host = iota
	Namespace
	Agent
	Run
	levels
)

// account is what counts against one cap, in micro-dollars. Of a run it counts for the run's life, else for the month.
type account struct {
	spent  uint64 // charged, and kept
	held   uint64 // worst of the calls that are under way
	lost   uint64 // may have been charged by somebody whose record is gone
	closed bool   // a provider charged more than the worst: nothing more until an operator signs another grant

	requests window // of the last minute
	tokens   window // of the last day
	month    string // in which it was spent from last
}

func newAccount() *account {
	return &account{requests: newWindow(minute, minuteStep), tokens: newWindow(day, dayStep)}
}

// idle says that nothing of it is left to remember at a time (Unix seconds), its spending apart.
func (a *account) idle(now int64) bool {
	a.requests.advance(now)
	a.tokens.advance(now)
	return a.held == 0 && a.requests.sum == 0 && a.tokens.sum == 0
}

// names are those of the accounts of a call, by level. The narrower ones have the wider ones in them: an agent of another namespace is
// another agent.
func names(r *journal.Reservation) [levels]string {
	agent := r.Namespace + "/" + r.Agent
	return [levels]string{Host: "", Namespace: r.Namespace, Agent: agent, Run: agent + "/" + r.Run}
}

// place is where a call counts: the names of its accounts, and those of them that there are already.
type place struct {
	names    [levels]string
	accounts [levels]*account // nil: there is none yet
}

// caller is whose call it is.
type caller struct{ namespace, agent, run string }

// place finds the accounts of a call. Every call asks, so those of callers that were admitted once are kept.
func (f *Fold) place(r *journal.Reservation) *place {
	if p := f.places[caller{r.Namespace, r.Agent, r.Run}]; p != nil {
		return p
	}
	p := &place{names: names(r)}
	for level, name := range p.names {
		p.accounts[level] = f.accounts[level][name]
	}
	return p
}

// Balance is how one cap stands, in micro-dollars.
type Balance struct {
	Spent, Held, Lost cost.Amount
	Requests, Tokens  uint64 // of the last minute, of the last day
	Closed            bool
}

func (a *account) balance(now int64) Balance {
	a.requests.advance(now)
	a.tokens.advance(now)
	return Balance{Spent: cost.Amount(a.spent), Held: cost.Amount(a.held), Lost: cost.Amount(a.lost), Requests: a.requests.sum, Tokens: a.tokens.sum, Closed: a.closed}
}

// Balance is how a cap stands at the time of the newest entry. Names are "", namespace, namespace/agent, namespace/agent/run.
func (f *Fold) Balance(level int, name string) Balance {
	a := f.accounts[level][name]
	if a == nil {
		return Balance{}
	}
	return a.balance(f.clock / int64(time.Second))
}
