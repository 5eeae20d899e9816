// Package policy is the policy language: what an agent may read, write, execute and reach, and what happens when it tries
// more. It parses, validates, explains, compares (inclusion) and compiles policies; it enforces nothing and imports neither
// side of the pair.
//
// A policy whose ~ is expanded is called a permit. Ceiling, policy, manifest and intent are all values of type Policy;
// Narrow is the only operation that combines two of them.
package policy

import "net/netip"

// Mode says what a verdict leads to.
type Mode string

// The modes, strictest first.
const (
	Enforce    Mode = "enforce"    // refuse what is not granted
	Audit      Mode = "audit"      // let it pass, record what would have been refused
	Permissive Mode = "permissive" // let it pass, count only
)

// OnViolation says what happens to the agent at a refused action.
type OnViolation string

const (
	Block OnViolation = "block" // the action fails, the agent goes on
	Kill  OnViolation = "kill"  // the agent's whole cgroup is killed
)

// SyscallAction is the verdict on a system call by name.
type SyscallAction string

const (
	SyscallAllow SyscallAction = "allow"
	SyscallDeny  SyscallAction = "deny"
	SyscallLog   SyscallAction = "log"
)

// Policy is one policy after parsing. It is immutable: share it freely.
//
// A nil section is one that the file does not have. Filesystem nil: files are not governed. Network nil: nothing may be
// reached (default_action drop, no egress). Syscalls nil: only the base filter applies.
type Policy struct {
	Namespace   string                   `json:"namespace,omitempty"`
	Mode        Mode                     `json:"mode,omitempty"`
	OnViolation OnViolation              `json:"on_violation,omitempty"`
	Syscalls    map[string]SyscallAction `json:"syscalls,omitempty"`
	Filesystem  *Filesystem              `json:"filesystem,omitempty"`
	Network     *Network                 `json:"network,omitempty"`
	Approval    *Approval                `json:"approval,omitempty"` // nil: DefaultApprovalTimeout, then deny
	Resources   *Resources               `json:"resources,omitempty"`
}

// Filesystem lists path patterns. What no list names is refused; deny wins over every other list.
// Write does not imply read; exec implies read of the same file. A path in require_approval is asked about for what the other
// lists grant it, and for every access when no other list names it.
type Filesystem struct {
	Read            []string `json:"read,omitempty"`
	Write           []string `json:"write,omitempty"`
	Exec            []string `json:"exec,omitempty"`
	Deny            []string `json:"deny,omitempty"`
	RequireApproval []string `json:"require_approval,omitempty"`
	// Static leaves to Landlock what it can hold alone: such calls cost nothing, cannot be narrowed during the run, and are not
	// recorded one by one when they are refused.
	Static bool `json:"static,omitempty"`
	// Hashes are the SHA-256 sums, in hex, that files must have to be executed, by their paths, each of which Exec names too.
	Hashes map[string]string `json:"-"`
}

// DefaultAction is what happens to a destination that no egress rule names.
type DefaultAction string

const (
	Drop  DefaultAction = "drop"
	Allow DefaultAction = "allow"
)

// OnDeny is how a refused flow looks to the agent.
type OnDeny string

const (
	Blackhole OnDeny = "blackhole" // silence
	Reject    OnDeny = "reject"    // EPERM, connection refused
)

// Unmetered is what becomes of a policy that reaches a provider of models directly, where a budget is kept.
type Unmetered string

const (
	UnmeteredRefuse Unmetered = "refuse" // the agent is not started
	UnmeteredAllow  Unmetered = "allow"  // what it spends there nobody counts
)

// Network lists what an agent may reach and where it may listen.
type Network struct {
	DefaultAction DefaultAction `json:"default_action,omitempty"`
	OnDeny        OnDeny        `json:"on_deny,omitempty"`
	Egress        []string      `json:"egress,omitempty"` // CIDR, host, host:port, CIDR:port, [v6]:port; private host, private host:port
	// RequireApproval are destinations for which a person is asked, spelled like Egress, which grants none of them.
	RequireApproval []string `json:"require_approval,omitempty"`
	Listen          []string `json:"listen,omitempty"` // address:port or port
	// Ingress are those who may open flows to the agent: a port for everyone, CIDR, or CIDR:port. The port is the agent's own.
	Ingress []string `json:"ingress,omitempty"`
	Unix    []string `json:"unix,omitempty"` // path patterns of unix sockets that may be connected to
	// Isolate gives the agent a network namespace of its own: a veth is its only way out. It can be asked for, never taken back.
	Isolate bool `json:"isolate,omitempty"`
	// Unmetered says whether the agent may reach the providers of models past the gateway that keeps its budget.
	Unmetered Unmetered `json:"unmetered,omitempty"`
}

// Resources are limits on one agent; nil fields are not limited.
type Resources struct {
	MaxFDs       *uint64 `json:"max_fds,omitempty"`       // open descriptors per process
	MaxMemoryMB  *uint64 `json:"max_memory_mb,omitempty"` // mebibytes, of the whole agent
	MaxProcesses *uint64 `json:"max_processes,omitempty"` // tasks of the whole agent
}

// Endpoint is one parsed egress, listen or ingress rule. Exactly one of Prefix (valid) and Host (not empty) is set.
type Endpoint struct {
	Prefix  netip.Prefix
	Host    string // lower case, no trailing dot; "*.example.com" matches any name below
	Private bool   // of a Host: it opens private addresses too (see Private)
	Port    uint16 // 0: every port
	Rule    string // as written, for events
}

// Access is what is asked of a path; values combine.
type Access uint8

const (
	Read  Access = 1 << iota // open for reading, list a directory
	Write                    // open for writing, create, remove, rename, change metadata
	Exec                     // execute
)
