// Package agents holds every agent of one raypherd: it checks who asks for one, has the enclave grant it, puts it into its
// cgroup, arms the guard, renews what it may do, and ends it.
//
// The life of an agent is told in life.go. Each agent has one goroutine that owns it; everything that changes an agent goes
// through that goroutine. The server is the only caller.
//
// An agent never depends on raypherd being there: what the kernel and the warden hold stays in force when raypherd dies,
// and Adopt finds the agents again.
package agents

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/approvals"
	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/events"
	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/namespaces"
	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/release"
)

// Bounds.
const (
	MaxAgents        = 2048 // of one raypherd
	MaxAgentsPerUser = 1024
)

// What a refusal comes from; the server turns them into status codes.
var (
	ErrNotAllowed = errors.New("not allowed")                 // who asks may not ask this
	ErrInvalid    = errors.New("invalid")                     // what is asked is malformed, or beyond what is granted
	ErrEnclave    = errors.New("the enclave granted nothing") // unreachable, or it refused
	ErrNoAgent    = errors.New("no such agent")
	ErrFull       = errors.New("too many")
)

// Enclave grants visas.
type Enclave interface {
	Mint(context.Context, *enclavev1.MintRequest) (*enclavev1.MintReply, error)
	Describe(context.Context) (*enclavev1.Description, error)
	// Both on a visa that it has granted: a TLS certificate, and the signature of a TLS 1.3 client over a transcript hash.
	TLSCertificate(ctx context.Context, visa []byte) ([][]byte, error)
	TLSSign(ctx context.Context, visa, transcript []byte) ([]byte, error)
}

// NetworkGuard holds the network of agents in the kernel; netguard.Guard is one.
type NetworkGuard interface {
	Arm(netguard.Agent) error
	Renew(cgroupID uint64, deadline int64) error
	Replace(cgroupID uint64, n *policy.Network) error
	Disarm(cgroupID uint64) error
	// Attach and Detach are for cgroups outside of the agents' folder; Attached lists their ids.
	Attach(cgroupPath string) error
	Detach(cgroupID uint64) error
	Attached() []uint64
	// Lend and GrantName open a destination that a person approved.
	Lend(cgroupID uint64, to netip.AddrPort, period time.Duration) error
	GrantName(cgroupID uint64, name string, addr netip.Addr, port uint16, ttl time.Duration) error
	Agents() []uint64
}

// Options say what the agents of a host are made with.
type Options struct {
	Paths   instance.Paths
	Cgroups *cgroup.Parent
	Enclave Enclave
	// EnclaveKeys are the identifiers of the pinned key of the enclave and of those that it replaced, also while the enclave is away.
	EnclaveKeys func() ([][32]byte, error)
	Guard       NetworkGuard
	Isolation   Isolation // nil: no agent can have a network namespace of its own
	Files       FileGuard // nil: the broker holds the files of all agents
	Events      *events.Hub
	Approvals   *approvals.Desk // where calls that wait for a person are asked about
	// FleetPolicy is a policy of the controller for an agent, whose subject it asks for; nil: no controller is configured.
	FleetPolicy func(name string, subject func(*policy.Policy) string) (*release.Release, error)
	Policy      []byte           // of the host, for a launch without one; nil: there is none
	PolicyPath  string           // for messages
	Signers     string           // folder of trusted manifest signers
	Namespaces  *namespaces.File // what namespaces may use; nil: as much as they like
	DryRun      bool             // every agent runs in mode audit
	Hostname    string           // asserted in visas
	Gateway     string           // host:port at which agents call models; empty: nowhere
	Notes       []string         // what this host does not provide, in words, for every agent
	Log         *slog.Logger
	Gone        func(left int) // called after an agent is gone, with how many are left; may be nil
}

// Host is all agents of one raypherd. Its methods may be called from several goroutines.
type Host struct {
	options Options
	digests digests
	// expected are what permits were granted on which rules.
	expected permits
	// shares are what agents have of their namespaces, from their grant until nothing is left of them.
	shares *namespaces.Ledger
	ctx    context.Context // ends when raypherd lets go of its agents
	detach context.CancelFunc
	owners sync.WaitGroup

	attaching sync.Mutex // held through an Attach

	mu       sync.Mutex
	policy   []byte // of the host, as Options.Policy until Follow
	agents   map[string]*Agent
	byCgroup map[uint64]*Agent
	launches map[uint32]int // launches under way, by user
}

// NewHost returns a host without agents. Call Adopt next, and Detach in the end.
func NewHost(o Options) *Host {
	h := &Host{
		options:  o,
		shares:   namespaces.NewLedger(o.Namespaces),
		agents:   make(map[string]*Agent),
		byCgroup: make(map[uint64]*Agent),
		launches: make(map[uint32]int),
	}
	h.policy = o.Policy
	h.ctx, h.detach = context.WithCancel(context.Background())
	return h
}

// Detach lets go of all agents and waits for their owners. The agents go on under what the kernel and their wardens hold.
func (h *Host) Detach() {
	h.detach()
	h.owners.Wait()
}

// Follow takes another default policy, and other limits of namespaces, for agents that begin from now on.
func (h *Host) Follow(defaultPolicy []byte, limits *namespaces.File) {
	h.shares.Follow(limits)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.policy = defaultPolicy
}

func (h *Host) defaultPolicy() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.policy
}

// Agent returns an agent by its id.
func (h *Host) Agent(id string) (*Agent, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a := h.agents[id]; a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("agent %.64q: %w: `raypher agents list` names those that run", id, ErrNoAgent)
}

// ByCgroup returns an agent by its cgroup id.
func (h *Host) ByCgroup(id uint64) (*Agent, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, ok := h.byCgroup[id]
	return a, ok
}

// List returns all agents, the oldest first.
func (h *Host) List() []*Agent {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*Agent, 0, len(h.agents))
	for _, a := range h.agents {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b *Agent) int {
		if c := a.started.Compare(b.started); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	return list
}

// Namespaces lists what the namespaces of this host have given to their agents.
func (h *Host) Namespaces() []namespaces.Use { return h.shares.Use() }

// Stop ends an agent with everything that runs in it, and waits until it is gone or ctx ends.
func (h *Host) Stop(ctx context.Context, id, reason string) error {
	a, err := h.Agent(id)
	if err != nil {
		return err
	}
	a.stop(reason)
	select {
	case <-a.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("agent %s: its processes are killed and not yet gone: %w", id, ctx.Err())
	}
}

// StopFor is Stop for an operator.
func (h *Host) StopFor(ctx context.Context, caller Caller, id string) error {
	a, err := h.Agent(id)
	if err != nil {
		return err
	}
	if err := a.disposes(caller); err != nil {
		return err
	}
	return h.Stop(ctx, id, "stopped by an operator")
}

// Kind says what a process is to this raypherd.
type Kind int

// The kinds.
const (
	Outside Kind = iota // neither
	Inside              // a process of an agent, of this or another instance, or the warden of another instance's agent
	Warden              // the warden of an agent
)

// Whose says what a process is, and of which agent of this raypherd; the agent is nil when another instance governs it.
func (h *Host) Whose(t *task.Task) (Kind, *Agent, error) {
	id, inside, err := h.options.Cgroups.Contains(t.PID())
	governed := inside
	if err == nil && !inside {
		governed, err = h.options.Cgroups.Governed(t.PID())
	}
	if !t.Alive() {
		return Inside, nil, fmt.Errorf("process %d: %w", t.PID(), task.ErrGone)
	}
	if err != nil {
		return Inside, nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if inside {
		return Inside, h.agents[id], nil
	}
	for _, a := range h.agents {
		if w := a.wardenTask(); w != nil && w.PID() == t.PID() && w.Alive() {
			return Warden, a, nil
		}
	}
	if governed {
		return Inside, h.attachedWith(t), nil
	}
	return Outside, nil, nil
}

// attachedWith is the attached agent that a process belongs to; mu is held. Nil: another instance's.
func (h *Host) attachedWith(t *task.Task) *Agent {
	path, err := cgroup.Of(t.PID())
	if err != nil || !t.Alive() {
		return nil
	}
	for _, a := range h.agents {
		if a.attached != "" && a.group.Holds(path) {
			return a
		}
	}
	return nil
}

// reserve counts a launch that is under way.
func (h *Host) reserve(uid uint32) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	all, own := len(h.agents), 0
	for user, n := range h.launches {
		all += n
		if user == uid {
			own += n
		}
	}
	for _, a := range h.agents {
		if a.uid == uid {
			own++
		}
	}
	switch {
	case all >= MaxAgents:
		return fmt.Errorf("%w agents: %d run on this host", ErrFull, all)
	case own >= MaxAgentsPerUser:
		return fmt.Errorf("%w agents: %d of user %d run", ErrFull, own, uid)
	}
	h.launches[uid]++
	return nil
}

func (h *Host) release(uid uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.launches[uid]--; h.launches[uid] == 0 {
		delete(h.launches, uid)
	}
}

// add makes an agent known and starts its owner.
func (h *Host) add(a *Agent, empty <-chan struct{}) {
	h.mu.Lock()
	h.agents[a.id] = a
	h.byCgroup[a.group.ID()] = a
	h.mu.Unlock()
	h.owners.Add(1)
	go func() {
		defer h.owners.Done()
		a.live(empty)
	}()
}

// unlist takes a gone agent from the list. Until remove, it is still known by its cgroup.
func (h *Host) unlist(a *Agent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.agents, a.id)
	h.shares.Release(a.id)
}

// remove forgets an agent that is gone.
func (h *Host) remove(a *Agent) {
	h.mu.Lock()
	delete(h.byCgroup, a.group.ID())
	left := len(h.agents)
	h.mu.Unlock()
	if h.options.Gone != nil {
		h.options.Gone(left)
	}
}

// boottime is CLOCK_BOOTTIME in nanoseconds: the clock by which the kernel closes an agent. It runs on while the machine
// sleeps, and nobody can set it.
func boottime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // every kernel since 2.6.39 has it
	}
	return ts.Nano()
}

// until is how long it is until a moment of CLOCK_BOOTTIME.
func until(moment int64) time.Duration { return time.Duration(moment - boottime()) }
