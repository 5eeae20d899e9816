package ledger

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/journal"
)

// granted is a fold with a grant of 100 micro-dollars in leases of 10, in force at counter 0.
func granted(t *testing.T) (*Fold, *lease.Grant) {
	t.Helper()
	g := &lease.Grant{Version: 1, Period: "2026-11", Unit: lease.MicroUSD, Cap: 100, Lease: 10, Anchor: [32]byte{1}}
	var err error
	if g.NotBefore, g.NotAfter, err = lease.Month(g.Period); err != nil {
		t.Fatal(err)
	}
	signed, err := lease.Sign(g, operatorKey)
	if err != nil {
		t.Fatal(err)
	}
	if g, err = lease.Open(signed, [][]byte{operatorDER}); err != nil {
		t.Fatal(err)
	}
	f := NewFold([][]byte{operatorDER})
	f.beginEpoch()
	f.applies(t, &journal.Lease{Grant: g.Hash, Version: 1, Anchor: g.Anchor, Signed: g.Signed()})
	return f, g
}

func (f *Fold) applies(t *testing.T, l *journal.Lease) {
	t.Helper()
	if err := f.lease(l); err != nil {
		t.Fatal(err)
	}
}

func (f *Fold) take(t *testing.T, g *lease.Grant, number uint64) {
	t.Helper()
	f.applies(t, &journal.Lease{Grant: g.Hash, Version: 1, Anchor: g.Anchor, Counter: number, Number: number, Amount: 10})
}

// TestGapsOfLeases: leases that the counter knows and the journal does not are lost to the host; those from before this epoch count against
// every narrower cap too, for their spending may have been on record. What is left of an open lease is lost when its process ends.
func TestGapsOfLeases(t *testing.T) {
	refused := func(f *Fold, level int) bool {
		r := &journal.Reservation{ID: journal.RequestID{1}, Namespace: "dev", Agent: "coder", Run: "run", Provider: "p", Model: "m", Worst: 1}
		cap := cost.Amount(10)
		limits := [levels]cost.Limits{}
		limits[level].Budget = &cap
		return errors.Is(f.admit(r, f.place(r), &limits, 0), ErrRefused)
	}
	for _, c := range []struct {
		name                          string
		happens                       func(t *testing.T, f *Fold, g *lease.Grant)
		lost, unaccounted             uint64
		host, namespace, agent, ofRun bool // whether a cap of 10 refuses a call of 1
	}{
		{"no gap", func(t *testing.T, f *Fold, g *lease.Grant) { f.take(t, g, 1); f.take(t, g, 2) }, 0, 0, false, false, false, false},
		{"within an epoch", func(t *testing.T, f *Fold, g *lease.Grant) { f.take(t, g, 1); f.take(t, g, 3) }, 10, 0, true, false, false, false},
		{"from before the epoch", func(t *testing.T, f *Fold, g *lease.Grant) { f.beginEpoch(); f.take(t, g, 2) }, 10, 10, true, true, true, true},
		{"two, one of each", func(t *testing.T, f *Fold, g *lease.Grant) { f.beginEpoch(); f.take(t, g, 2); f.take(t, g, 4) }, 20, 10, true, true, true, true},
		{"of the grant named again", func(t *testing.T, f *Fold, g *lease.Grant) {
			f.take(t, g, 1)
			f.beginEpoch() // its 10 are forfeited
			f.applies(t, &journal.Lease{Grant: g.Hash, Version: 1, Anchor: g.Anchor, Counter: 3, Signed: g.Signed()})
		}, 30, 20, true, true, true, true},
		{"forfeited credit", func(t *testing.T, f *Fold, g *lease.Grant) { f.take(t, g, 1); f.beginEpoch() }, 10, 0, true, false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, g := granted(t)
			c.happens(t, f, g)
			if f.host().lost != c.lost || f.unaccounted != c.unaccounted {
				t.Errorf("%d lost and %d unaccounted, want %d and %d", f.host().lost, f.unaccounted, c.lost, c.unaccounted)
			}
			for level, want := range [levels]bool{c.host, c.namespace, c.agent, c.ofRun} {
				if got := refused(f, level); got != want {
					t.Errorf("a cap of the %s refuses: %v, want %v", levelNames[level], got, want)
				}
			}
		})
	}
}

// lostLease is a journal whose store goes away while a lease is put on record.
type lostLease struct{ gone bool }

func (j *lostLease) Attached() bool { return true }

func (j *lostLease) TryAppend(then func(error), entries ...[]byte) (bool, error) {
	for _, raw := range entries {
		if e, err := journal.Decode(raw); err == nil && e.Type == journal.TypeLease {
			if l, err := journal.DecodeLease(e.Payload); err == nil && l.Number == 2 {
				j.gone = true
			}
		}
	}
	if j.gone {
		then(lease.ErrNoStore)
	} else {
		then(nil)
	}
	return true, nil
}

// TestStopped: a ledger that does not know what its journal holds does nothing more: no reservation, though there is credit, no settlement, no
// grant and no snapshot.
func TestStopped(t *testing.T) {
	dir := t.TempDir()
	anchor, err := lease.OpenSoftware(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := func() time.Time { return begin }
	control, err := cost.Parse("control", []byte("{version: 1, time_zone: UTC, monthly_budget_usd: 1}"))
	if err != nil {
		t.Fatal(err)
	}
	l := New(Options{
		Journal: &lostLease{}, Control: control, Log: slog.New(slog.DiscardHandler),
		Leases: lease.Options{State: dir, OperatorKeys: [][]byte{operatorDER}, Anchor: anchor, Now: now},
	})
	defer l.Close()
	ctx := context.Background()
	sign := func(version uint64) []byte {
		g := &lease.Grant{Version: version, Period: "2026-11", Unit: lease.MicroUSD, Cap: 100, Lease: 10, Anchor: anchor.ID()}
		if g.NotBefore, g.NotAfter, err = lease.Month(g.Period); err != nil {
			t.Fatal(err)
		}
		signed, err := lease.Sign(g, operatorKey)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	if _, err := l.Install(ctx, sign(1)); err != nil {
		t.Fatal(err)
	}
	call := func(n byte, worst cost.Amount) *Call {
		return &Call{ID: journal.RequestID{n}, Namespace: "dev", Agent: "coder", Run: "run", Provider: "p", Model: "m", Worst: worst}
	}
	if err := l.Reserve(ctx, call(1, 4)); err != nil { // 6 are left of the first lease
		t.Fatal(err)
	}
	if err := l.Reserve(ctx, call(2, 9)); err == nil { // needs the second
		t.Fatal("a lease is spent that is not on record")
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second) // or it would go on for ever where it does not stop
	defer cancel()
	for name, err := range map[string]error{
		"a call for which there is credit": l.Reserve(ctx, call(3, 1)),
		"a settlement":                     l.Settle(ctx, journal.RequestID{1}, 1, 1),
		"keeping":                          l.Keep(ctx, journal.RequestID{1}),
		"a snapshot":                       l.Snapshot(ctx),
		"a grant":                          func() error { _, err := l.Install(ctx, sign(2)); return err }(),
	} {
		if !errors.Is(err, ErrStopped) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A refusal says what helps: to wait only where that can, and never for the next month of a run, whose budget is for its life.
func TestWhatHelps(t *testing.T) {
	for _, c := range []struct {
		refusal Refusal
		want    string
	}{
		{Refusal{Level: "run", Limit: 100, Spent: 10, Asked: 200}, "ask for a shorter answer, or raise the budget"},
		{Refusal{Level: "host", Limit: 100, Spent: 10, Held: 20, Asked: 200}, "ask for a shorter answer, or raise the budget"},
		{Refusal{Level: "run", Limit: 100, Spent: 100, Asked: 20}, "raise the budget"},
		{Refusal{Level: "run", Limit: 100, Spent: 60, Held: 40, Asked: 20}, "wait for calls that are under way, or raise the budget"},
		{Refusal{Level: "agent", Limit: 100, Spent: 60, Lost: 40, Asked: 20}, "wait for the next month, or raise the budget"},
		{Refusal{Level: "host", Limit: 100, Spent: 60, Held: 30, Asked: 20}, "ask for a shorter answer, or wait for calls that are under way, or wait for the next month, or raise the budget"},
	} {
		c.refusal.What = Budget
		if got := c.refusal.Error(); !strings.HasSuffix(got, ": "+c.want) {
			t.Errorf("%+v: %s", c.refusal, got)
		}
	}
}
