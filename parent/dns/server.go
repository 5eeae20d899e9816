package dns

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"

	"github.com/raypher/raypher/parent/dns/hosts"
)

const (
	answerTimeout  = 4 * time.Second
	maxConnections = 256 // TCP, for each address family
	maxPending     = 512 // questions being answered, of all agents
	maxPendingOne  = 64  // of one agent
	maxDatagram    = 1232
)

// Server is a forwarder whose sockets are open. Its methods but Serve may be called at any time before Serve.
type Server struct {
	options   Options
	port      uint16
	servers   []*dns.Server
	upstreams *upstreams
	hosts     *hosts.File
	names     indexes
	limits    *limits
	reports   *reports

	mu      sync.Mutex
	pending map[uint64]int // by agent
	all     int
}

// Listen opens the sockets, so that the port is known before the guard is loaded.
func Listen(o Options) (*Server, error) {
	s := &Server{options: o, pending: map[uint64]int{}, limits: newLimits(), hosts: hosts.Open(cmp.Or(o.Hosts, hosts.Path))}
	var err error
	if s.upstreams, err = newUpstreams(o.Upstreams, cmp.Or(o.ResolvConf, resolvConf)); err != nil {
		return nil, err
	}
	s.options.Timeout = cmp.Or(o.Timeout, answerTimeout)
	s.reports = newReports(o.Report)
	if err := s.openSame(); err != nil {
		return nil, fmt.Errorf("dns forwarder: %w", err)
	}
	return s, nil
}

// maxPorts is how many ports that the kernel offers are tried.
const maxPorts = 512

// openSame opens the one port for UDP and TCP on each address. The kernel offers one that is free for UDP on the first of them; it
// may be taken on the others. The sockets of failed attempts stay open until one succeeds, so that no port is offered twice.
func (s *Server) openSame() error {
	var failed []*dns.Server
	defer func() { shut(failed) }()
	for range maxPorts {
		err := s.open()
		if err == nil {
			return nil
		}
		none := len(s.servers) == 0 // not even the first socket could be opened: no port is left
		failed, s.servers = append(failed, s.servers...), nil
		switch {
		case errors.Is(err, syscall.EADDRINUSE) && s.options.Port != 0:
			return fmt.Errorf("%w: choose another with --dns-port, or leave it out for one that is free", err)
		case !errors.Is(err, syscall.EADDRINUSE) || none:
			return err
		}
	}
	return fmt.Errorf("none of %d ports is free for UDP and TCP on every loopback address", maxPorts)
}

// open opens UDP and TCP on 127.0.0.1 and, where there is one, on [::1].
func (s *Server) open() error {
	s.port, s.servers = s.options.Port, nil
	for _, host := range []string{"127.0.0.1", "::1"} {
		u, err := net.ListenPacket("udp", s.address(host))
		if host == "::1" && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)) {
			return nil
		}
		if err != nil {
			return err
		}
		s.port = uint16(u.LocalAddr().(*net.UDPAddr).Port)
		s.serve(&dns.Server{PacketConn: u, UDPSize: dns.DefaultMsgSize})
		l, err := net.Listen("tcp", s.address(host))
		if err != nil {
			return err
		}
		s.serve(&dns.Server{Listener: fair(netutil.LimitListener(l, maxConnections), s.whose)})
	}
	return nil
}

func (s *Server) address(host string) string {
	return net.JoinHostPort(host, strconv.Itoa(int(s.port)))
}

func (s *Server) serve(d *dns.Server) {
	d.Handler = dns.HandlerFunc(s.handle)
	d.ReadTimeout, d.WriteTimeout = 5*time.Second, 5*time.Second
	d.IdleTimeout = func() time.Duration { return 10 * time.Second }
	s.servers = append(s.servers, d)
}

func (s *Server) shut() { shut(s.servers) }

func shut(servers []*dns.Server) {
	for _, d := range servers {
		if d.PacketConn != nil {
			d.PacketConn.Close()
		}
		if d.Listener != nil {
			d.Listener.Close()
		}
	}
}

// Port is the port that was opened.
func (s *Server) Port() uint16 { return s.port }

// Bind sets the functions that need the loaded guard; call it before Serve.
func (s *Server) Bind(lookup func(proto uint8, local, remote netip.AddrPort) (Agent, bool),
	grant func(cgroupID uint64, name string, addr netip.Addr, port uint16, ttl time.Duration) error) {
	s.options.Lookup, s.options.Grant = lookup, grant
}

// Serve answers until ctx ends; the sockets are closed then.
func (s *Server) Serve(ctx context.Context) error {
	if s.options.Lookup == nil || s.options.Grant == nil {
		s.shut()
		return errors.New("dns forwarder: Lookup and Grant are not set")
	}
	failed := make(chan error, len(s.servers))
	var running sync.WaitGroup
	for _, d := range s.servers {
		running.Go(func() { failed <- d.ActivateAndServe() })
	}
	flushed, stop := context.WithCancel(context.Background())
	running.Go(func() { s.reports.run(flushed) })
	running.Go(func() { s.forget(flushed) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("dns forwarder: %w", err)
	}
	last, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, d := range s.servers {
		_ = d.ShutdownContext(last) // one that has not started yet is closed below
	}
	s.shut()
	stop()
	running.Wait()
	return err
}

// forget drops what is known of agents that are gone, now and then.
func (s *Server) forget(ctx context.Context) {
	tick := time.NewTicker(agentQuiet / 4)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			s.limits.forget(now)
		case <-ctx.Done():
			return
		}
	}
}

// handle answers one question.
func (s *Server) handle(w dns.ResponseWriter, r *dns.Msg) {
	proto := uint8(syscall.IPPROTO_UDP)
	if _, ok := w.RemoteAddr().(*net.TCPAddr); ok {
		proto = syscall.IPPROTO_TCP
	}
	agent, ok := s.options.Lookup(proto, addrPort(w.LocalAddr()), addrPort(w.RemoteAddr()))
	s.handleOf(w, r, agent, ok)
}

// handleOf answers a question of an agent; ok false: it is nobody's.
func (s *Server) handleOf(w dns.ResponseWriter, r *dns.Msg, agent Agent, ok bool) {
	protocol := "udp"
	if _, stream := w.RemoteAddr().(*net.TCPAddr); stream {
		protocol = "tcp"
	}
	if !ok {
		s.write(w, r, refusal(r, "not an agent"), protocol)
		return
	}
	if !s.enter(agent.CgroupID) {
		s.write(w, r, failure(r), protocol)
		return
	}
	defer s.leave(agent.CgroupID)
	ctx, cancel := context.WithTimeout(context.Background(), s.options.Timeout)
	defer cancel()
	s.write(w, r, s.answer(ctx, agent, r, protocol), protocol)
}

// enter counts a question in, or says that there are too many at once.
func (s *Server) enter(agent uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxPending || s.pending[agent] >= maxPendingOne {
		return false
	}
	s.all++
	s.pending[agent]++
	return true
}

func (s *Server) leave(agent uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.pending[agent]--; s.pending[agent] == 0 {
		delete(s.pending, agent)
	}
}

// write sends an answer, cut to what the asker takes over UDP (RFC 6891).
func (s *Server) write(w dns.ResponseWriter, r, m *dns.Msg, protocol string) {
	if protocol == "udp" {
		size := dns.MinMsgSize
		if opt := r.IsEdns0(); opt != nil {
			size = min(max(size, int(opt.UDPSize())), maxDatagram)
		}
		m.Truncate(size)
	}
	_ = w.WriteMsg(m) // an asker that is gone needs no answer
}

func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.UDPAddr:
		return unmap(a.AddrPort())
	case *net.TCPAddr:
		return unmap(a.AddrPort())
	}
	return netip.AddrPort{}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
