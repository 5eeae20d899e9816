// Package lsm is the guard's backend where the kernel takes BPF LSM programs: hooks that decide on every open, program, entry of
// a folder, unix socket, signal and way out, for processes in the cgroups of agents, with the same answers as package broker.
// A verdict on a file is kept with its inode until its visa's deadline, the rules, a mount or the name changes.
//
// The programs are attached once, for the whole host, and pinned in a bpffs: they stay when raypherd dies, and close at each
// visa's deadline. An agent's cgroup without an entry gets nothing at all.
//
// raypherd is the only caller. All methods of Guard may be called concurrently.
package lsm

import (
	"time"

	"github.com/raypher/raypher/policy"
)

// Options say where agents are and where the guard's state is kept.
type Options struct {
	// CgroupPath is the cgroup2 folder that holds the folders of all agents, and no process of its own.
	CgroupPath string
	// PinDir is a folder in a bpffs, made when missing, in which programs and state outlive this process. Empty, or not in a
	// bpffs: nothing is pinned, the guard ends with this process, and Notes says so.
	PinDir string
}

// Agent is one agent as the guard sees it.
type Agent struct {
	CgroupID uint64         // inode number of the agent's cgroup folder
	Level    uint32         // depth of an attached cgroup (Attach); 0: it lies in Options.CgroupPath
	Permit   *policy.Policy // expanded; mode, on_violation, filesystem and network.unix are what is used
	Deadline int64          // CLOCK_BOOTTIME in nanoseconds; what is decided here is refused from then on

	// Capabilities that the permit keeps, as bits. The others that could undo the guard are refused, also to root.
	Capabilities uint64
	// Closed are paths that no agent may open in any way, and Sealed those that it may not write, with all that lies below.
	// They hold for every agent from then on, by inode: under any name, and also after they were moved.
	Closed, Sealed []string
	// Devices are further device files that may be read and written: the terminals on the agent's standard descriptors.
	Devices []string
	// Loaders are the dynamic loaders of programs that the permit lets it execute.
	Loaders []string
	// Sockets are those of raypherd that every agent may connect to.
	Sockets []string
}

// Reason is why something was refused.
type Reason uint8

// The reasons. They follow enum reason of bpf/lsmguard/state.h.
const (
	NotGranted   Reason = iota // no rule grants it, or one denies it
	Expired                    // the deadline of the agent's visa has passed
	UnknownAgent               // the cgroup has no entry
	Unreadable                 // an object whose path cannot be told, or is longer than 4096 bytes
	Closed                     // closed to every agent
	Sealed                     // never written by agents
	Widens                     // a link or rename after which more could be done with the object
	SetID                      // set-user-id or set-group-id bits
	Foreign                    // a process or socket that is not the agent's
	Approval                   // require_approval, and no person has allowed it
	Hash                       // a program whose content is not the one that the permit names
	Never                      // what no agent may do
	Nameless                   // execution of a file without a path: memory, pipes
	Flood                      // stands for Count events that were not recorded one by one
	Lost                       // stands for Count events that found the ring buffer full
)

// Event is one refused action, or one that would have been refused (mode audit).
type Event struct {
	Time      time.Time
	CgroupID  uint64
	PID       uint32 // thread group
	Thread    uint32
	Comm      string // informative only: the program chooses it
	Operation string // as in package broker: open-read, unlink, exec, connect, signal ...
	Hook      string // the hook that held it: lsm/file_open ...
	Path      string // resolved by the kernel; empty where there is none
	Detail    uint32 // the capability's, signal's or ioctl request's number
	Access    policy.Access
	Reason    Reason
	Mode      policy.Mode
	Errno     int32 // what the program got
	Count     uint64
}

// Counters are the totals of one agent since it was armed. But for mode permissive, whose refusals are only counted,
// Refused + WouldBlock = Reported + Suppressed + Lost: so a lost block cannot hide.
type Counters struct {
	Refused    uint64 // by the hooks
	WouldBlock uint64 // the same in the modes audit and permissive: let through
	Reported   uint64 // handed over as single events
	Suppressed uint64 // beyond the rate of single events of one agent
	Lost       uint64 // the ring buffer was full
}

// Grant is what a person allowed an agent for a while, where its permit says require_approval.
type Grant struct {
	CgroupID uint64
	Path     string // resolved, absolute
	Access   policy.Access
	Until    int64  // CLOCK_BOOTTIME in nanoseconds
	Thread   uint32 // the one that asked; 0: any of the agent's
	Once     bool   // for one call
}
