// Package gateway is where agents reach the gateway for models: raypherd listens on loopback, finds out whose connection it is, and
// carries its bytes to the enclave, which reads them (package enclave/gateway). What is said is not read here, but the enclave is told
// whose it is: the key that the agent shows has to be that agent's.
//
// There are no credentials on a loopback port. The network guard records which agent's packets come from where, and who is no
// recorded agent is refused, as at the forwarder for DNS.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/raypher/raypher/parent/splice"
)

// Bounds.
const (
	MaxConnections    = 1792 // of all agents; below what the enclave takes (enclave.MaxCalling)
	MaxConnectionsOne = 1024 // of one agent
	openTimeout       = 15 * time.Second
	lingerTimeout     = time.Second // for who is refused to read why
	maxRefused        = 128         // connections at once whose owner is told why; further ones are closed
	acceptPause       = 50 * time.Millisecond
)

// Options of a server.
type Options struct {
	// Agent says whose connection it is by its two ends.
	Agent func(local, remote netip.AddrPort) (id string, ok bool)
	// Open opens a connection to the enclave for an agent.
	Open func(ctx context.Context, agent string) (net.Conn, error)
	Log  *slog.Logger
}

// Server is a gateway whose socket is open.
type Server struct {
	listener net.Listener
	options  Options
	stop     context.CancelFunc
	ctx      context.Context
	serving  sync.WaitGroup

	mu      sync.Mutex
	all     int
	refused int            // that are being told why
	open    map[string]int // by agent
}

// Listen opens the socket at a loopback address, so that the port is known before the guard is loaded.
func Listen(address string) (*Server, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w: give it as 127.0.0.1:50052", err)
	}
	if a := at.Addr(); a != netip.AddrFrom4([4]byte{127, 0, 0, 1}) && a != netip.IPv6Loopback() {
		return nil, fmt.Errorf("gateway on %s: agents reach 127.0.0.1 and ::1 alone", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w: another port goes with --gateway", err)
	}
	s := &Server{listener: l, open: map[string]int{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Address is the socket's.
func (s *Server) Address() netip.AddrPort { return s.listener.Addr().(*net.TCPAddr).AddrPort() }

// Bind sets what needs the loaded guard and the enclave; call it before Serve and Inside.
func (s *Server) Bind(o Options) { s.options = o }

// Serve carries connections until ctx ends, and then ends them.
func (s *Server) Serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.Close)()
	err := s.accept(s.listener, func(c net.Conn) (string, bool) {
		return s.options.Agent(addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()))
	})
	s.Close()
	s.serving.Wait()
	return err
}

// Close ends every connection and closes the socket.
func (s *Server) Close() {
	s.stop()
	s.listener.Close()
}

// Inside carries what comes at sockets that lie in the network namespace of one agent: whoever connects there is that agent. The sockets are
// closed, and connections ended, when stop returns.
func (s *Server) Inside(listeners []net.Listener, agent string) (stop func()) {
	var accepting sync.WaitGroup
	for _, l := range listeners {
		accepting.Go(func() { _ = s.accept(l, func(net.Conn) (string, bool) { return agent, true }) }) // it ends when its socket is closed
	}
	return func() {
		for _, l := range listeners {
			l.Close()
		}
		accepting.Wait()
	}
}

func (s *Server) accept(l net.Listener, whose func(net.Conn) (string, bool)) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("gateway: %w", err)
		}
		if err != nil { // no descriptors or memory are left for one connection: that ends nothing else (accept(2))
			s.options.Log.Warn("gateway: a connection could not be accepted", "reason", err)
			time.Sleep(acceptPause)
			continue
		}
		s.serving.Go(func() {
			defer c.Close()
			s.serve(c, whose)
		})
	}
}

func (s *Server) serve(c net.Conn, whose func(net.Conn) (string, bool)) {
	id, ok := whose(c)
	if !ok {
		s.refuse(c, 403, "Forbidden", "this address serves governed agents only: start the program with raypher run")
		return
	}
	if !s.enter(id) {
		s.refuse(c, 429, "Too Many Requests", "too many connections are open")
		return
	}
	defer s.leave(id)
	opening, opened := context.WithTimeout(s.ctx, openTimeout)
	enclave, err := s.options.Open(opening, id)
	opened()
	if err != nil {
		s.options.Log.Warn("an agent's call of a model is not carried", "agent", id, "reason", err)
		s.refuse(c, 503, "Service Unavailable", "the enclave cannot be reached: raypherd's log says why")
		return
	}
	end := context.AfterFunc(s.ctx, func() {
		c.Close()
		enclave.Close()
	})
	defer end()
	splice.Both(c, enclave)
}

// enter counts a connection in, or says that there are too many.
func (s *Server) enter(agent string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= MaxConnections || s.open[agent] >= MaxConnectionsOne {
		return false
	}
	s.all++
	s.open[agent]++
	return true
}

func (s *Server) leave(agent string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.open[agent]--; s.open[agent] == 0 {
		delete(s.open, agent)
	}
}

// refuse answers as clients of models understand it, without reading what is asked, and lets the other side read it, where not too many
// are refused already.
func (s *Server) refuse(c net.Conn, status int, reason, message string) {
	s.mu.Lock()
	room := s.refused < maxRefused
	if room {
		s.refused++
	}
	s.mu.Unlock()
	if !room {
		return
	}
	defer func() {
		s.mu.Lock()
		s.refused--
		s.mu.Unlock()
	}()
	body := `{"type":"error","error":{"type":"api_error","message":` + strconv.Quote("raypher: "+message) + `}}`
	_ = c.SetDeadline(time.Now().Add(lingerTimeout))
	_, err := fmt.Fprintf(c, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", status, reason, len(body), body)
	if half, ok := c.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c, 1<<20)) // a reset would overtake the answer
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
