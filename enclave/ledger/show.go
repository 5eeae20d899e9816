package ledger

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/raypher/raypher/cost"
)

// Account is how one cap stands, with what it is.
type Account struct {
	Level  int
	Name   string // as in Balance
	Limits cost.Limits
	Balance
}

// LevelName is the word for a level: host, namespace, agent, run.
func LevelName(level int) string { return levelNames[level] }

// Report is how the ledger stands.
type Report struct {
	Unread      bool
	Period      string      // month of the grant in force, as 2026-11; empty: none was ever
	Accounts    []Account   // by level; of each the one that spent most first
	Unaccounted cost.Amount // counts against every cap
}

// Report says how everything stands, or, with a namespace, an agent and a run, how the caps above that run do.
func (l *Ledger) Report(namespace, agent, run string) Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Report{Unread: l.unread, Period: l.fold.period, Unaccounted: cost.Amount(l.fold.unaccounted)}
	now := l.now() / int64(time.Second)
	if namespace != "" {
		for level, name := range [levels]string{"", namespace, namespace + "/" + agent, namespace + "/" + agent + "/" + run} {
			r.Accounts = append(r.Accounts, l.account(level, name, now))
		}
		return r
	}
	for level, accounts := range l.fold.accounts {
		first := len(r.Accounts)
		for name := range accounts {
			r.Accounts = append(r.Accounts, l.account(level, name, now))
		}
		slices.SortFunc(r.Accounts[first:], func(a, b Account) int {
			return cmp.Or(cmp.Compare(b.Spent+b.Held, a.Spent+a.Held), strings.Compare(a.Name, b.Name))
		})
	}
	return r
}

// account is one of a report; l.mu is held.
func (l *Ledger) account(level int, name string, now int64) Account {
	a := Account{Level: level, Name: name}
	if l.control != nil {
		parts := strings.SplitN(name, "/", 3)
		agent := ""
		if len(parts) > 1 {
			agent = parts[1]
		}
		a.Limits = l.control.Limits(parts[0], agent)[level]
	}
	if known := l.fold.accounts[level][name]; known != nil {
		a.Balance = known.balance(now)
	}
	return a
}
