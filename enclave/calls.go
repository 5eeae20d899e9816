package enclave

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/gateway"
	"github.com/raypher/raypher/internal/carrier"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Bounds of what agents say to the gateway. The parent has its own, for each agent.
const (
	MaxCalling      = 2048             // connections of agents at once; further ones are closed
	callHeaderTime  = 30 * time.Second // for the headers of a request, and what a new connection begins with
	callIdleTime    = 3 * time.Minute  // between requests; clients that keep connections for longer try again
	callHeaderBytes = 32 << 10
)

// calls serves connections of agents.
type calls struct {
	server  *http.Server
	gateway *gateway.Gateway
	handed  *handed
}

func (s *Server) openCalls() {
	g := gateway.New(gateway.Options{
		Ledger: s.spends, Providers: s.spends.Providers, Rates: s.spends.Rates, Key: s.secrets.Secret,
		Runs: s.runOf, Dial: s.dialProvider, Roots: gateway.PublicRoots(), Observe: s.ended, Log: s.opts.Log,
	})
	s.calls = &calls{gateway: g, handed: newHanded()}
	s.calls.server = &http.Server{
		Handler: g, ReadHeaderTimeout: callHeaderTime, IdleTimeout: callIdleTime, MaxHeaderBytes: callHeaderBytes,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
		ErrorLog:    slog.NewLogLogger(s.opts.Log.Handler(), slog.LevelDebug), // what agents do wrong
	}
}

// run serves until close.
func (c *calls) run() { _ = c.server.Serve(c.handed) } // its error is that it was closed

// close ends every connection of an agent. Calls under way are cut: what they hold stays held.
func (c *calls) close() {
	c.server.Close()
	c.gateway.Close()
}

// runOf says whose placeholder key it is. The parent has said whose connection it is, and both must agree.
func (s *Server) runOf(ctx context.Context, key string) (gateway.Run, bool) {
	conn, ok := ctx.Value(connKey{}).(*agentConn)
	if !ok {
		return gateway.Run{}, false
	}
	run, ok := s.runs.Find(key)
	if !ok || run.ID != conn.agent {
		return gateway.Run{}, false
	}
	calls := gateway.Run{Namespace: run.Namespace, Agent: run.Agent, Run: run.ID}
	if budget := cost.Amount(run.Budget); budget > 0 {
		calls.Budget = &budget
	}
	return calls, true
}

// dialProvider connects to a provider of the cost control in force, and to nothing else.
func (s *Server) dialProvider(ctx context.Context, _, address string) (net.Conn, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(s.providers(), func(p *enclavev1.Provider) bool { return p.Address == address }) {
		return nil, fmt.Errorf("dial %.300s: no provider of the cost control in force is there", address)
	}
	return s.dial.DialCarried(ctx, host, uint16(port))
}

// providers are those of the cost control in force, by name.
func (s *Server) providers() []*enclavev1.Provider {
	var all []*enclavev1.Provider
	for name, p := range s.spends.Providers() {
		if address, err := p.Address(); err == nil {
			all = append(all, &enclavev1.Provider{Name: name, Kind: string(p.Kind), Address: address})
		}
	}
	slices.SortFunc(all, func(a, b *enclavev1.Provider) int { return strings.Compare(a.Name, b.Name) })
	return all
}

type connKey struct{}

// handed is a listener of connections that were accepted elsewhere.
type handed struct {
	conns  chan net.Conn
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newHanded() *handed {
	return &handed{conns: make(chan net.Conn), places: make(chan struct{}, MaxCalling), closed: make(chan struct{})}
}

// hand gives it a connection; one that finds no place is closed.
func (h *handed) hand(c net.Conn) {
	select {
	case h.places <- struct{}{}:
	default:
		c.Close()
		return
	}
	conn := &agentConn{Conn: c, free: sync.OnceFunc(func() { <-h.places })}
	select {
	case h.conns <- conn:
	case <-h.closed:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (h *handed) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handed) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr implements net.Listener.
func (h *handed) Addr() net.Addr { return handedAddr{} }

// handedAddr says no more than where such connections come from.
type handedAddr struct{}

func (handedAddr) Network() string { return "tcp" }
func (handedAddr) String() string  { return "agents through the parent" }

// agentConn is a connection of an agent. Whose it is stands in front of what the agent says; it is read with it, by the one goroutine that
// reads the first request, under the time that this may take.
type agentConn struct {
	net.Conn
	agent string // set when the first request was read
	free  func()
}

// Read implements net.Conn.
func (c *agentConn) Read(p []byte) (int, error) {
	if c.agent == "" {
		agent, err := carrier.ReadAgent(c.Conn)
		if err != nil {
			return 0, err
		}
		c.agent = agent
	}
	return c.Conn.Read(p)
}

// Close implements net.Conn.
func (c *agentConn) Close() error {
	c.free()
	return c.Conn.Close()
}
