// Package metered is an enclave's gateway with a real ledger, on a real journal with the software signer, before a scripted provider:
// in one process, over loopback, with TLS to the provider. Tests of clients and benchmarks share it.
package metered

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/enclave/gateway"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/test/provider"
)

// Handle is the placeholder key of the run, Secret the key at the provider.
const (
	Handle = "raypher-handle-of-the-run"
	Secret = "sk-the-provider-key-that-nobody-else-may-see"
)

// Rates of every model: a dollar and four for a million tokens, so that a token costs one and four micro-dollars.
var Rates = &prices.Rates{Band: prices.Band{Input: 1_000_000, Output: 4_000_000}, Context: 200_000, MaxOutput: 32_000}

// Options of a world. All may be left out.
type Options struct {
	Budget   string // dollars of the host's month; empty: 100
	Control  string // more lines of cost_control.yaml
	Provider provider.Options
	// At is where a provider runs that is not the world's own; nil: one is made.
	At *At
	// Dial stands between gateway and provider, as the parent does; address is the provider's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Log  *slog.Logger
	// Alarms: the ledger may raise some.
	Alarms bool
}

// At is a provider elsewhere.
type At struct {
	Address string
	Roots   *x509.CertPool
}

// World is what a test has to itself.
type World struct {
	URL      string             // of the gateway, without a provider's name
	Address  string             // the same as host:port
	Provider *provider.Provider // nil where it is elsewhere
	Upstream string             // address of the provider
	Ledger   *ledger.Ledger
	Gateway  *gateway.Gateway
	Alarms   atomic.Int64

	t        testing.TB
	refusals refusals
}

// Open makes a world and takes it away at the end of the test.
func Open(t testing.TB, o Options) *World {
	t.Helper()
	if o.Budget == "" {
		o.Budget = "100"
	}
	if o.Provider.Rates == nil {
		o.Provider.Rates = func(string) (*prices.Rates, bool) { return Rates, true }
	}
	if o.Provider.Key == "" {
		o.Provider.Key = Secret
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	w := &World{t: t}
	roots := w.openProvider(o)
	control, err := cost.Parse("cost_control.yaml", []byte("version: 1\ntime_zone: UTC\nmonthly_budget_usd: "+o.Budget+"\n"+o.Control))
	if err != nil {
		t.Fatal(err)
	}
	w.openLedger(control, o)
	_, port, err := net.SplitHostPort(w.Upstream)
	if err != nil {
		t.Fatal(err)
	}
	w.Gateway = gateway.New(w.options(o, "https://provider.test:"+port, roots))
	server := httptest.NewServer(w.refusals.around(w.Gateway))
	t.Cleanup(func() { server.Close(); w.Gateway.Close() })
	w.URL, w.Address = server.URL, server.Listener.Addr().String()
	return w
}

func (w *World) openProvider(o Options) (roots *x509.CertPool) {
	if o.At != nil {
		w.Upstream = o.At.Address
		return o.At.Roots
	}
	p, err := provider.New(o.Provider)
	if err != nil {
		w.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = p.Serve(listener) // until the listener is closed
	}()
	w.t.Cleanup(func() { listener.Close(); <-served })
	w.Provider, w.Upstream = p, listener.Addr().String()
	return p.Roots()
}

// options are a gateway's: one scripted provider under the name of each kind.
func (w *World) options(o Options, base string, roots *x509.CertPool) gateway.Options {
	providers := map[string]cost.Provider{
		"openai":     {Kind: cost.OpenAI, BaseURL: base + "/v1", Key: "k"},
		"anthropic":  {Kind: cost.Anthropic, BaseURL: base, Key: "k"},
		"gemini":     {Kind: cost.Gemini, BaseURL: base, Key: "k"},
		"compatible": {Kind: cost.Compatible, BaseURL: base + "/v1", Key: "k"},
	}
	return gateway.Options{
		Ledger:    w.Ledger,
		Providers: func() map[string]cost.Provider { return providers },
		Rates: func(_, model string) (*prices.Rates, journal.Hash, bool) {
			rates, ok := o.Provider.Rates(model)
			return rates, journal.Hash{1}, ok
		},
		Runs: func(_ context.Context, handle string) (gateway.Run, bool) {
			return gateway.Run{Namespace: "research", Agent: "reader", Run: "r1"}, handle == Handle
		},
		Key: func(name string) (string, bool) { return Secret, name == "k" },
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return o.Dial(ctx, network, strings.Replace(address, "provider.test", "127.0.0.1", 1))
		},
		Roots: roots,
		Log:   o.Log,
	}
}

// Spent waits until nothing is held, as the ledger is told after an answer, and returns what counts as spent.
func (w *World) Spent() cost.Amount {
	w.t.Helper()
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if b := w.Ledger.Balance(ledger.Host, ""); b.Held == 0 {
			return b.Spent
		}
	}
	w.t.Fatalf("calls are not settled: %+v", w.Ledger.Balance(ledger.Host, ""))
	return 0
}

// Agree checks that what the ledger counts as spent is what the provider has charged.
func (w *World) Agree() {
	w.t.Helper()
	if spent, account := w.Spent(), w.Provider.Account(); spent != account.Charged {
		w.t.Errorf("%s counts as spent, the provider charged %s for %d calls", spent, account.Charged, account.Calls)
	}
}

// Request makes a call of a provider's path, with the run's key.
func (w *World) Request(ctx context.Context, path, body string) *http.Request {
	w.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+Handle)
	r.Header.Set("Content-Type", "application/json")
	return r
}
