// Package leasetest holds what every anchor of leases promises, as a test that each implementation runs, and the parts to test
// ledgers with.
package leasetest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/journal"
)

// Operator signs grants.
type Operator struct {
	Key    crypto.Signer
	Public []byte // PKIX DER
}

// NewOperator makes an operator key.
func NewOperator(t testing.TB) Operator {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return Operator{key, der}
}

// Grant is a grant of visas for Period and the whole host, at the anchor as it is now; change it before Sign.
func Grant(t testing.TB, a lease.Anchor, version, most, size uint64) *lease.Grant {
	t.Helper()
	r, err := a.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := &lease.Grant{
		Version: version, Period: Period, Unit: lease.Visas, Cap: most, Lease: size, Anchor: a.ID(), Baseline: r.Counter,
	}
	if g.NotBefore, g.NotAfter, err = lease.Month(g.Period); err != nil {
		t.Fatal(err)
	}
	return g
}

// Sign signs a grant.
func (o Operator) Sign(t testing.TB, g *lease.Grant) []byte {
	t.Helper()
	signed, err := lease.Sign(g, o.Key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// Journal keeps entries in memory, as durable as the test likes.
type Journal struct {
	mu      sync.Mutex
	entries [][]byte
	Broken  error // of Append
	Gone    bool  // no store is attached
}

// Attached implements lease.Journal.
func (j *Journal) Attached() bool { return !j.Gone }

// Append implements lease.Journal.
func (j *Journal) Append(_ context.Context, entries ...[]byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.Broken != nil {
		return j.Broken
	}
	j.entries = append(j.entries, entries...)
	return nil
}

// Leases are the entries.
func (j *Journal) Leases(t testing.TB) []*journal.Lease {
	t.Helper()
	var out []*journal.Lease
	for _, raw := range j.entries {
		e, err := journal.Decode(raw)
		if err != nil || e.Type != journal.TypeLease {
			t.Fatalf("entry of type %s: %v", e.Type, err)
		}
		l, err := journal.DecodeLease(e.Payload)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	return out
}

// Replay folds the entries.
func (j *Journal) Replay(t testing.TB, o Operator) *lease.Fold {
	t.Helper()
	f := lease.NewFold([][]byte{o.Public})
	for i, l := range j.Leases(t) {
		if err := f.Apply(l); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	return f
}

// Clone is the journal as it is now.
func (j *Journal) Clone() *Journal {
	j.mu.Lock()
	defer j.mu.Unlock()
	return &Journal{entries: slices.Clone(j.entries)}
}

// Period of the grants that Grant makes.
const Period = "2026-11"

// Clock of a test: it stands, within Period, until it is told to go.
type Clock struct{ passed time.Duration }

// Now is the time on the clock.
func (c *Clock) Now() time.Time { return time.Date(2026, 11, 10, 0, 0, 0, 0, time.UTC).Add(c.passed) }

// Pass lets time pass.
func (c *Clock) Pass(d time.Duration) { c.passed += d }

// Ledger opens a ledger on a folder.
func (o Operator) Ledger(state string, a lease.Anchor, j lease.Journal, now func() time.Time) *lease.Ledger {
	return lease.NewLedger(lease.Options{
		State: state, OperatorKeys: [][]byte{o.Public}, Anchor: a, Journal: j, Log: slog.New(slog.DiscardHandler), Now: now,
	})
}

// Copy is a folder with what another one holds.
func Copy(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// Run holds an anchor to its contract. open opens the same anchor each time, as another process would; state folders of
// ledgers never hold it.
func Run(t *testing.T, open func(t *testing.T) lease.Anchor) {
	t.Run("it counts by one and is the same for all", func(t *testing.T) { counts(t, open(t), open(t)) })
	t.Run("no count is given twice", func(t *testing.T) { unique(t, open(t), open(t)) })
	t.Run("versions go up", func(t *testing.T) { versions(t, open(t), open(t)) })
	t.Run("nothing is spent twice", func(t *testing.T) { once(t, open(t)) })
}

func read(t *testing.T, a lease.Anchor) lease.Reading {
	t.Helper()
	r, err := a.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func counts(t *testing.T, a, b lease.Anchor) {
	before := read(t, a).Counter
	read(t, b)
	if a.ID() != b.ID() || a.ID() == [32]byte{} {
		t.Errorf("%x and %x", a.ID(), b.ID())
	}
	for i := uint64(1); i <= 4; i++ {
		taker := a
		if i%2 == 0 {
			taker = b
		}
		got, err := taker.Take(t.Context())
		if err != nil || got != before+i {
			t.Fatalf("step %d from %d: %d, %v", i, before, got, err)
		}
	}
	if r := read(t, b); r.Counter != before+4 {
		t.Errorf("at %d after four steps from %d", r.Counter, before)
	}
}

func unique(t *testing.T, anchors ...lease.Anchor) {
	var (
		mu   sync.Mutex
		seen = map[uint64]bool{}
		wait sync.WaitGroup
	)
	before := read(t, anchors[0]).Counter
	for _, a := range anchors {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for range 10 {
				n, err := a.Take(t.Context())
				if errors.Is(err, lease.ErrContended) {
					continue
				}
				mu.Lock()
				if err != nil || seen[n] {
					t.Errorf("%d, %v: given before: %v", n, err, seen[n])
				}
				seen[n] = true
				mu.Unlock()
			}
		}()
	}
	wait.Wait()
	// Contended steps are counted by some anchors (a TPM's increment), and not by others (compare and swap).
	if r := read(t, anchors[0]); r.Counter < before+uint64(len(seen)) || r.Counter > before+20 || len(seen) == 0 {
		t.Errorf("%d after 20 steps from %d, %d of them given", r.Counter, before, len(seen))
	}
}

func versions(t *testing.T, a, b lease.Anchor) {
	floor := read(t, a).Version
	for _, v := range []uint64{floor + 5, floor + 2, floor + 5} {
		if err := a.Raise(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		if r := read(t, b); r.Version != floor+5 {
			t.Errorf("after %d: %d", v, r.Version)
		}
	}
}

// once lives many lives on one grant: state folder and journal are kept, put back, copied and used side by side, in any order.
// All lives together never spend more than the cap, and each journal folds.
func once(t *testing.T, anchor lease.Anchor) {
	const most, size = 1000, 50
	operator, clock := NewOperator(t), new(Clock)
	first := life{state: t.TempDir(), journal: new(Journal)}
	first.ledger = operator.Ledger(first.state, anchor, first.journal, clock.Now)
	g := Grant(t, anchor, read(t, anchor).Version+1, most, size)
	if _, err := first.ledger.Install(t.Context(), operator.Sign(t, g)); err != nil {
		t.Fatal(err)
	}
	lives, spent := []*life{&first}, uint64(0)
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for range 100 {
		clock.Pass(time.Minute) // no lease is too fast
		l := lives[random.IntN(len(lives))]
		switch random.IntN(8) {
		case 0: // it crashes and starts again
			l.ledger = operator.Ledger(l.state, anchor, l.journal, clock.Now)
		case 1: // it is copied as it is, and goes on as two
			if len(lives) < 4 {
				c := &life{state: Copy(t, l.state), journal: l.journal.Clone()}
				c.ledger = operator.Ledger(c.state, anchor, c.journal, clock.Now)
				lives = append(lives, c)
			}
		default:
			n := uint64(random.IntN(2 * size))
			if l.ledger.Spend(t.Context(), "any", lease.Visas, n) == nil {
				spent += n
			}
		}
	}
	if spent == 0 || spent > most {
		t.Errorf("%d of %d spent", spent, most)
	}
	for i, l := range lives {
		f := l.journal.Replay(t, operator)
		if f.Handed() > most {
			t.Errorf("life %d handed out %d", i, f.Handed())
		}
	}
}

type life struct {
	state   string
	journal *Journal
	ledger  *lease.Ledger
}
