// Package gateway stands between agents and the providers of models: it authenticates the run by the placeholder key that it was
// given, has the ledger hold the most that a call can cost before a byte of it leaves, calls the provider with a key that only this
// side holds, over TLS that ends here, hands the answer on as it comes, and settles what the provider says was used.
//
// It fails closed: what package dialect does not understand is refused, and of a call whose use nobody knows the whole hold stays.
// It must never send what the ledger has not admitted, follow a redirect, or let a provider's key into an answer, an error or a log.
//
// The parent hands connections of agents in; it sees what they say, and can say it in their stead. What it can spend so is what
// the caps of the runs that it starts allow.
package gateway

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/enclave/gateway/dialect"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/journal"
)

// Bounds of one call.
const (
	dialTimeout    = 30 * time.Second
	headersTimeout = 10 * time.Minute // a model that thinks before its first byte
	// After the client has gone, the answer is read on for so long at most, because its end says what was used.
	drainTimeout = 2 * time.Minute
	writeTimeout = 2 * time.Minute  // for a client that does not read: then it counts as gone
	settleTime   = 30 * time.Second // for the journal to take the settlement
	lingerTime   = 2 * time.Second  // for the rest of a request that is refused
	maxHeaders   = 64 << 10         // bytes of an answer's headers
	maxError     = 1 << 20          // bytes of an answer that is an error
)

// Run is who calls, as the visa of the run says.
type Run struct {
	Namespace, Agent, Run string
	Budget                *cost.Amount // of this run alone; nil: what the file says
}

// Ledger admits calls and settles them; see ledger.Ledger.
type Ledger interface {
	Reserve(ctx context.Context, c *ledger.Call) error
	End(ctx context.Context, s *journal.Settlement) error
}

// Rates finds what a model of a provider costs. ok is false for one that may not be called.
type Rates func(provider, model string) (rates *prices.Rates, list journal.Hash, ok bool)

// Options of a gateway. All are needed but Roots and Log.
type Options struct {
	Ledger    Ledger
	Providers func() map[string]cost.Provider // in force now, by name: the first segment of a path
	Rates     Rates
	// Runs says whose placeholder key it is; it must take the same time for each wrong one. ctx is that of the request.
	Runs func(ctx context.Context, handle string) (Run, bool)
	Key  func(name string) (secret string, ok bool) // of a provider
	// Dial opens a connection to a provider; TLS begins on it here.
	Dial  func(ctx context.Context, network, address string) (net.Conn, error)
	Roots *x509.CertPool // of providers that name none; nil: the system's
	// Observe is told of each call that has ended, refused ones too. It must not block; nil: nobody is.
	Observe func(Record)
	Log     *slog.Logger
}

// Gateway is an http.Handler. It is safe for concurrent use.
type Gateway struct {
	opts      Options
	bodies    bodies
	answers   atomic.Int64 // bytes that are kept of them
	transport *http.Transport
}

var (
	// errNotSent means that no byte of a call left.
	errNotSent = errors.New("the provider cannot be reached")
	// errBrokeOff means that an answer that had begun did not come to its end.
	errBrokeOff = errors.New("the provider's answer broke off")
)

// New makes a gateway.
func New(o Options) *Gateway {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{opts: o}
	g.transport = &http.Transport{
		DialTLSContext:         g.dial,
		ResponseHeaderTimeout:  headersTimeout,
		MaxResponseHeaderBytes: maxHeaders,
		DisableCompression:     true, // an answer is metered as it is
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    32,
		IdleConnTimeout:        90 * time.Second,
	}
	return g
}

// dial opens a connection on which a call can be sent. Its errors wrap errNotSent.
func (g *Gateway) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	roots, err := g.roots(address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	conn, err := g.opts.Dial(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	secure := tls.Client(conn, &tls.Config{ServerName: host, RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}})
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	return secure, nil
}

// Close ends connections that nobody uses. Calls under way go on.
func (g *Gateway) Close() { g.transport.CloseIdleConnections() }

// ServeHTTP serves one call: /PROVIDER/ and then the provider's own path.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, path, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	record := &Record{Begun: time.Now()}
	defer g.observe(record)
	providers := g.opts.Providers()
	provider, known := providers[name]
	kind := dialect.OpenAI
	var err error
	switch {
	case len(providers) == 0:
		err = &dialect.Refusal{Reason: dialect.Unavailable, Message: "no cost control is in force, so no model can be called: `raypher spend control` puts one in force"}
	case !known:
		err = &dialect.Refusal{Reason: dialect.NotFound, Message: fmt.Sprintf("there is no provider %.80q: cost_control.yaml names them", name)}
	default:
		kind, record.Provider, record.Kind = dialect.Kind(provider.Kind), name, string(provider.Kind)
		err = g.call(w, r, record, provider, "/"+path)
	}
	if err == nil {
		return
	}
	if errors.Is(err, errBrokeOff) {
		panic(http.ErrAbortHandler) // the client is not to take what it has for all of the answer
	}
	record.refused(err)
	var refusal *dialect.Refusal
	if !errors.As(err, &refusal) {
		if r.Context().Err() == nil { // else the client has gone
			g.opts.Log.Error("gateway", "provider", name, "error", err)
		}
		refusal = &dialect.Refusal{Reason: dialect.Unavailable, Message: "the call could not be made: the enclave's log says why"}
	}
	g.refuse(w, kind, refusal)
}

// call reads, pays and serves a call of a known provider.
func (g *Gateway) call(w http.ResponseWriter, r *http.Request, record *Record, provider cost.Provider, path string) error {
	run, ok := g.opts.Runs(r.Context(), handle(r))
	if !ok {
		return &dialect.Refusal{Reason: dialect.Unauthenticated, Message: "this is not the key of a run that goes on: use the one that `raypher run` put into the environment"}
	}
	record.Run = run
	body, free, err := g.body(w, r, run.Run)
	defer free()
	if err != nil {
		return err
	}
	a, err := g.read(r, record, provider, path, body)
	if err != nil {
		return err
	}
	a.free = free
	return g.serve(w, r, a)
}

func (g *Gateway) refuse(w http.ResponseWriter, kind dialect.Kind, refusal *dialect.Refusal) {
	// The server reads what is left of the request first, and must not wait for what never comes.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingerTime))
	status, header, body := refusal.Response(kind)
	for name, values := range header {
		w.Header()[name] = values
	}
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

// attempt is one call that was understood.
type attempt struct {
	provider string
	kind     dialect.Kind
	url      *url.URL
	method   string
	header   http.Header
	secret   string        // key of the provider
	rates    *prices.Rates // nil: it is free
	call     *dialect.Call
	entry    *ledger.Call
	record   *Record
	free     func() // gives the room of the request back
}

// read understands a request. It spends nothing.
func (g *Gateway) read(r *http.Request, record *Record, provider cost.Provider, path string, body []byte) (*attempt, error) {
	name, run := record.Provider, record.Run
	kind := dialect.Kind(provider.Kind)
	request, err := dialect.Read(kind, r.Method, path, body)
	if err != nil {
		return nil, err
	}
	a := &attempt{provider: name, kind: kind, method: r.Method, record: record}
	record.Stream = request.Stream
	var limits dialect.Limits
	var list journal.Hash
	var ok bool
	if !request.Free {
		if a.rates, list, ok = g.opts.Rates(name, request.Model); !ok {
			return nil, &dialect.Refusal{Reason: dialect.NotFound, Message: fmt.Sprintf("model %.80q has no price, so what it costs cannot be bounded: use one that `raypher prices list` names, or name it under models of provider %s in cost_control.yaml", request.Model, name)}
		}
		record.Model = request.Model // one that has a price: agents cannot invent labels
		limits = dialect.Limits{Window: int64(a.rates.Context), Output: int64(a.rates.MaxOutput), NoLongCache: kind != dialect.Anthropic && !a.rates.LongCache()}
	}
	if a.call, err = request.Prepare(limits); err != nil {
		return nil, err
	}
	if a.rates != nil && kind == dialect.Anthropic && a.call.Bound.CacheWrite {
		a.rates = a.rates.WithCacheWrite()
	}
	secret, ok := g.opts.Key(provider.Key)
	if !ok {
		return nil, &dialect.Refusal{Reason: dialect.Unavailable, Message: fmt.Sprintf("the enclave has no key %q for provider %s: `raypher keys add` gives it one", provider.Key, name)}
	}
	if a.url, err = target(kind, provider.BaseURL, path, r.URL.Query()); err != nil {
		return nil, err
	}
	a.header, a.secret = upstreamHeader(kind, r.Header, secret), secret
	if a.rates != nil {
		keepWindow(a.header, a.rates.Context)
	}
	if a.rates == nil {
		return a, nil
	}
	a.entry = &ledger.Call{
		Namespace: run.Namespace, Agent: run.Agent, Run: run.Run, Provider: name, Model: request.Model, Budget: run.Budget, Prices: list,
		Worst:  cost.Amount(a.rates.Worst(uint64(a.call.Bound.Input), uint64(a.call.Bound.Output))),
		Tokens: uint64(a.call.Bound.Input + a.call.Bound.Output),
	}
	record.Worst = a.entry.Worst
	if _, err := rand.Read(a.entry.ID[:]); err != nil {
		return nil, err
	}
	return a, nil
}

// refusalOf says in a provider's words what the ledger refused.
func refusalOf(err error) error {
	var refused *ledger.Refusal
	switch {
	case errors.As(err, &refused) && refused.What != ledger.Budget && refused.What != ledger.Closed && !refused.Refill.IsZero():
		return &dialect.Refusal{Reason: dialect.RateLimited, Message: err.Error(), RetryAfter: max(time.Second, time.Until(refused.Refill)), Cause: err}
	case errors.Is(err, ledger.ErrRefused), errors.Is(err, lease.ErrExhausted): // of the budget, or of what an operator has granted
		return &dialect.Refusal{Reason: dialect.Exhausted, Message: err.Error(), Cause: err}
	case errors.Is(err, context.Canceled):
		return err
	default:
		return &dialect.Refusal{Reason: dialect.Unavailable, Message: "nothing can be spent now: " + err.Error(), Cause: err}
	}
}
