// Package dns is raypherd's DNS forwarder. The network guard sends all DNS traffic of agents here, whatever server they
// asked; it serves only them, resolves only the names that the asking agent's permit grants, and opens the answered
// addresses in the guard before it answers. A name that is not granted never leaves the host: the query itself may carry
// what it would leak.
//
// What is not granted is answered REFUSED (RFC 1035 section 4.1.1: "the name server refuses to perform the specified
// operation for policy reasons"), with the extended error Prohibited (RFC 8914); nothing is said of whether it exists.
// Of a granted name, A and AAAA are answered, other types with an empty answer; answers are built from the addresses alone,
// never copied. An address that lies on this host or is known to hold a cloud's secrets is not opened by a name
// (rebinding): the permit has to grant it as an address. One of a private network is opened by a rule that says private.
// How much a program can say by the names that it asks for below a wildcard is limited (limits.go).
package dns

import (
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
	Name     string // lower case, no trailing dot, unprintable bytes as \\DDD, at most 1,016 bytes; empty: see OtherNames
	Type     string // A, AAAA, TXT ...
	Protocol string // udp, tcp
	Reason   string // one of the reasons below, or which address an answer must not open
	Mode     policy.Mode
	Count    uint32
}

// Observation is a question that would have been refused, and what it was answered.
type Observation struct {
	CgroupID uint64
	Name     string // as in Query
	Type     string
	Answers  []Observed
}

// Observed is one address of an answer. Closed: a name must not open it, the permit has to grant it as an address.
type Observed struct {
	Address netip.Addr
	Closed  bool
}

// Reasons of a Query.
const (
	NotGranted = "name not granted"

	TooLong      = "too long below a wildcard: it may carry data"
	TooRandom    = "letters drawn by lot below a wildcard: they may carry data"
	TooManyNames = "too many different names below a wildcard: they may carry data"
	TooMany      = "too many questions"

	OtherNames = "more names than are reported one by one" // Query stands for Count questions with names of their own
)

// Options of a forwarder.
type Options struct {
	// Asked is told of each address of a name for which a person is asked, before it is answered. It is not opened.
	Asked func(cgroupID uint64, name string, addr netip.Addr)
	// Port on 127.0.0.1 and [::1], UDP and TCP; 0: one that is free on all four (see Server.Port).
	Port uint16
	// Upstreams are resolvers as address or address:port. Empty: those in /etc/resolv.conf, read again when it changes.
	Upstreams []string
	// ResolvConf is where upstreams and search domains stand; empty: /etc/resolv.conf.
	ResolvConf string
	// Hosts is the hosts file; empty: /etc/hosts.
	Hosts string
	// Timeout bounds one answer, all upstreams together; 0: 4 seconds, below the 5 of the C library.
	Timeout time.Duration
	// Lookup says which agent sent from remote (netguard.Guard.Peer and the agent's current permit). Others are refused.
	Lookup func(proto uint8, local, remote netip.AddrPort) (Agent, bool)
	// Grant opens an answered address before the answer is sent (netguard.Guard.GrantName).
	Grant func(cgroupID uint64, name string, addr netip.Addr, port uint16, ttl time.Duration) error
	// Report gets refused queries; it must not block for long.
	Report func(Query)
	// Observe gets each question of an agent in mode audit for a name that is not granted, with its answer, one by one; nil: nobody
	// does. It must not block.
	Observe func(Observation)
}
