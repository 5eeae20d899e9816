package gateway_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/enclave/gateway"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/journal"
)

const (
	secret = "sk-the-provider-key-that-nobody-else-may-see"
	pass   = "raypher-handle-of-the-run"
)

// rates of the one model that has a price: a dollar and four for a million tokens.
var rates = &prices.Rates{Band: prices.Band{Input: 1_000_000, Output: 4_000_000}, Context: 100_000, MaxOutput: 1_000}

// memory is a journal that is durable at once.
type memory struct {
	mu      sync.Mutex
	entries []journal.Entry
	gone    atomic.Bool
	slow    atomic.Pointer[chan struct{}] // entries are durable when it is closed
}

func (m *memory) Attached() bool { return !m.gone.Load() }

func (m *memory) TryAppend(then func(error), entries ...[]byte) (bool, error) {
	m.mu.Lock()
	for _, raw := range entries {
		e, err := journal.Decode(raw)
		if err != nil {
			m.mu.Unlock()
			return false, err
		}
		m.entries = append(m.entries, e)
	}
	m.mu.Unlock()
	if slow := m.slow.Load(); slow != nil {
		go func() { <-*slow; then(nil) }()
		return true, nil
	}
	then(nil)
	return true, nil
}

// provider is a scripted one, with TLS, that remembers what it charged and what it was told.
type provider struct {
	*httptest.Server
	answer  func(w http.ResponseWriter, r *http.Request, body map[string]any)
	charged atomic.Uint64 // micro-dollars
	asked   atomic.Int64

	mu      sync.Mutex
	headers []http.Header
	urls    []string
}

// charge counts what the provider bills for a call.
func (p *provider) charge(input, output uint64) {
	p.charged.Add(rates.Cost(prices.Usage{Input: input, Output: output}))
}

func newProvider(t *testing.T) *provider {
	p := new(provider)
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		p.mu.Lock()
		p.headers, p.urls = append(p.headers, r.Header.Clone()), append(p.urls, r.URL.String())
		p.mu.Unlock()
		body := map[string]any{}
		raw, err := io.ReadAll(r.Body)
		if err == nil && len(raw) > 0 {
			err = json.Unmarshal(raw, &body)
		}
		if err != nil {
			t.Errorf("the provider got %q: %v", raw, err)
		}
		p.answer(w, r, body)
	}))
	p.EnableHTTP2 = true
	p.StartTLS()
	t.Cleanup(p.Close)
	p.answer = p.chat(30, 20)
	return p
}

// chat answers chat completions that used so much.
func (p *provider) chat(input, output uint64) func(http.ResponseWriter, *http.Request, map[string]any) {
	return func(w http.ResponseWriter, _ *http.Request, _ map[string]any) {
		p.charge(input, output)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"choices":[{"message":{"content":"hello"}}],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}`, input, output)
	}
}

// world is a gateway on loopback before a provider, with a real ledger.
type world struct {
	*provider
	journal *memory
	ledger  *ledger.Ledger
	url     string
	dial    func(ctx context.Context, network, address string) (net.Conn, error) // to change it
	kind    cost.Kind
	base    string // URL of the provider
	records chan gateway.Record
	secret  atomic.Value // string: the key, to change it
	log     buffer
}

// buffer is one that several write to.
type buffer struct {
	mu sync.Mutex
	strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Builder.String()
}

// newWorld has a budget in dollars.
func newWorld(t *testing.T, budget string) *world {
	t.Helper()
	w := &world{provider: newProvider(t), journal: new(memory), kind: cost.OpenAI, records: make(chan gateway.Record, 1024)}
	w.secret.Store(secret)
	control, err := cost.Parse("cost_control.yaml", []byte("version: 1\ntime_zone: UTC\nmonthly_budget_usd: "+budget+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	w.base = strings.Replace(w.URL, "127.0.0.1", "example.com", 1) + "/v1" // its certificate is for example.com
	w.ledger = newLedger(t, w.journal, control)
	roots := x509.NewCertPool()
	roots.AddCert(w.Certificate())
	w.dial = new(net.Dialer).DialContext
	g := gateway.New(gateway.Options{
		Ledger: w.ledger,
		Providers: func() map[string]cost.Provider {
			return map[string]cost.Provider{"models": {Kind: w.kind, BaseURL: w.base, Key: "k"}}
		},
		Rates: func(provider, model string) (*prices.Rates, journal.Hash, bool) {
			return rates, journal.Hash{1}, provider == "models" && model == "m"
		},
		Runs: func(_ context.Context, handle string) (gateway.Run, bool) {
			return gateway.Run{Namespace: "research", Agent: "reader", Run: "r1"}, handle == pass
		},
		Key: func(name string) (string, bool) { return w.secret.Load().(string), name == "k" },
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			return w.dial(ctx, network, strings.Replace(address, "example.com", "127.0.0.1", 1))
		},
		Roots: roots, Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Observe: func(r gateway.Record) {
			select {
			case w.records <- r:
			default: // nobody looks
			}
		},
	})
	server := httptest.NewServer(g)
	t.Cleanup(func() { server.Close(); g.Close() })
	w.url = server.URL + "/models"
	return w
}

func newLedger(t *testing.T, j ledger.Journal, control *cost.Control) *ledger.Ledger {
	t.Helper()
	clock := new(leasetest.Clock)
	anchor, err := lease.OpenSoftware(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	operator := leasetest.NewOperator(t)
	l := ledger.New(ledger.Options{
		Journal: j, Control: control, Log: slog.New(slog.DiscardHandler),
		Alarm:  func(a ledger.Alarm) { t.Error("alarm:", a.Words) },
		Leases: lease.Options{State: t.TempDir(), OperatorKeys: [][]byte{operator.Public}, Anchor: anchor, Now: clock.Now},
	})
	t.Cleanup(l.Close)
	grant := leasetest.Grant(t, anchor, 1, 100_000_000, 1_000_000)
	grant.Unit = lease.MicroUSD
	if _, err := l.Install(t.Context(), operator.Sign(t, grant)); err != nil {
		t.Fatal(err)
	}
	return l
}

// ask sends a call as a client does and returns the status and the body.
func (w *world) ask(ctx context.Context, path, body string) (status int, answer string, header http.Header, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	r.Header.Set("Authorization", "Bearer "+pass)
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultTransport.RoundTrip(r) // follows nothing
	if err != nil {
		return 0, "", nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	return response.StatusCode, string(raw), response.Header, err
}

// balance of the host.
func (w *world) balance() ledger.Balance { return w.ledger.Balance(ledger.Host, "") }
