package lease_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	"github.com/raypher/raypher/journal"
)

// bench is one ledger with all its parts. The anchor's folder plays what lies outside the process.
type bench struct {
	t        *testing.T
	operator leasetest.Operator
	outside  string
	anchor   lease.Anchor
	state    string
	journal  *leasetest.Journal
	clock    *leasetest.Clock
	ledger   *lease.Ledger
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, operator: leasetest.NewOperator(t), outside: t.TempDir(), state: t.TempDir(), journal: new(leasetest.Journal), clock: new(leasetest.Clock)}
	b.anchor = software(t, b.outside)
	b.restart()
	return b
}

// restart is a new process on the same state.
func (b *bench) restart() {
	b.ledger = b.operator.Ledger(b.state, b.anchor, b.journal, b.clock.Now)
}

func (b *bench) grant(version, most, size uint64) *lease.Grant {
	return leasetest.Grant(b.t, b.anchor, version, most, size)
}

func (b *bench) install(g *lease.Grant) {
	b.t.Helper()
	if _, err := b.ledger.Install(b.t.Context(), b.operator.Sign(b.t, g)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) spend(n uint64) error { return b.ledger.Spend(b.t.Context(), "any", lease.Visas, n) }

// refused expects an error of a kind, with words.
func (b *bench) refused(n uint64, kind error, words string) {
	b.t.Helper()
	if err := b.spend(n); !errors.Is(err, kind) || !strings.Contains(err.Error(), words) {
		b.t.Errorf("spend %d: %v, want %q with %q", n, err, kind, words)
	}
}

func (b *bench) spends(n uint64) {
	b.t.Helper()
	if err := b.spend(n); err != nil {
		b.t.Errorf("spend %d: %v", n, err)
	}
}

func (b *bench) status() lease.Status {
	b.t.Helper()
	s, err := b.ledger.Status(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

func TestSpend(t *testing.T) {
	b := newBench(t)
	b.refused(1, lease.ErrNoCredit, "no grant is installed")
	b.install(b.grant(1, 25, 10))
	b.spends(0)
	b.spends(7)
	b.spends(7) // what is left of the first lease goes with the second
	b.spends(6)
	b.refused(6, lease.ErrExhausted, "5 of 25 left")
	b.spends(5)
	b.refused(1, lease.ErrExhausted, "0 of 25 left")
	if s := b.status(); s.Taken != 3 || s.Open != 0 || s.Left != 0 || s.Closed != nil {
		t.Errorf("%+v", s)
	}
	if got := len(b.journal.Leases(t)); got != 4 { // the grant and three leases: what is refused takes none
		t.Errorf("%d entries", got)
	}
}

// One spending may be larger than a lease; one that is larger than what is left takes nothing.
func TestSpendMoreThanALease(t *testing.T) {
	b := newBench(t)
	b.install(b.grant(1, 50, 10))
	b.refused(51, lease.ErrExhausted, "50 of 50 left")
	if s := b.status(); s.Taken != 0 {
		t.Errorf("%d leases taken for nothing", s.Taken)
	}
	b.spends(35)
	if s := b.status(); s.Taken != 4 || s.Open != 5 {
		t.Errorf("%+v", s)
	}
}

func TestSpendAtOnce(t *testing.T) {
	b := newBench(t)
	b.install(b.grant(1, 80, 10))
	var spent atomic.Uint64
	var wait sync.WaitGroup
	for range 16 {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for b.spend(1) == nil {
				spent.Add(1)
			}
		}()
	}
	wait.Wait()
	if spent.Load() != 80 {
		t.Errorf("%d of 80 spent", spent.Load())
	}
}

// A restart forfeits the open lease; the journal, replayed, says what the ledger says.
func TestRestartForfeitsTheOpenLease(t *testing.T) {
	b := newBench(t)
	b.install(b.grant(1, 30, 10))
	b.spends(1)
	b.restart()
	if s := b.status(); s.Taken != 1 || s.Open != 0 || s.Left != 20 {
		t.Errorf("after the restart: %+v", s)
	}
	b.spends(10)
	b.restart()
	b.spends(10)
	b.refused(1, lease.ErrExhausted, "0 of 30 left")
	f, s := b.journal.Replay(t, b.operator), b.status()
	if f.Taken() != s.Taken || f.Left() != s.Left || f.Handed() != 30 {
		t.Errorf("the journal says %d taken, %d left, %d handed out; the ledger %+v", f.Taken(), f.Left(), f.Handed(), s)
	}
}

// Run, copy state and journal, run on, go back to the copy: both lives together spend no more than the cap.
func TestAnOldJournalSpendsNothingTwice(t *testing.T) {
	b := newBench(t)
	b.install(b.grant(1, 100, 10))
	b.spends(15)
	oldState, oldJournal := leasetest.Copy(t, b.state), b.journal.Clone()
	var later uint64
	for b.clock.Pass(time.Minute); b.spend(5) == nil; b.clock.Pass(time.Minute) {
		later += 5
		if later == 50 {
			break
		}
	}
	b.state, b.journal = oldState, oldJournal
	b.restart()
	var again uint64
	for b.clock.Pass(time.Minute); b.spend(1) == nil; b.clock.Pass(time.Minute) {
		again++
	}
	if sum := 15 + later + again; sum > 100 || later != 50 || again == 0 {
		t.Errorf("15, then %d, then %d again: more than 100", later, again)
	}
	b.refused(1, lease.ErrExhausted, "")
	b.journal.Replay(t, b.operator)
}

// A clone that runs beside is noticed, and what had been leased to both is closed.
func TestCloneIsNoticed(t *testing.T) {
	b := newBench(t)
	b.install(b.grant(1, 100, 10))
	b.spends(1)
	clone := b.operator.Ledger(leasetest.Copy(t, b.state), b.anchor, b.journal.Clone(), b.clock.Now)
	if err := clone.Spend(t.Context(), "any", lease.Visas, 1); err != nil {
		t.Fatal(err)
	}
	b.spends(9) // its own lease
	b.refused(1, lease.ErrNoCredit, "a copy of this enclave runs")
	if s := b.status(); s.Closed == nil || s.Open != 0 {
		t.Errorf("%+v", s)
	}
	b.restart() // an operator stopped the clone
	b.spends(1)
	if s := b.status(); s.Taken != 3 {
		t.Errorf("%d leases taken", s.Taken)
	}
}

// faulty is an anchor between which and the process something goes wrong.
type faulty struct {
	lease.Anchor
	after  error               // of Take, when it has counted
	before error               // of Take, when it has not
	moves  func(uint64) uint64 // what Read says of the counter
	id     func([32]byte) [32]byte
}

func (f *faulty) Take(ctx context.Context) (uint64, error) {
	if f.before != nil {
		return 0, f.before
	}
	n, err := f.Anchor.Take(ctx)
	if f.after != nil {
		return 0, f.after
	}
	return n, err
}

func (f *faulty) Read(ctx context.Context) (lease.Reading, error) {
	r, err := f.Anchor.Read(ctx)
	if f.moves != nil {
		r.Counter = f.moves(r.Counter)
	}
	return r, err
}

func (f *faulty) ID() [32]byte {
	if f.id != nil {
		return f.id(f.Anchor.ID())
	}
	return f.Anchor.ID()
}

var errFault = errors.New("the power went")

// A step whose entry or answer is lost loses its lease and never doubles it; one that was not taken loses nothing.
func TestFaultsLoseALeaseAtMost(t *testing.T) {
	for _, c := range []struct {
		name         string
		break_, mend func(*bench, *faulty)
		lost         uint64
	}{
		{"the entry is not stored", func(b *bench, _ *faulty) { b.journal.Broken = errFault }, func(b *bench, _ *faulty) { b.journal.Broken = nil }, 1},
		{"it counts and does not answer", func(_ *bench, f *faulty) { f.after = errFault }, func(_ *bench, f *faulty) { f.after = nil }, 1},
		{"it does not count", func(_ *bench, f *faulty) { f.before = errFault }, func(_ *bench, f *faulty) { f.before = nil }, 0},
		{"no store is attached", func(b *bench, _ *faulty) { b.journal.Gone = true }, func(b *bench, _ *faulty) { b.journal.Gone = false }, 0},
	} {
		for _, restarts := range []bool{false, true} {
			b := newBench(t)
			f := &faulty{Anchor: b.anchor}
			b.anchor = f
			b.restart()
			b.install(b.grant(1, 50, 10))
			c.break_(b, f)
			if err := b.spend(10); err == nil {
				t.Errorf("%s: spent", c.name)
			}
			c.mend(b, f)
			if restarts {
				b.restart()
			}
			var spent uint64
			for b.spend(10) == nil {
				spent += 10
			}
			if spent != 50-10*c.lost {
				t.Errorf("%s, restart %v: %d spent, %d leases lost", c.name, restarts, spent, (50-spent)/10)
			}
			b.journal.Replay(t, b.operator)
		}
	}
}

// A counter that cannot be believed closes credit, with words, until an operator has signed a grant for it.
func TestCountersThatCannotBeBelieved(t *testing.T) {
	for _, c := range []struct {
		name   string
		happen func(*testing.T, *bench, *faulty)
		words  string
	}{
		{"below the baseline", func(_ *testing.T, b *bench, f *faulty) { f.moves = func(uint64) uint64 { return 2 }; b.restart() }, "below the grant's baseline"},
		{"set back while running", func(_ *testing.T, b *bench, f *faulty) { f.moves = func(n uint64) uint64 { return n - 1 } }, "without this process"},
		{"jumped while running", func(_ *testing.T, b *bench, f *faulty) { f.moves = func(n uint64) uint64 { return n + 1 } }, "without this process"},
		{"another one", func(_ *testing.T, b *bench, f *faulty) {
			f.id = func([32]byte) [32]byte { return [32]byte{1} }
			b.restart()
		}, "sign a new grant"},
		{"made anew", func(t *testing.T, b *bench, f *faulty) { f.Anchor = software(t, t.TempDir()); b.restart() }, "sign a new grant"},
		{"none", func(_ *testing.T, b *bench, f *faulty) {
			f.Anchor = lease.None(journal.TierTPM, errors.New("the owner has a password"))
			b.restart()
		}, "the owner has a password"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			for range 5 {
				if _, err := b.anchor.Take(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			f := &faulty{Anchor: b.anchor}
			b.anchor = f
			b.restart()
			b.install(b.grant(1, 50, 10))
			b.spends(10)
			c.happen(t, b, f)
			b.refused(1, lease.ErrNoCredit, c.words)
			b.refused(1, lease.ErrNoCredit, c.words)
			if s := b.status(); s.Closed == nil || s.Open != 0 {
				t.Errorf("%+v", s)
			}
			if c.name != "none" {
				f.moves = nil
				b.install(b.grant(2, 50, 10))
				b.spends(1)
			}
		})
	}
}

func TestInstallRefuses(t *testing.T) {
	b := newBench(t)
	stranger := leasetest.NewOperator(t)
	old := b.operator.Sign(t, b.grant(3, 50, 10))
	b.install(b.grant(5, 50, 10))
	b.spends(1)
	changed := func(version uint64, change func(*lease.Grant)) []byte {
		g := b.grant(version, 50, 10)
		change(g)
		return b.operator.Sign(t, g)
	}
	for _, c := range []struct {
		name   string
		signed []byte
		want   error
		words  string
	}{
		{"an older one", old, lease.ErrVersion, ""},
		{"the same version with more", changed(5, func(g *lease.Grant) { g.Cap = 90 }), lease.ErrVersion, ""},
		{"a foreign key", stranger.Sign(t, b.grant(6, 50, 10)), lease.ErrSignature, ""},
		{"another host's", changed(6, func(g *lease.Grant) { g.Anchor[0]++ }), lease.ErrNoCredit, "another host's"},
		{"a baseline to come", changed(6, func(g *lease.Grant) { g.Baseline++ }), lease.ErrNoCredit, "below the grant's baseline"},
		{"last month's", changed(6, func(g *lease.Grant) { g.Period = "2026-10"; g.NotBefore, g.NotAfter, _ = lease.Month("2026-10") }), lease.ErrNoCredit, "is over"},
		{"garbage", []byte("version: 6"), lease.ErrMalformed, "raypher grant sign"},
	} {
		if _, err := b.ledger.Install(t.Context(), c.signed); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	b.spends(9) // the grant in force was not touched
}

// The grant of the state folder is held to the same: an older one that was put back gives nothing.
func TestAnOldGrantIsPutBack(t *testing.T) {
	b := newBench(t)
	b.install(b.grant(1, 1000, 100))
	old := leasetest.Copy(t, b.state)
	b.install(b.grant(2, 10, 10)) // the operator gives much less
	b.state = old
	b.restart()
	b.refused(1, lease.ErrNoCredit, "the state folder was set back")
	b.install(b.grant(3, 10, 10))
	b.spends(1)
}

// The same grant again changes nothing, and gives nothing.
func TestInstallAgain(t *testing.T) {
	b := newBench(t)
	g := b.grant(1, 20, 10)
	b.install(g)
	signed := b.operator.Sign(t, g)
	if _, err := b.ledger.Install(t.Context(), signed); !errors.Is(err, lease.ErrVersion) { // ECDSA signs anew each time
		t.Error(err)
	}
	in := b.status().Grant
	b.spends(10)
	b.restart()
	b.install(b.grant(2, 20, 10))
	if b.status().Grant.Hash == in.Hash {
		t.Error("not the new one")
	}
	b.spends(20)
	b.refused(1, lease.ErrExhausted, "")
}

func TestPeriods(t *testing.T) {
	b := newBench(t)
	g := b.grant(1, 50, 10)
	g.NotBefore, g.NotAfter = b.clock.Now().Unix()+60, b.clock.Now().Unix()+120
	b.install(g)
	b.refused(1, lease.ErrNoCredit, "begins at")
	b.clock.Pass(time.Minute)
	b.spends(1)
	if err := b.ledger.Spend(t.Context(), "any", lease.MicroUSD, 1); !errors.Is(err, lease.ErrNoCredit) {
		t.Errorf("another unit: %v", err)
	}
	b.clock.Pass(time.Minute)
	b.refused(1, lease.ErrNoCredit, "install the next one") // the rest of the open lease too
	b.restart()
	b.refused(1, lease.ErrNoCredit, "install the next one")
}

func TestNamespace(t *testing.T) {
	b := newBench(t)
	g := b.grant(1, 50, 10)
	g.Namespace = "prod"
	b.install(g)
	b.refused(1, lease.ErrNoCredit, `for namespace "prod"`)
	if err := b.ledger.Spend(t.Context(), "prod", lease.Visas, 1); err != nil {
		t.Error(err)
	}
}

// However fast it is spent, the counter is written slowly.
// chip is an anchor whose counter wears out.
type chip struct{ lease.Anchor }

func (chip) Tier() string { return journal.TierTPM }

func TestPace(t *testing.T) {
	b := newBench(t)
	b.anchor = chip{b.anchor}
	b.restart()
	b.install(b.grant(1, 1000, 1))
	var n uint64
	for b.spend(1) == nil {
		n++
	}
	b.refused(1, lease.ErrPace, "one each 10s")
	b.clock.Pass(30 * time.Second)
	for b.spend(1) == nil {
		n++
	}
	if n != 8+3 {
		t.Errorf("%d leases", n)
	}
}

// A counter in a file is not spared: in development a grant is cut into more leases than a chip would bear.
func TestNoPaceForFiles(t *testing.T) {
	b := newBench(t)
	b.install(b.grant(1, 50, 1))
	for range 50 {
		b.spends(1)
	}
	b.refused(1, lease.ErrExhausted, "")
}

func TestInstallStoppedHalfway(t *testing.T) {
	b := newBench(t)
	b.install(b.grant(1, 50, 10))
	b.spends(1)
	second := b.operator.Sign(t, b.grant(2, 20, 10))
	b.journal.Broken = errFault
	if _, err := b.ledger.Install(t.Context(), second); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	b.refused(1, lease.ErrNoCredit, "install it again")
	b.journal.Broken = nil
	if _, err := b.ledger.Install(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	b.spends(20)
	b.refused(1, lease.ErrExhausted, "")
}

// A journal that no single enclave wrote does not fold.
func TestFoldRefuses(t *testing.T) {
	b := newBench(t)
	b.install(b.grant(1, 50, 10))
	b.spends(20)
	good := b.journal.Leases(t)
	for _, c := range []struct {
		name   string
		change func(grant, first, second *journal.Lease) []*journal.Lease
	}{
		{"a lease twice", func(g, a, _ *journal.Lease) []*journal.Lease { return []*journal.Lease{g, a, a} }},
		{"back to an older lease", func(g, a, s *journal.Lease) []*journal.Lease { return []*journal.Lease{g, s, a} }},
		{"no grant", func(_, a, _ *journal.Lease) []*journal.Lease { return []*journal.Lease{a} }},
		{"a larger lease", func(g, a, _ *journal.Lease) []*journal.Lease { a.Amount++; return []*journal.Lease{g, a} }},
		{"another number", func(g, a, _ *journal.Lease) []*journal.Lease { a.Counter++; return []*journal.Lease{g, a} }},
		{"another counter", func(g, a, _ *journal.Lease) []*journal.Lease { a.Anchor[0]++; return []*journal.Lease{g, a} }},
		{"the grant again with the counter set back", func(g, a, s *journal.Lease) []*journal.Lease { return []*journal.Lease{g, s, g} }},
		{"another grant than named", func(g, _, _ *journal.Lease) []*journal.Lease { g.Grant[0]++; return []*journal.Lease{g} }},
	} {
		copies := make([]*journal.Lease, 3)
		for i, l := range good {
			c := *l
			copies[i] = &c
		}
		f, failed := lease.NewFold([][]byte{b.operator.Public}), false
		for _, l := range c.change(copies[0], copies[1], copies[2]) {
			failed = f.Apply(l) != nil
		}
		if !failed {
			t.Errorf("%s: it folds", c.name)
		}
	}
	if err := lease.NewFold([][]byte{leasetest.NewOperator(t).Public}).Apply(good[0]); !errors.Is(err, lease.ErrSignature) {
		t.Errorf("a foreign operator: %v", err)
	}
}
