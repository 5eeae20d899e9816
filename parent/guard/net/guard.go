// Package netguard is the network part of the guard: eBPF programs on the cgroup that holds all agents, and one entry of
// state per agent. What an agent may reach is decided by its permit's network section and by the names that package dns
// resolved for it; everything else is dropped in the kernel, whichever way the packet was made.
//
// The programs are attached once, to the parent cgroup. They stay when raypherd dies (pinned in a bpffs), and are found
// again by the next Load. An agent cgroup without an entry, or past its deadline, gets nothing: neither a new flow nor a
// packet of an open one.
//
// raypherd is the only caller. All methods of Guard may be called concurrently.
package netguard

import (
	"net/netip"
	"time"

	"github.com/raypher/raypher/policy"
)

// Options say where the guard is attached and what of raypherd an agent may reach.
type Options struct {
	// CgroupPath is the cgroup2 folder that holds the folders of all agents, and no process of its own.
	CgroupPath string
	// PinDir is a folder in a bpffs, made when missing, in which programs and state outlive this process. Empty, or not in
	// a bpffs: nothing is pinned, the guard ends with this process, and Notes says so.
	PinDir string
	// DNSPort is the forwarder's port on 127.0.0.1 and [::1]. All traffic of an agent to port 53 goes there. 0: there is no
	// forwarder, and port 53 is refused.
	DNSPort uint16
	// Hosts is the hosts file; empty: /etc/hosts.
	Hosts string
	// GatewayPort is the TCP port, one of Own, that isolated agents reach on their own loopback too, where the gateway for models listens;
	// 0: there is none.
	GatewayPort uint16
	// Own are raypherd's TCP ends that every agent may reach, at 127.0.0.1 or ::1; at most MaxOwnPorts.
	Own []netip.AddrPort
}

// MaxOwnPorts bounds Options.Own.
const MaxOwnPorts = 8

// Agent is one agent as the guard sees it.
type Agent struct {
	CgroupID uint64          // inode number of the agent's cgroup folder
	Network  *policy.Network // nil: nothing may be reached
	Mode     policy.Mode
	Deadline int64 // CLOCK_BOOTTIME in nanoseconds; the kernel closes the agent's network then
	Isolated bool  // in a network namespace of its own, where the DNS forwarder listens on loopback too
}

// Reason is why something was refused.
type Reason uint8

// The reasons.
const (
	NotGranted    Reason = iota // no rule grants it
	Expired                     // the deadline of the agent's visa has passed
	UnknownAgent                // the cgroup has no entry
	Unreadable                  // a packet that the guard cannot read: fragments, options, unknown protocols
	NoHello                     // a stream to a name's address on a port of TLS begins with something else
	SplitHello                  // its hello lies in several packets or records: the whole of it cannot be read
	NoServerName                // its hello names no server
	ServerName                  // its hello names a server that was not resolved for the agent; Event.Path is that name
	Severed                     // an operator has cut it
	ForeignSource               // a frame on an isolated agent's wire that has another sender than the agent
	Flood                       // stands for Count events that were not recorded one by one
)

// Event is one refused action, or one that would have been refused (Mode audit). Equal ones within a second are folded:
// the first is reported at once, the others follow as one event with their Count.
type Event struct {
	Time        time.Time
	CgroupID    uint64
	PID         uint32 // thread group that acted, or that made the socket where a packet was refused
	Comm        string // informative only: the program chooses it
	Operation   string // connect, sendto, send, bind, socket, connect-unix, sendto-unix
	Layer       string // the hook that held it: cgroup/connect4, cgroup_skb/egress ...
	Protocol    string // tcp, udp, icmp, ... or its number; empty for unix sockets
	Destination netip.AddrPort
	Name        string // that opened the destination to the agent on some port, the last of several; empty: none is known
	Path        string // of a unix socket, "@" in front of an abstract one, or the name of ServerName; empty where the kernel does not tell
	Reason      Reason
	Reserved    bool // the destination lies in a reserved range, which wide rules leave out
	Mode        policy.Mode
	Errno       int32 // what the program got; 0: silence
	Count       uint32
}

// Counters are the totals of one agent since it was armed.
type Counters struct {
	Refused    uint64 // connects, sends, binds, sockets and outgoing packets that were refused
	WouldBlock uint64 // the same in the modes audit and permissive: let through
	Incoming   uint64 // incoming packets that nothing had asked for, dropped
}

// Statistics are totals of the guard.
type Statistics struct {
	Events uint64 // handed to the ring buffer
	Folded uint64 // not handed over one by one, but counted in a later event
	Lost   uint64 // ring buffer full: refused, but never reported
}
