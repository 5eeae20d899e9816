package agents

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/policy"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// State is where an agent is in its life.
type State string

// The states; life.go tells how they follow each other.
const (
	Launching State = "launching" // granted and in its cgroup, its program is not yet executed
	Running   State = "running"
	Waiting   State = "waiting" // adopted after a restart of raypherd, its warden has not come back yet
	Ending    State = "ending"  // killed, its last process is not yet gone
)

// Agent is one agent. Its exported methods may be called from several goroutines.
type Agent struct {
	host  *Host
	group *cgroup.Group

	// What the launch fixed. Nothing below changes until `mu`.
	id           string
	subject      string // SPIFFE ID
	namespace    string
	name         string
	uid          uint32
	user         string
	home         string // from the user database, asserted to the enclave
	policyHome   string // $HOME of the caller: what ~ means in policy and intents
	program      string
	argv         []string
	runnerPID    int
	cameFrom     string          // cgroup2 path of the runner before the launch
	digest       []byte          // SHA-256 of the program
	asked        []byte          // the policy as asked, canonical, ~ expanded
	manifest     []byte          // the manifest's permissions, the same; nil: none
	sourceHash   []byte          // of the policy before ~ was expanded
	confirmation []byte          // cnf
	secretHash   []byte          // SHA-256 of what the warden must show when it reattaches
	handle       []byte          // SHA-256 of its placeholder API key; nil: it has none
	budget       uint64          // micro-dollars that it may spend in its life; 0: what the cost control says
	gateway      *attend.Gateway // of the launch; nil: nothing is metered
	launchPermit *policy.Policy
	launchVisa   []byte   // on launchPermit
	enclaveKey   []byte   // PKIX DER, of the enclave that signed the visa of the launch
	backend      string   // Broker or LSM
	terminals    []string // on the standard descriptors of its first process
	notes        []string
	development  bool
	tier         string
	started      time.Time
	attached     string   // cgroup2 path that an operator attached; empty: it was launched
	attachedBy   uint32   // user
	networkOnly  bool     // as asked
	uncovered    []string // of an attached one: what nothing holds, in words

	stops   chan string     // why to end it; one slot, the first reason counts
	narrows chan *narrowing // from RequestVisa
	lines   chan lineChange // the warden came or went
	begun   chan struct{}   // the warden said Started; one slot
	// detaches says which user lets an attached agent go.
	detaches chan uint32
	renews   chan struct{} // the enclave may have forgotten the handle; one slot
	gone     chan struct{} // closed when nothing of the agent is left
	blocked  atomic.Uint64 // refused actions
	tally    tally         // of them, against the guard's own count
	visas    allowance     // for RequestVisa
	// handshakes is for TLSCertificate and TLSSign.
	handshakes allowance

	resolved resolvedNames
	// cutting is held while what an operator cut changes, saving while the record is written.
	cutting, saving sync.Mutex

	mu sync.Mutex
	// applied is the operator's last policy for it, expanded; nil: none since the launch.
	applied *policy.Policy
	state   State
	closed  bool // its visa ended and is not renewed yet
	grant   grant
	cuts    []NetworkCut
	warden  *task.Task
	line    *outbox // to the warden; nil: it is not connected
	told    bool    // nothing of the agent runs, and what it was refused is told
	silent  bool    // the warden has said everything
}

// grant is what an agent may do now.
type grant struct {
	visa       []byte
	visaID     []byte // cti
	enclaveKey []byte // PKIX DER, of the enclave that signed it: another one than the launch's where the enclave was started anew since
	policyHash []byte
	permit     *policy.Policy
	intent     []byte // canonical, what the guard follows; nil: the whole permit of the launch
	expires    int64  // seconds since the Unix epoch, from the visa
	lifetime   time.Duration
	deadline   int64 // CLOCK_BOOTTIME, from the start of the request
}

// ID is the agent's id, unique on this host.
func (a *Agent) ID() string { return a.id }

// Namespace is that of its SPIFFE ID.
func (a *Agent) Namespace() string { return a.namespace }

// Name is the last segment of its SPIFFE ID.
func (a *Agent) Name() string { return a.name }

// Budget is what it may spend on models in its life, in micro-dollars; 0: what the cost control says.
func (a *Agent) Budget() uint64 { return a.budget }

// Subject is the agent's SPIFFE ID.
func (a *Agent) Subject() string { return a.subject }

// UID is the user that the agent runs as.
func (a *Agent) UID() uint32 { return a.uid }

// Gone is closed when nothing of the agent is left.
func (a *Agent) Gone() <-chan struct{} { return a.gone }

// Permit is what the agent may do now.
func (a *Agent) Permit() *policy.Policy { return a.current().permit }

// Visa is what the agent has now.
func (a *Agent) Visa() []byte { return a.current().visa }

// CgroupID is the id by which the kernel knows the agent.
func (a *Agent) CgroupID() uint64 { return a.group.ID() }

// Holds says whether a cgroup2 path, as /proc shows it, is the agent's or lies below it.
func (a *Agent) Holds(cgroup string) bool { return a.group.Holds(cgroup) }

func (a *Agent) current() grant {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.grant
}

func (a *Agent) setState(s State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state = s
}

func (a *Agent) wardenTask() *task.Task {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.warden
}

// Identity answers Whoami.
func (a *Agent) Identity() *parentv1.Identity {
	g := a.current()
	return &parentv1.Identity{
		AgentId: a.id, Subject: a.subject, Tier: a.tier, PolicyHash: g.policyHash,
		ExpiresUnix: g.expires, Permit: g.permit.Canonical(),
	}
}

// Status says how the agent is, for the operator.
func (a *Agent) Status() *parentv1.AgentStatus {
	a.mu.Lock()
	g, word, closed := a.grant, string(a.state), a.closed
	a.mu.Unlock()
	switch {
	case word == string(Ending):
	case closed:
		word = "closed"
	case a.group.Frozen():
		word = "frozen"
	case a.attached != "":
		word = "attached"
	}
	pids, _ := a.group.Processes() // an agent that just ended has none
	var r policy.Resources         // what its cgroup was made with
	if own := a.launchPermit.Resources; own != nil {
		r = *own
	}
	return &parentv1.AgentStatus{
		Namespace: a.namespace, MaxMemoryMb: r.MaxMemoryMB, MaxProcesses: r.MaxProcesses, MaxFds: r.MaxFDs,
		AgentId: a.id, Name: a.name, Subject: a.subject, Uid: a.uid, Program: a.program,
		StartedUnix: a.started.Unix(), ExpiresUnix: g.expires, Processes: uint32(len(pids)),
		Blocked: a.blocked.Load(), State: word, Mode: string(mode(g.permit)), Backend: a.backend,
		Attached: a.attached, Uncovered: a.uncovered,
	}
}

// mode is the mode in force; a policy that names none is enforced.
func mode(p *policy.Policy) policy.Mode {
	if p.Mode == "" {
		return policy.Enforce
	}
	return p.Mode
}

// stop asks the owner to end the agent; only the first reason counts.
func (a *Agent) stop(reason string) {
	select {
	case a.stops <- reason:
	default:
	}
}
