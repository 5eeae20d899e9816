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
	"context"
	"errors"
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
	// OwnPorts are raypherd's TCP ports on loopback that every agent may reach; at most MaxOwnPorts.
	OwnPorts []uint16
}

// MaxOwnPorts bounds Options.OwnPorts.
const MaxOwnPorts = 8

// Agent is one agent as the guard sees it.
type Agent struct {
	CgroupID uint64          // inode number of the agent's cgroup folder
	Network  *policy.Network // nil: nothing may be reached
	Mode     policy.Mode
	Deadline int64 // CLOCK_BOOTTIME in nanoseconds; the kernel closes the agent's network then
}

// Reason is why something was refused.
type Reason uint8

// The reasons.
const (
	NotGranted   Reason = iota // no rule grants it
	Expired                    // the deadline of the agent's visa has passed
	UnknownAgent               // the cgroup has no entry
	Unreadable                 // a packet that the guard cannot read: fragments, options, unknown protocols
	Flood                      // stands for Count events that were not recorded one by one
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
	Path        string // of a unix socket, "@" in front of an abstract one; empty where the kernel does not tell
	Reason      Reason
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

// Errors that callers tell apart. Each is wrapped in words that name the next step.
var (
	ErrNotPermitted = errors.New("the kernel refused to load or attach a BPF program")
	ErrNoBTF        = errors.New("the kernel has no BTF")
	ErrFull         = errors.New("a map of the guard is full")
	ErrUnknownAgent = errors.New("this cgroup is not armed")
	ErrStale        = errors.New("the pinned state was made by another version of the guard")
)

// Guard is the loaded network guard.
type Guard struct{}

// Load attaches the guard, or takes over the one that is pinned in Options.PinDir. The calling thread must be in the network
// namespace in which raypherd listens.
func Load(Options) (*Guard, error) { return nil, errors.New("not built yet") }

// Arm gives an agent its rules, or replaces those it had (Mode and Deadline as well). Its cgroup may hold processes only
// after this.
func (*Guard) Arm(Agent) error { return nil }

// Renew moves the deadline of an armed agent.
func (*Guard) Renew(cgroupID uint64, deadline int64) error { return nil }

// Replace puts other rules in force at once; open flows are decided again by their next packet.
func (*Guard) Replace(cgroupID uint64, n *policy.Network) error { return nil }

// Disarm removes an agent's entry: what still runs in its cgroup gets nothing.
func (*Guard) Disarm(cgroupID uint64) error { return nil }

// GrantName opens new flows to an address for ttl, because the granted name resolved to it. Port 0 is every port.
func (*Guard) GrantName(cgroupID uint64, name string, addr netip.Addr, port uint16, ttl time.Duration) error {
	return nil
}

// Peer says which agent sent from remote to raypherd's own port at local. proto is 6 or 17. False: no agent did, or it
// cannot be told, which a caller must treat alike.
func (*Guard) Peer(proto uint8, local, remote netip.AddrPort) (cgroupID uint64, ok bool) {
	return 0, false
}

// Run calls report for each event until ctx ends; one Run at a time.
func (*Guard) Run(ctx context.Context, report func(Event)) error { return nil }

// Agents lists the armed cgroups, including those found in pinned maps.
func (*Guard) Agents() []uint64 { return nil }

// Counters returns the totals of one agent.
func (*Guard) Counters(cgroupID uint64) (Counters, error) { return Counters{}, nil }

// Statistics returns the totals of the guard.
func (*Guard) Statistics() (Statistics, error) { return Statistics{}, nil }

// Notes says in words what this kernel or host could not provide.
func (*Guard) Notes() []string { return nil }

// Pinned says whether the guard stays when this process ends.
func (*Guard) Pinned() bool { return false }

// Close lets go of the guard; what is pinned stays in force.
func (*Guard) Close() error { return nil }

// Unpin removes the pins, so that the guard ends with Close.
func (*Guard) Unpin() error { return nil }
