// Package server is raypherd's face: the sessions of wardens (package attend) and two gRPC services, and the finding out of who
// calls.
//
//	raypherd.sock    wardens, Operator   root and the operators' group, by SO_PEERPIDFD; never from inside an agent
//	agent.sock       Agent               a process of an agent, or its warden on its behalf
//	127.0.0.1:50051  Agent               connections that the network guard recorded as an agent's
//
// Nothing in a request says who the caller is; the kernel does. An agent that reaches raypherd.sock after all, because its
// policy lets its warden connect there, is recognised as such and refused.
package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/approvals"
	"github.com/raypher/raypher/parent/events"
	"github.com/raypher/raypher/parent/fleet"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/spend"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// Bounds of what a caller may send and hold.
const (
	maxMessage       = 4 << 20   // bytes; a policy and a manifest at the most
	maxStreams       = 64        // calls at once on one connection
	window           = 256 << 10 // bytes on their way; fixed, or gRPC would measure each new connection with pings
	handshakeTimeout = 5 * time.Second
	idleTimeout      = 10 * time.Minute // of a loopback connection
	stopTimeout      = 2 * time.Second  // for calls under way when raypherd ends
)

// Enclave is what the server asks of the enclave.
type Enclave interface {
	Describe(context.Context) (*enclavev1.Description, error)
	InstallCeiling(context.Context, []byte) (*enclavev1.Description, error)
	Attest(ctx context.Context, nonce []byte) (*enclavev1.Evidence, error)
	InstallGrant(ctx context.Context, grant []byte) (*enclavev1.GrantStatus, error)
	DescribeGrant(context.Context) (*enclavev1.GrantStatus, error)
	InstallControl(context.Context, *enclavev1.InstallControlRequest) (*enclavev1.SpendingStatus, error)
	DescribeSpending(context.Context, *enclavev1.DescribeSpendingRequest) (*enclavev1.SpendingStatus, error)
	TopUp(ctx context.Context, amount uint64) (*enclavev1.SpendingStatus, error)
	// Unread is why the enclave does not take this host's journal, and so does not know what was spent; nil: it does, or is being shown it.
	Unread() error
	DescribeFleet(context.Context) (*enclavev1.FleetStatus, error)
	DescribeProviderKeys(ctx context.Context, recipient bool) (*enclavev1.ProviderKeys, error)
	ChangeProviderKey(ctx context.Context, change []byte) (*enclavev1.ProviderKeys, error)
	DescribeKey(context.Context, *enclavev1.DescribeKeyRequest) (*enclavev1.KeyDescription, error)
	Reachable() error
}

// Evidence reads the audit store.
type Evidence interface {
	// List calls each for every recorded verdict, oldest first; agent empty: of all agents. The first error of each ends it.
	List(ctx context.Context, agent string, each func(*parentv1.EvidenceItem) error) error
	// Export returns the self-contained proof of one entry. The error wraps fs.ErrNotExist when there is none.
	Export(ctx context.Context, epoch []byte, index uint64) ([]byte, error)
}

// Spent reads in the journal what calls of models came to; see package spend.
type Spent interface {
	Lines(ctx context.Context, month string, zone *time.Location) ([]spend.Line, error)
	Calls(ctx context.Context, since int64, each func(*spend.Call) error) error
}

// Options say what is served and to whom.
type Options struct {
	Paths  instance.Paths
	Agents *agents.Host
	Events *events.Hub
	// Approvals are the calls that wait for a person.
	Approvals *approvals.Desk
	Enclave   Enclave
	Fleet     *fleet.Client // nil: no controller is configured
	Evidence  Evidence
	Spent     Spent
	// Peer says which cgroup sent from remote to local (netguard.Guard.Peer).
	Peer     func(proto uint8, local, remote netip.AddrPort) (cgroupID uint64, ok bool)
	Counters func() map[string]uint64 // of other parts, for the status; may be nil
	Reload   func() ([]string, error) // reads the host's files anew and says what changed
	Group    int                      // gid of the operators; -1: root alone
	Loopback net.Listener             // for agents, from ListenLoopback; nil: none
	Version  string
	Backend  string
	Notes    []string
	Log      *slog.Logger
}

// Server serves. Make it with New, which opens the sockets.
type Server struct {
	options Options
	health  *health.Server
	wardens *wardens
	parts   []part
	ending  chan struct{} // closed when raypherd ends: calls that last as long as agents do end then
}

// part is one listener with the services on it.
type part struct {
	listener net.Listener
	grpc     *grpc.Server
}

// New opens every socket, so that nothing is half started when one cannot be had. Sockets that an earlier raypherd left are
// replaced: the caller holds the instance's lock.
func New(o Options) (s *Server, err error) {
	s = &Server{options: o, health: health.NewServer(), ending: make(chan struct{})}
	s.wardens = &wardens{server: s}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	operators, err := instance.Listen("unix", o.Paths.Socket, o.Paths.ForMembers(o.Group), o.Group)
	if err != nil {
		return nil, err
	}
	s.add(operators, &transport{identify: unixPeer, quota: &quota{}, wardens: s.wardens}, func(g *grpc.Server) {
		parentv1.RegisterOperatorServer(g, &operator{server: s})
	})
	ofAgents, err := instance.Listen("unix", o.Paths.AgentSocket, 0o666, -1)
	if err != nil {
		return nil, err
	}
	s.add(ofAgents, &transport{identify: unixPeer, quota: &quota{}}, s.registerAgent)
	if o.Loopback != nil {
		s.add(o.Loopback, &transport{identify: s.loopbackPeer, quota: &quota{}}, s.registerAgent)
	}
	return s, nil
}

func (s *Server) registerAgent(g *grpc.Server) { parentv1.RegisterAgentServer(g, &agent{server: s}) }

func (s *Server) add(l net.Listener, t *transport, register func(*grpc.Server)) {
	g := grpc.NewServer(
		grpc.Creds(t),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(window),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	register(g)
	healthv1.RegisterHealthServer(g, s.health)
	s.parts = append(s.parts, part{l, g})
}

// errEnding ends the long calls.
var errEnding = errors.New("raypherd ends: the guard of running agents stays")

// Serve serves until ctx ends, and then ends the calls under way.
func (s *Server) Serve(ctx context.Context) error {
	failed := make(chan error, len(s.parts))
	for _, p := range s.parts {
		go func() { failed <- p.grpc.Serve(p.listener) }()
	}
	var first error
	left := len(s.parts)
	select {
	case <-ctx.Done():
	case first = <-failed:
		left--
	}
	s.stop()
	for range left {
		if err := <-failed; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			first = errors.Join(first, err)
		}
	}
	first = errors.Join(first, s.removeSockets())
	if first != nil {
		return fmt.Errorf("serving: %w", first)
	}
	return nil
}

// stop lets calls end, cuts off those that do not, and goes without those that cannot be cut off.
func (s *Server) stop() {
	close(s.ending)
	s.health.Shutdown()
	done := make(chan struct{})
	go func() {
		for _, p := range s.parts {
			p.grpc.GracefulStop()
		}
		s.wardens.open.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(stopTimeout):
		for _, p := range s.parts {
			p.grpc.Stop()
		}
		select {
		case <-done:
		case <-time.After(stopTimeout):
			s.options.Log.Warn("calls that wait for something else than raypherd are left behind")
		}
	}
}

// removeSockets takes the paths away, so that who looks for a raypherd is told that there is none. The caller holds the
// instance's lock: they are this raypherd's.
func (s *Server) removeSockets() (err error) {
	for _, path := range []string{s.options.Paths.Socket, s.options.Paths.AgentSocket} {
		if e := os.Remove(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("socket of the daemon: %w", e))
		}
	}
	return err
}

func (s *Server) close() {
	for _, p := range s.parts {
		p.grpc.Stop()
		p.listener.Close()
	}
}

// ListenLoopback opens a TCP address for agents. It refuses any but a loopback address: there is no encryption, and callers
// are known by what the kernel recorded here.
func ListenLoopback(address string) (net.Listener, error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("listening for agents: %w: give it as 127.0.0.1:50051", err)
	}
	if a := ap.Addr(); a != netip.AddrFrom4([4]byte{127, 0, 0, 1}) && a != netip.IPv6Loopback() {
		return nil, fmt.Errorf("listening for agents on %s: they reach 127.0.0.1 and ::1 alone", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for agents: %w: another port goes with --listen", err)
	}
	return l, nil
}
