package spending

import (
	"context"
	"crypto"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/journal"
)

// record is a journal in memory, durable at once.
type record struct {
	mu      sync.Mutex
	entries [][]byte
	broken  error // of what is not about money
}

func (r *record) Attached() bool { return true }

func (r *record) TryAppend(then func(error), entries ...[]byte) (bool, error) {
	r.mu.Lock()
	r.entries = append(r.entries, entries...)
	r.mu.Unlock()
	then(nil)
	return true, nil
}

func (r *record) put(_ context.Context, entry []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken == nil {
		r.entries = append(r.entries, entry)
	}
	return r.broken
}

// count is how many entries of a type there are.
func (r *record) count(t *testing.T, of journal.Type) (n int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, raw := range r.entries {
		e, err := journal.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == of {
			n++
		}
	}
	return n
}

// host is one enclave's state, over several lives.
type host struct {
	state    string
	operator leasetest.Operator
	record   *record
	clock    *leasetest.Clock
}

func newHost(t *testing.T) *host {
	return &host{state: t.TempDir(), operator: leasetest.NewOperator(t), record: new(record), clock: new(leasetest.Clock)}
}

// open begins a life.
func (h *host) open(t *testing.T, development crypto.Signer, pause time.Duration) *Spending {
	t.Helper()
	anchor, err := lease.OpenSoftware(h.state)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Options{
		State: h.state, OperatorKeys: [][]byte{h.operator.Public}, Anchor: anchor, Journal: h.record, Record: h.record.put,
		Log: slog.New(slog.DiscardHandler), Now: h.clock.Now, Development: development, Pause: pause,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func (h *host) sign(t *testing.T, source string) []byte {
	t.Helper()
	c, err := cost.Parse("control", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := c.Sign(h.operator.Key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func call(number byte, worst cost.Amount) *ledger.Call {
	return &ledger.Call{ID: journal.RequestID{number}, Namespace: "dev", Agent: "coder", Run: "run", Provider: "openai", Model: "m", Worst: worst, Tokens: 10}
}

// TestControlInForce: signed by an operator, newer than the last one, on record; else what was in force stays, over a restart too.
func TestControlInForce(t *testing.T) {
	h := newHost(t)
	s := h.open(t, nil, 0)
	if err := s.Reserve(t.Context(), call(1, 1)); !errors.Is(err, ledger.ErrUnread) {
		t.Errorf("before the journal is known: %v", err)
	}
	if _, err := s.InstallControl(t.Context(), h.sign(t, "{version: 1, time_zone: UTC, monthly_budget_usd: 1}")); !errors.Is(err, ledger.ErrUnread) {
		t.Errorf("installed before the journal is known: %v", err)
	}
	if err := s.Begin(nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Reserve(t.Context(), call(1, 1)); !errors.Is(err, ledger.ErrNoControl) {
		t.Errorf("without a cost control: %v", err)
	}
	foreign := newHost(t)
	source := func(version, budget string) string {
		return "{version: " + version + ", time_zone: UTC, monthly_budget_usd: " + budget + ", providers: {a: {kind: anthropic, base_url: \"https://x.example\", key: k}}}"
	}
	for _, c := range []struct {
		name   string
		signed []byte
		broken error
		want   error // nil: it is in force
		in     uint64
	}{
		{"garbage", []byte("x"), nil, cost.ErrMalformed, 0},
		{"a foreign key", foreign.sign(t, source("4", "1")), nil, cost.ErrSignature, 0},
		{"the first", h.sign(t, source("4", "1")), nil, nil, 4},
		{"the same again", h.sign(t, source("4", "1")), nil, nil, 4},
		{"an older one", h.sign(t, source("3", "9")), nil, ErrVersion, 4},
		{"another of the same version", h.sign(t, source("4", "9")), nil, ErrVersion, 4},
		{"not on record", h.sign(t, source("5", "9")), errors.New("disk full"), errors.New("disk full"), 4},
		{"a newer one", h.sign(t, source("6", "9")), nil, nil, 6},
	} {
		h.record.broken = c.broken
		_, err := s.InstallControl(t.Context(), c.signed)
		if (err == nil) != (c.want == nil) || c.want != nil && !errors.Is(err, c.want) && !strings.Contains(err.Error(), c.want.Error()) {
			t.Errorf("%s: %v", c.name, err)
		}
		in := uint64(0)
		if control, err := s.Control(); err == nil {
			in = control.Version
		}
		if in != c.in {
			t.Errorf("%s: version %d is in force, want %d", c.name, in, c.in)
		}
	}
	if n := h.record.count(t, journal.TypeControl); n != 2 {
		t.Errorf("%d are on record", n)
	}
	if p := s.Providers(); p["a"].Kind != cost.Anthropic {
		t.Errorf("%v", p)
	}
	if _, err := s.InstallSource(t.Context(), []byte(source("9", "9"))); !errors.Is(err, ErrOperator) {
		t.Errorf("unsigned: %v", err)
	}
	if _, err := s.TopUp(t.Context(), 1); !errors.Is(err, ErrOperator) {
		t.Errorf("a top-up without a signature: %v", err)
	}
	s.Close()
	if c, err := h.open(t, nil, 0).Control(); err != nil || c.Version != 6 {
		t.Errorf("after a restart: %v, %v", c, err)
	}
}

// TestControlSetBack: an older cost control in the state folder is not in force, as long as the folder or the journal tells of a newer one.
func TestControlSetBack(t *testing.T) {
	h := newHost(t)
	s := h.open(t, nil, 0)
	if err := s.Begin(nil); err != nil {
		t.Fatal(err)
	}
	install := func(source string) {
		t.Helper()
		if _, err := s.InstallControl(t.Context(), h.sign(t, source)); err != nil {
			t.Fatal(err)
		}
	}
	install("{version: 1, time_zone: UTC, monthly_budget_usd: 100}")
	old, err := os.ReadFile(filepath.Join(h.state, ControlFile))
	if err != nil {
		t.Fatal(err)
	}
	install("{version: 2, time_zone: UTC, monthly_budget_usd: 1}")
	s.Close()
	if err := os.WriteFile(filepath.Join(h.state, ControlFile), old, 0o600); err != nil {
		t.Fatal(err)
	}
	s = h.open(t, nil, 0)
	if c, err := s.Control(); err == nil || !strings.Contains(err.Error(), "set back") {
		t.Errorf("%v, %v", c, err)
	}
	s.Close()
	if err := os.Remove(filepath.Join(h.state, FloorFile)); err != nil {
		t.Fatal(err)
	}
	s = h.open(t, nil, 0)
	if c, err := s.Control(); err != nil || c.Version != 1 {
		t.Fatalf("%v, %v", c, err)
	}
	fold := ledger.NewFold([][]byte{h.operator.Public})
	for _, raw := range h.record.entries {
		e, err := journal.Decode(raw)
		if err == nil {
			err = fold.Apply(e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Begin(fold); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Control(); err == nil || !strings.Contains(err.Error(), "the journal has version 2") {
		t.Errorf("%v, %v", c, err)
	}
	if err := s.Reserve(t.Context(), call(1, 1)); !errors.Is(err, ledger.ErrNoControl) {
		t.Errorf("%v", err)
	}
}

// TestRates: a provider's own prices, or the list that ships for its protocol, each with the hash of what says so; nothing else has a price.
func TestRates(t *testing.T) {
	h := newHost(t)
	s := h.open(t, nil, 0)
	if err := s.Begin(nil); err != nil {
		t.Fatal(err)
	}
	c, err := s.InstallControl(t.Context(), h.sign(t, `{version: 1, time_zone: UTC, monthly_budget_usd: 1, providers: {
		own: {kind: openai-compatible, base_url: "https://x.example", key: k, models: {big: {input: 1.25, output: 10}}},
		listed: {kind: `+s.list.Models[0].Provider+`, base_url: "https://y.example", key: k}}}`))
	if err != nil {
		t.Fatal(err)
	}
	listed := &s.list.Models[0]
	for _, want := range []struct {
		provider, model string
		input           uint64
		list            journal.Hash
		ok              bool
	}{
		{"own", "big", 1_250_000, c.Hash(), true}, {"listed", listed.Name, listed.Input, s.list.Hash, true},
		{"own", listed.Name, 0, journal.Hash{}, false}, {"listed", "big", 0, journal.Hash{}, false}, {"listed", listed.Name + "x", 0, journal.Hash{}, false}, {"other", "big", 0, journal.Hash{}, false},
	} {
		rates, list, ok := s.Rates(want.provider, want.model)
		if ok != want.ok || list != want.list || ok && rates.Input != want.input {
			t.Errorf("%s of %s: %+v, %s, %v", want.model, want.provider, rates, list, ok)
		}
	}
}

// TestDevelopment: the first call makes a grant, a new month another one; nobody has to sign, and a top-up raises both bounds.
func TestDevelopment(t *testing.T) {
	h := newHost(t)
	s := h.open(t, h.operator.Key, 0)
	if err := s.Begin(nil); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Control(); err != nil || *c.Host.Budget != 20_000_000 {
		t.Fatalf("%v, %v", c, err)
	}
	if _, err := s.InstallSource(t.Context(), []byte("{version: 2, time_zone: UTC, monthly_budget_usd: 2}")); err != nil {
		t.Fatal(err)
	}
	pay := func(number byte, amount cost.Amount) error {
		if err := s.Reserve(t.Context(), call(number, amount)); err != nil {
			return err
		}
		return s.Settle(t.Context(), journal.RequestID{number}, amount, 5)
	}
	if err := pay(1, 1_500_000); err != nil {
		t.Fatal(err)
	}
	var refused *ledger.Refusal
	if err := pay(2, 1_000_000); !errors.As(err, &refused) || refused.What != ledger.Budget {
		t.Fatalf("%v", err)
	}
	if _, err := s.TopUp(t.Context(), 1_000_000); err != nil {
		t.Fatal(err)
	}
	if err := pay(3, 1_000_000); err != nil {
		t.Fatalf("after a top-up: %v", err)
	}
	if err := pay(4, 1_000_000); !errors.Is(err, ledger.ErrRefused) {
		t.Fatalf("%v", err)
	}
	h.clock.Pass(30 * 24 * time.Hour) // December
	if err := pay(5, 1_000_000); err != nil {
		t.Fatalf("in the next month: %v", err)
	}
	if n := h.record.count(t, journal.TypeControl); n != 2 { // the one that was made is on record where the epoch begins
		t.Errorf("%d cost controls are on record", n)
	}
}

// TestTopUpWithCredit: where the credit is enough for the raised budget a top-up makes no other grant, which would cost the lease in use.
func TestTopUpWithCredit(t *testing.T) {
	h := newHost(t)
	s := h.open(t, h.operator.Key, 0)
	if err := s.Begin(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.TopUp(t.Context(), 1); err != nil { // before any call: makes a grant for the whole budget of development, and that
		t.Fatal(err)
	}
	if status, err := s.Credit(t.Context()); err != nil || status.Left+status.Open != 20_000_001 {
		t.Errorf("%+v, %v", status, err)
	}
	if err := s.Reserve(t.Context(), call(1, 100)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.InstallSource(t.Context(), []byte("{version: 9, time_zone: UTC, monthly_budget_usd: 1}")); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		more  cost.Amount
		grant uint64
	}{{1_000_000, 1}, {100_000_000, 2}} {
		if _, err := s.TopUp(t.Context(), step.more); err != nil {
			t.Fatal(err)
		}
		if status, err := s.Credit(t.Context()); err != nil || status.Grant.Version != step.grant {
			t.Errorf("after %s more: %+v, %v", step.more, status.Grant, err)
		}
	}
}

// TestPause: a call without money waits for an operator, goes on with a top-up, and is refused when nobody comes; a client that goes ends the
// wait, and so many may wait.
func TestPause(t *testing.T) {
	h := newHost(t)
	s := h.open(t, h.operator.Key, time.Hour)
	if err := s.Begin(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.InstallSource(t.Context(), []byte("{version: 2, time_zone: UTC, monthly_budget_usd: 1, on_exhausted: pause}")); err != nil {
		t.Fatal(err)
	}
	waits := func(n int) {
		t.Helper()
		for s.Paused() != n {
			if t.Context().Err() != nil {
				t.Fatalf("%d wait", s.Paused())
			}
			time.Sleep(time.Millisecond)
		}
	}
	told := make(chan error, 16)
	s.opts.Waits = func(_ *ledger.Call, reason error) { told <- reason }
	ended := make(chan error, 1)
	go func() { ended <- s.Reserve(t.Context(), call(1, 2_000_000)) }()
	waits(1)
	if reason := <-told; !errors.Is(reason, ledger.ErrRefused) {
		t.Errorf("the operator is told: %v", reason)
	}
	if _, err := s.TopUp(t.Context(), 3_000_000); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after a top-up: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- s.Reserve(ctx, call(2, 9_000_000)) }()
	waits(1)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a client that went: %v", err)
	}
	waits(0)
	go func() { ended <- s.Reserve(t.Context(), call(3, 3_000_000)) }() // what is held is given back by somebody else
	waits(1)
	if err := s.Withdraw(t.Context(), journal.RequestID{1}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after a withdrawal: %v", err)
	}
	s.opts.Pause = time.Millisecond
	var refused *ledger.Refusal
	if err := s.Reserve(t.Context(), call(4, 9_000_000)); !errors.As(err, &refused) || refused.What != ledger.Budget {
		t.Errorf("nobody came: %v", err)
	}
	s.opts.Pause = time.Hour
	if !s.pause(MaxPaused) {
		t.Fatal("as many as may wait")
	}
	if err := s.Reserve(t.Context(), call(5, 9_000_000)); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("one more: %v", err)
	}
	s.pause(-MaxPaused)
	if _, err := s.InstallSource(t.Context(), []byte("{version: 9, time_zone: UTC, monthly_budget_usd: 1}")); err != nil {
		t.Fatal(err)
	}
	if err := s.Reserve(t.Context(), call(6, 9_000_000)); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("refuse, not pause: %v", err)
	}
}
