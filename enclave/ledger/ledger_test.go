package ledger_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/raypher/raypher/cost"
	sequencer "github.com/raypher/raypher/enclave/journal"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// store is a parent at the other end of a Persist stream, which has synced whatever it was sent.
type store struct {
	ctx     context.Context
	acks    chan *enclavev1.PersistRequest
	keep    bool
	mu      sync.Mutex
	entries [][]byte
}

func (s *store) Context() context.Context     { return s.ctx }
func (s *store) SendHeader(metadata.MD) error { return nil }
func (s *store) Send(b *enclavev1.Batch) error {
	if s.keep {
		s.mu.Lock()
		s.entries = append(s.entries, b.GetEntries()...)
		s.mu.Unlock()
	}
	size := b.GetFirstIndex() + uint64(len(b.GetEntries()))
	s.acks <- &enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Ack{Ack: &enclavev1.PersistAck{Epoch: b.GetEpoch(), Size: size}}}
	return nil
}

func (s *store) Recv() (*enclavev1.PersistRequest, error) {
	select {
	case m := <-s.acks:
		return m, nil
	case <-s.ctx.Done():
		return nil, io.EOF
	}
}

// bench is a ledger on a real journal with the software signer.
type bench struct {
	ledger   *ledger.Ledger
	store    *store
	operator leasetest.Operator
	alarms   atomic.Int64
}

func newBench(t testing.TB, control string, grant uint64, keep bool) *bench {
	t.Helper()
	key, _, err := software.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var epoch journal.EpochID
	rand.Read(epoch[:])
	log := slog.New(slog.DiscardHandler)
	s, err := sequencer.New(sequencer.Options{Signer: key, Epoch: epoch, Configuration: journal.Hash{1}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	ctx, cancel := context.WithCancel(t.Context())
	b := &bench{store: &store{ctx: ctx, acks: make(chan *enclavev1.PersistRequest, 64), keep: keep}, operator: leasetest.NewOperator(t)}
	served := make(chan struct{})
	b.store.acks <- &enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: &enclavev1.Attach{}}}
	go func() {
		defer close(served)
		_ = s.Serve(b.store)
	}()
	t.Cleanup(func() { cancel(); <-served })
	for !s.Attached() {
		time.Sleep(time.Millisecond)
	}
	anchor, err := lease.OpenSoftware(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := cost.Parse("control", []byte(control))
	if err != nil {
		t.Fatal(err)
	}
	clock := new(leasetest.Clock)
	b.ledger = ledger.New(ledger.Options{
		Journal: ledger.Sequenced(s), Control: c, Log: log, Alarm: func(ledger.Alarm) { b.alarms.Add(1) },
		Leases: lease.Options{State: t.TempDir(), OperatorKeys: [][]byte{b.operator.Public}, Anchor: anchor, Now: clock.Now},
	})
	t.Cleanup(b.ledger.Close)
	g := leasetest.Grant(t, anchor, 1, grant, grant/5)
	g.Unit = lease.MicroUSD
	if _, err := b.ledger.Install(t.Context(), b.operator.Sign(t, g)); err != nil {
		t.Fatal(err)
	}
	return b
}

var number atomic.Uint64

func call(worst cost.Amount) *ledger.Call {
	c := &ledger.Call{Namespace: "dev", Agent: "coder", Run: "run", Provider: "openai", Model: "m", Worst: worst, Tokens: 100}
	n := number.Add(1)
	for i := range 8 {
		c.ID[i] = byte(n >> (8 * i))
	}
	return c
}

const plain = "{version: 1, time_zone: UTC, monthly_budget_usd: 1000}"

// TestConcurrentCallers: many at once on a small budget, with every way for a call to end; what was charged stays below it, and most of
// it can be used.
func TestConcurrentCallers(t *testing.T) {
	b := newBench(t, "{version: 1, time_zone: UTC, monthly_budget_usd: 5}", 100_000_000, true)
	var charged atomic.Uint64
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			for {
				c := call(10_000)
				err := b.ledger.Reserve(t.Context(), c)
				var r *ledger.Refusal
				if errors.As(err, &r) {
					if r.Level != "host" || r.What != ledger.Budget || uint64(r.Limit) != 5_000_000 || !strings.Contains(err.Error(), "of 5.00 dollars spent") {
						t.Errorf("%v", err)
					}
					if r.Held == 0 {
						return
					}
					time.Sleep(time.Millisecond) // others are under way, and may give something back
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				charged.Add(4_000)
				if err := b.ledger.Settle(t.Context(), c.ID, 4_000, 50); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if sum := charged.Load(); sum > 5_000_000 || sum < 4_750_000 {
		t.Errorf("%s dollars are charged of 5.00", cost.Amount(sum))
	}
	if got := b.ledger.Balance(ledger.Host, ""); uint64(got.Spent) != charged.Load() || got.Held != 0 {
		t.Errorf("%+v, %d charged", got, charged.Load())
	}
	b.replay(t)
}

// replay folds what the store has and compares it with the ledger.
func (b *bench) replay(t *testing.T) {
	t.Helper()
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	f := ledger.NewFold([][]byte{b.operator.Public})
	for i, raw := range b.store.entries {
		e, err := journal.Decode(raw)
		if err == nil {
			err = f.Apply(e)
		}
		if err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	for level, name := range []string{"", "dev", "dev/coder", "dev/coder/run"} {
		got, want := f.Balance(level, name), b.ledger.Balance(level, name)
		if got.Spent != want.Spent || got.Held != want.Held || got.Lost != want.Lost {
			t.Errorf("%q: replayed %+v, in memory %+v", name, got, want)
		}
	}
}

// TestEachCap: each level refuses by itself, and says so.
func TestEachCap(t *testing.T) {
	for _, c := range []struct {
		name, control string
		budget        cost.Amount // of the run
		level, what   string
	}{
		{"host", "monthly_budget_usd: 0.25", 0, "host", ledger.Budget},
		{"namespace", "monthly_budget_usd: 9, namespaces: {dev: {monthly_budget_usd: 0.25}}", 0, "namespace", ledger.Budget},
		{"agent", "monthly_budget_usd: 9, namespaces: {dev: {agents: {coder: {monthly_budget_usd: 0.25}}}}", 0, "agent", ledger.Budget},
		{"each agent", "monthly_budget_usd: 9, namespaces: {\"*\": {agents: {\"*\": {monthly_budget_usd: 0.25}}}}", 0, "agent", ledger.Budget},
		{"run", "monthly_budget_usd: 9, per_run: {budget_usd: 0.25}", 0, "run", ledger.Budget},
		{"run's own", "monthly_budget_usd: 9, per_run: {budget_usd: 5}", 250_000, "run", ledger.Budget},
		{"requests", "monthly_budget_usd: 9, requests_per_minute: 2", 0, "host", ledger.Requests},
		{"tokens", "monthly_budget_usd: 9, namespaces: {dev: {tokens_per_day: 250}}", 0, "namespace", ledger.Tokens},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, "{version: 1, time_zone: UTC, "+c.control+"}", 100_000_000, false)
			reserve := func() error {
				one := call(100_000)
				if c.budget > 0 {
					one.Budget = &c.budget
				}
				return b.ledger.Reserve(t.Context(), one)
			}
			for range 2 {
				if err := reserve(); err != nil {
					t.Fatal(err)
				}
			}
			var r *ledger.Refusal
			if err := reserve(); !errors.As(err, &r) || !errors.Is(err, ledger.ErrRefused) || r.Level != c.level || r.What != c.what {
				t.Errorf("%v", err)
			}
			if r != nil && (r.What != ledger.Budget) == r.Refill.IsZero() {
				t.Errorf("refill %s of %s", r.Refill, r.What)
			}
		})
	}
}

// TestOnce: a request id holds once and ends once; everything else is refused and alarmed.
func TestOnce(t *testing.T) {
	b := newBench(t, plain, 100_000_000, true)
	ctx := t.Context()
	c := call(1000)
	for range 3 {
		if err := b.ledger.Reserve(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	if held := b.ledger.Balance(ledger.Host, "").Held; held != 1000 || b.alarms.Load() != 0 {
		t.Errorf("%s held, %d alarms", held, b.alarms.Load())
	}
	other := *c
	other.Worst++
	if err := b.ledger.Reserve(ctx, &other); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("another call of the same id: %v", err)
	}
	if err := b.ledger.Settle(ctx, journal.RequestID{9}, 5, 5); !errors.Is(err, ledger.ErrSettlement) {
		t.Errorf("settled without a reservation: %v", err)
	}
	if err := b.ledger.Settle(ctx, c.ID, 400, 5); err != nil {
		t.Fatal(err)
	}
	for _, again := range []error{b.ledger.Settle(ctx, c.ID, 400, 5), b.ledger.Keep(ctx, c.ID), b.ledger.Withdraw(ctx, c.ID)} {
		if !errors.Is(again, ledger.ErrSettlement) {
			t.Errorf("ended twice: %v", again)
		}
	}
	if err := b.ledger.Reserve(ctx, c); !errors.Is(err, ledger.ErrConflict) {
		t.Errorf("the same id after its end: %v", err)
	}
	if got := b.ledger.Balance(ledger.Run, "dev/coder/run"); got.Spent != 400 || got.Held != 0 || b.alarms.Load() != 6 {
		t.Errorf("%+v, %d alarms", got, b.alarms.Load())
	}
	for _, end := range []struct {
		how   func(context.Context, journal.RequestID) error
		spent cost.Amount
	}{{b.ledger.Keep, 1400}, {b.ledger.Withdraw, 1400}} {
		c := call(1000)
		if err := b.ledger.Reserve(ctx, c); err != nil {
			t.Fatal(err)
		}
		if err := end.how(ctx, c.ID); err != nil {
			t.Fatal(err)
		}
		if got := b.ledger.Balance(ledger.Host, ""); got.Spent != end.spent || got.Held != 0 {
			t.Errorf("%+v, want %d spent", got, end.spent)
		}
	}
	b.replay(t)
}

// TestAboveTheWorst: the provider has charged, so it counts in full; and the caps above the call close.
func TestAboveTheWorst(t *testing.T) {
	b := newBench(t, plain, 100_000_000, true)
	c := call(1000)
	if err := b.ledger.Reserve(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := b.ledger.Settle(t.Context(), c.ID, 5000, 1); err != nil {
		t.Fatal(err)
	}
	if got := b.ledger.Balance(ledger.Agent, "dev/coder"); got.Spent != 5000 || !got.Closed || b.alarms.Load() != 1 {
		t.Errorf("%+v, %d alarms", got, b.alarms.Load())
	}
	var r *ledger.Refusal
	if err := b.ledger.Reserve(t.Context(), call(1)); !errors.As(err, &r) || r.What != ledger.Closed {
		t.Errorf("%v", err)
	}
	b.replay(t)
}

// TestClosed: a ledger that was closed admits nothing.
func TestClosed(t *testing.T) {
	b := newBench(t, plain, 100_000_000, false)
	b.ledger.Close()
	if err := b.ledger.Reserve(t.Context(), call(1)); !errors.Is(err, ledger.ErrStopped) {
		t.Errorf("%v", err)
	}
}

// BenchmarkReserveSettle is one call from its reservation to its settlement, both durable in the journal, by many callers.
func BenchmarkReserveSettle(b *testing.B) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as raypher-enclave does
	for _, callers := range []int{256, 2048, 8192} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			x := newBench(b, plain, 900_000_000, false)
			var all sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			for range callers {
				all.Go(func() {
					for left.Add(-1) >= 0 {
						c := call(100)
						if err := x.ledger.Reserve(b.Context(), c); err != nil {
							b.Error(err)
							return
						}
						if err := x.ledger.Settle(b.Context(), c.ID, 40, 50); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}
