// Package provider is a provider of models that follows what it is told and charges for it: a server with TLS that speaks chat
// completions, responses, messages and generateContent, streamed and not, and keeps an account in micro-dollars of what it has served by a
// price list, as a provider does whose bill comes at the end of the month. Tests compare that account with a cap.
//
// It charges like the strictest provider: as soon as it works on a call, whether or not anybody hears the answer to its end, and also
// where it says nothing of usage or answers with 500. It charges nothing for what it refuses with 400 to 499, 503 and 529.
package provider

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/examples/scripted"
)

// maxBody bounds a request, in bytes.
const maxBody = 64 << 20

// Options of a provider.
type Options struct {
	// Key is the one that it takes, in whichever header a protocol has for it; empty: any.
	Key string
	// Rates finds what a model costs; ok is false for one that it does not have. nil: every model of the shipped price list.
	Rates func(model string) (rates *prices.Rates, ok bool)
	// Reply says what it answers, and with which fault; nil: Obey. It must be safe for concurrent use.
	Reply func(*scripted.Turn) (scripted.Reply, Fault)
	// Names are the host names of its certificate; nil: provider.test.
	Names []string
}

// Account is what a provider has served.
type Account struct {
	Charged  cost.Amount // micro-dollars
	Calls    int         // that were charged
	Refused  int         // that were not
	Requests int         // of all kinds
}

// Provider is an http.Handler. It is safe for concurrent use.
type Provider struct {
	options Options
	keys    tls.Certificate
	roots   *x509.CertPool
	root    []byte // PEM

	mu      sync.Mutex
	account Account
	seen    []Request
}

// Request is one that a provider got.
type Request struct {
	Method, URL string
	Header      http.Header
	Body        []byte
}

// maxSeen is how many requests are remembered, of each the first maxSeenBody bytes.
const (
	maxSeen     = 256
	maxSeenBody = 256 << 10
)

// New makes a provider with a certificate of its own.
func New(o Options) (*Provider, error) {
	if o.Names == nil {
		o.Names = []string{"provider.test"}
	}
	if o.Reply == nil {
		o.Reply = Obey
	}
	if o.Rates == nil {
		list, err := prices.Snapshot(cost.ParseRate)
		if err != nil {
			return nil, err
		}
		o.Rates = func(model string) (*prices.Rates, bool) {
			for i := range list.Models {
				if list.Models[i].Name == model {
					return &list.Models[i].Rates, true
				}
			}
			return nil, false
		}
	}
	p := &Provider{options: o}
	return p, p.certify()
}

// Serve serves with TLS until the listener is closed; its error is that of http.Server.
func (p *Provider) Serve(listener net.Listener) error {
	server := &http.Server{
		Handler:           p,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{p.keys}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // what callers do wrong is theirs to say
	}
	return server.ServeTLS(listener, "", "")
}

// Roots vouch for its certificate; RootPEM is the same for programs.
func (p *Provider) Roots() *x509.CertPool { return p.roots }

// RootPEM is the certificate of the authority that vouches for it.
func (p *Provider) RootPEM() []byte { return p.root }

// Account returns what was served until now.
func (p *Provider) Account() Account {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.account
}

// Seen are the requests that it got, the first ones where they are many.
func (p *Provider) Seen() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Request(nil), p.seen...)
}

func (p *Provider) book(change func(*Account)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.account)
}

// ServeHTTP answers calls of models, /models, /messages/count_tokens and :countTokens, and what a test asks: /account.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/account" {
		writeJSON(w, http.StatusOK, p.Account())
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return // it broke off, or is too large
	}
	p.remember(r, body)
	protocol, turn, known, err := scripted.Decode(r.Method, r.URL.Path, body)
	switch {
	case !p.authentic(r):
		p.refuse(w, protocol, http.StatusUnauthorized, "invalid_api_key", "Incorrect API key provided")
	case err != nil:
		p.refuse(w, protocol, http.StatusBadRequest, "invalid_request", err.Error())
	case known:
		p.serve(w, r, protocol, turn, len(body))
	case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/models"):
		writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": []any{}})
	case strings.HasSuffix(r.URL.Path, "/messages/count_tokens"):
		writeJSON(w, http.StatusOK, map[string]any{"input_tokens": tokens(len(body))})
	case strings.HasSuffix(r.URL.Path, ":countTokens"):
		writeJSON(w, http.StatusOK, map[string]any{"totalTokens": tokens(len(body))})
	default:
		p.refuse(w, protocol, http.StatusNotFound, "not_found", "no such route")
	}
}

func (p *Provider) remember(r *http.Request, body []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.account.Requests++
	if len(p.seen) < maxSeen {
		p.seen = append(p.seen, Request{r.Method, r.URL.String(), r.Header.Clone(), append([]byte(nil), body[:min(len(body), maxSeenBody)]...)})
	}
}

func (p *Provider) authentic(r *http.Request) bool {
	if p.options.Key == "" {
		return true
	}
	bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	for _, key := range []string{bearer, r.Header.Get("X-Api-Key"), r.Header.Get("X-Goog-Api-Key")} {
		if key == p.options.Key {
			return true
		}
	}
	return false
}

// tokensOfImage is what an image costs here, more than its bytes would.
const tokensOfImage = 1500

// tokens is a count that no byte bound is below: about as English has it.
func tokens(bytes int) int { return 1 + bytes/4 }

// serve answers a call, and charges it.
func (p *Provider) serve(w http.ResponseWriter, r *http.Request, protocol *scripted.Protocol, turn *scripted.Turn, size int) {
	rates, ok := p.options.Rates(turn.Model)
	if !ok {
		p.refuse(w, protocol, http.StatusNotFound, "model_not_found", fmt.Sprintf("the model %q does not exist", turn.Model))
		return
	}
	reply, fault := p.options.Reply(turn)
	if status, header := fault.refusal(); status != 0 {
		for name, value := range header {
			w.Header().Set(name, value)
		}
		p.refuse(w, protocol, status, "refused", "the provider was told to refuse")
		return
	}
	if reply.Usage == nil {
		reply.Usage = &scripted.Usage{Input: tokens(size) + tokensOfImage*turn.Images, Output: tokens(len(reply.Text) + 40*len(reply.Calls))}
	}
	if turn.Most > 0 {
		reply.Usage.Output = min(reply.Usage.Output, turn.Most)
		reply.Usage.Reasoning = min(reply.Usage.Reasoning, reply.Usage.Output)
	}
	p.charge(rates, reply.Usage)
	if fault == Fails {
		writeError(w, protocol, http.StatusInternalServerError, "server_error", "the provider was told to fail")
		return
	}
	if fault == Silent {
		reply.Usage = nil
	}
	reply.Late = reply.Late || fault == Late
	w.Header().Set("Content-Type", turn.ContentType())
	out := &wire{w: w, flush: http.NewResponseController(w), gone: r.Context().Done(), fault: fault}
	protocol.Write(out, turn, &reply)
}

func (p *Provider) charge(rates *prices.Rates, u *scripted.Usage) {
	amount := cost.Amount(rates.Cost(prices.Usage{
		Input: uint64(u.Input), CachedInput: uint64(u.CacheRead), CacheWrite: uint64(u.CacheWrite),
		Output: uint64(u.Output - u.Reasoning), Reasoning: uint64(u.Reasoning),
	}))
	p.book(func(a *Account) { a.Charged += amount; a.Calls++ })
}

func (p *Provider) refuse(w http.ResponseWriter, protocol *scripted.Protocol, status int, code, message string) {
	p.book(func(a *Account) { a.Refused++ })
	writeError(w, protocol, status, code, message)
}

// writeError writes an error in the words of a protocol; nil: OpenAI's.
func writeError(w http.ResponseWriter, protocol *scripted.Protocol, status int, code, message string) {
	name := "chat"
	if protocol != nil {
		name = protocol.Name
	}
	var body any
	switch name {
	case "messages":
		body = map[string]any{"type": "error", "error": map[string]any{"type": code, "message": message}, "request_id": "req_scripted"}
	case "generate":
		body = map[string]any{"error": map[string]any{"code": status, "message": message, "status": strings.ToUpper(code)}}
	default:
		body = map[string]any{"error": map[string]any{"message": message, "type": code, "code": code, "param": nil}}
	}
	writeJSON(w, status, body)
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // who asked may have gone
}
