// Package attend is how a warden and its raypherd speak: messages of JSON on the socket of raypherd, each behind its length. The
// first one is the warden's and says what it wants, a launch or a reattachment; raypherd's first is what it grants, or why not.
//
// It is no gRPC service, because every start of an agent waits until its warden has come up: gRPC and protocol buffers would
// be more than half of that time. The package must stay as light: it imports the standard library alone.
package attend

import (
	"bytes"
	"fmt"
	"slices"
)

// WardenMessage is what a warden says. One of its fields is set.
type WardenMessage struct {
	Launch    *Launch    `json:"launch,omitempty"`
	Reattach  *Reattach  `json:"reattach,omitempty"`
	Started   *Started   `json:"started,omitempty"`
	Reported  *Reported  `json:"reported,omitempty"`
	Count     *Count     `json:"count,omitempty"`
	Settle    *Settle    `json:"settle,omitempty"`
	Blocked   *Blocked   `json:"blocked,omitempty"`
	Asked     *Asked     `json:"asked,omitempty"`
	Withdrawn *Withdrawn `json:"withdrawn,omitempty"`
	Joined    *Joined    `json:"joined,omitempty"`
}

// FleetPolicy begins the path of a policy that the host has from its controller, in the place of a file: fleet:NAME.
const FleetPolicy = "fleet:"

// Launch asks for a new agent.
type Launch struct {
	Policy          []byte   `json:"policy,omitempty"`           // the YAML as read by the caller; empty: the host's
	PolicyPath      string   `json:"policy_path,omitempty"`      // for messages; or FleetPolicy with a name
	Manifest        []byte   `json:"manifest,omitempty"`         // clawmanifest.json; empty: none
	ManifestPath    string   `json:"manifest_path,omitempty"`    // absolute; its folder is the root of the hashed files
	ManifestSigners string   `json:"manifest_signers,omitempty"` // folder of trusted signers; empty: the host's
	Name            string   `json:"name,omitempty"`             // empty: the program's base name
	Argv            []string `json:"argv"`
	Program         string   `json:"program"`                    // absolute path of the program
	ProgramFD       int32    `json:"program_fd"`                 // in the runner; it is what will be executed
	RunnerPID       int32    `json:"runner_pid"`                 // of `raypher run`, which started the warden
	Home            string   `json:"home"`                       // $HOME of the caller; expands ~ in the policy
	DryRun          bool     `json:"dry_run,omitempty"`          // audit, whatever the policy says
	ConfirmationKey []byte   `json:"confirmation_key,omitempty"` // COSE_Key, P-256
	HandleHash      []byte   `json:"handle_hash,omitempty"`      // SHA-256 of the placeholder API key, which the runner alone has; empty: none
	Budget          string   `json:"budget,omitempty"`           // dollars that the run may spend on models, as 2.50; empty: what the cost control says
}

// Reattach is the first message of a warden whose raypherd was restarted, or whose connection broke.
type Reattach struct {
	AgentID         string `json:"agent_id"`
	ConfirmationKey []byte `json:"confirmation_key"`
	Secret          []byte `json:"secret"` // Granted.ReattachSecret
}

// Started says that the floor is in place and the notification descriptor lies with the warden: the program is about to be
// executed.
type Started struct{}

// Reported is one verdict that the warden came to.
type Reported struct {
	Verdict []byte `json:"verdict"` // CBOR of a journal verdict
}

// Count adds calls in mode permissive, where only numbers are kept.
type Count struct {
	ByOperation map[string]uint64 `json:"by_operation"`
}

// Asked is a question for a person: a call waits. It is sent again after Reattach, until it is answered or withdrawn.
type Asked struct {
	ID            uint64 `json:"id"`                // unique for this agent
	Question      []byte `json:"question"`          // CBOR of a journal question
	AskedBoottime int64  `json:"asked_boottime_ns"` // CLOCK_BOOTTIME
	Calls         uint32 `json:"calls,omitempty"`   // how many equal ones wait; 0: one, from wardens of earlier releases
}

// Joined says how many equal calls wait for the answer to a question that was asked before.
type Joined struct {
	ID    uint64 `json:"id"`
	Calls uint32 `json:"calls"`
}

// Withdrawn says that nobody waits for an answer any more.
type Withdrawn struct {
	ID uint64 `json:"id"`
}

// Settle asks for what the kernel refused until now: the program has ended, and soon nobody reads the warden's lines. Settled comes
// behind all of it.
type (
	Settle  struct{}
	Settled struct{}
)

// Blocked is the warden's own count of what it refused since the launch, behind all verdicts about it: its last message.
type Blocked struct {
	Total uint64 `json:"total"`
}

// ParentMessage is what raypherd says. One of its fields is set.
type ParentMessage struct {
	Expected *Terms    `json:"expected,omitempty"`
	Granted  *Granted  `json:"granted,omitempty"`
	Renewed  *Renewed  `json:"renewed,omitempty"`
	Narrowed *Narrowed `json:"narrowed,omitempty"`
	Seen     *Seen     `json:"seen,omitempty"`
	Settled  *Settled  `json:"settled,omitempty"`
	Observed *Observed `json:"observed,omitempty"`
	Answered *Answered `json:"answered,omitempty"`
	Waits    *Waits    `json:"waits,omitempty"`
	Armed    *Armed    `json:"armed,omitempty"`
	End      *End      `json:"end,omitempty"`
	Refused  *Refused  `json:"refused,omitempty"`
}

// Kind names what is set. Of two messages of one kind the later says all.
func (m *ParentMessage) Kind() string {
	switch {
	case m.Expected != nil:
		return "expected"
	case m.Granted != nil:
		return "granted"
	case m.Renewed != nil:
		return "renewed"
	case m.Narrowed != nil:
		return "narrowed"
	case m.Observed != nil:
		return "observed"
	case m.Seen != nil:
		return "seen"
	case m.Settled != nil:
		return "settled"
	case m.Waits != nil:
		return fmt.Sprint("waits ", m.Waits.ID)
	case m.Answered != nil:
		return fmt.Sprint("answered ", m.Answered.ID)
	case m.Armed != nil:
		return "armed"
	case m.End != nil:
		return "end"
	case m.Refused != nil:
		return "refused"
	}
	return ""
}

// Terms are what a launch is made ready from. Sent by themselves, before Granted, they are what raypherd expects to be granted, so
// that the runner and the warden can work while the enclave decides. They grant nothing: what was made ready counts only if
// the terms that are granted are the same.
type Terms struct {
	Permit      []byte   `json:"permit"`                 // canonical form; the floor is built from this
	AgentSocket string   `json:"agent_socket"`           // unix socket of the Agent service, reached through the warden
	ClosedPaths []string `json:"closed_paths,omitempty"` // absolute: this daemon's run and state folders, which no agent may open
	// FilesHeld says that programs of BPF LSM decide what the agent does with files, from the moment that Armed tells. Then Landlock
	// holds none, and of the calls on files only those are notified that may need a person.
	FilesHeld bool `json:"files_held,omitempty"`
}

// Equal says whether two terms are the same.
func (t *Terms) Equal(other *Terms) bool {
	return bytes.Equal(t.Permit, other.Permit) && t.AgentSocket == other.AgentSocket && slices.Equal(t.ClosedPaths, other.ClosedPaths) &&
		t.FilesHeld == other.FilesHeld
}

// Granted is what an agent is granted.
type Granted struct {
	Terms
	AgentID           string   `json:"agent_id"`
	Subject           string   `json:"subject"` // SPIFFE ID
	Tier              string   `json:"tier"`
	Backend           string   `json:"backend"`
	PolicyHash        []byte   `json:"policy_hash"`
	Visa              []byte   `json:"visa"`
	ExpiresUnix       int64    `json:"expires_unix"`
	ExpiresBoottimeNs int64    `json:"expires_boottime_ns"` // CLOCK_BOOTTIME
	Cgroup            string   `json:"cgroup"`              // absolute path of the agent's cgroup2 folder
	VisaPath          string   `json:"visa_path"`           // what RAYPHER_VISA names; opening it yields the current visa
	Notes             []string `json:"notes,omitempty"`     // what this host could not provide, in words
	Development       bool     `json:"development,omitempty"`
	// Gateway is where the agent calls models; nil: nothing is metered on this host.
	Gateway *Gateway `json:"gateway,omitempty"`
	// ReattachSecret is known to the warden alone: the visa shows everything else that names it to its agent.
	ReattachSecret []byte `json:"reattach_secret,omitempty"`
}

// Gateway is how an agent reaches the models whose calls a budget pays.
type Gateway struct {
	Address   string     `json:"address"` // host:port of plain HTTP, on the agent's loopback
	Providers []Provider `json:"providers"`
}

// Provider is one of them.
type Provider struct {
	Name string `json:"name"` // the first segment of its paths
	Kind string `json:"kind"` // openai | anthropic | gemini | openai-compatible
}

// Renewed is a new visa on the same permit.
type Renewed struct {
	Visa              []byte `json:"visa"`
	ExpiresUnix       int64  `json:"expires_unix"`
	ExpiresBoottimeNs int64  `json:"expires_boottime_ns"`
}

// Narrowed replaces the permit in force; it always lies within the permit of the launch.
type Narrowed struct {
	Permit            []byte `json:"permit"`
	Visa              []byte `json:"visa"`
	ExpiresUnix       int64  `json:"expires_unix"`
	ExpiresBoottimeNs int64  `json:"expires_boottime_ns"`
}

// Observed is what another layer let an agent in mode audit do that its permit does not grant: not folded, for the trace of the run.
type Observed struct {
	Entry []byte `json:"entry,omitempty"` // a trace.Entry, as JSON
	Lost  uint64 `json:"lost,omitempty"`  // so many more found no room
}

// Seen is a verdict of another layer (kernel, DNS) on this agent, for the operator's terminal.
type Seen struct {
	Verdict []byte `json:"verdict"` // CBOR of a journal verdict
}

// Waits says that a question waits for a person, for the operator's terminal.
type Waits struct {
	ID       uint64 `json:"id"`
	Question []byte `json:"question"` // as asked, with the rule and the name behind an address
}

// Answered ends a question.
type Answered struct {
	ID       uint64 `json:"id"`
	Approved bool   `json:"approved"`
	// UntilBoottimeNs is how long equal calls are granted too: 0, only those that wait; the largest number, the agent's life.
	UntilBoottimeNs int64 `json:"until_boottime_ns,omitempty"`
}

// Armed answers Started where Terms.FilesHeld or where the permit isolates: the agent's rules are in force in the kernel, it has its
// wire, and its program may be executed.
type Armed struct {
	Failed string `json:"failed,omitempty"` // why it must not be; empty: it may
}

// End says that raypherd ends the agent.
type End struct {
	Reason string `json:"reason"`
}

// Refused is raypherd's last message where it does not grant what was asked, or serves this session no longer.
type Refused struct {
	Reason string `json:"reason"` // in words, for the person who ran the command
}
