// Package daemon is raypherd: it brings the parts of the parent up in the one order in which nothing is half started, keeps
// them, and takes them down so that the guard of running agents stays. cmd/raypherd calls Run.
//
// The order: host checked, instance locked, policy read; journal, enclave; cgroup; listeners opened; network guard attached;
// agents of an earlier raypherd adopted; then, and not before, somebody is served.
//
// Ending (SIGTERM, or a crash at any point) leaves the cgroups and the pinned programs in place while there are agents: they go
// on under them, and the next raypherd finds them. A private instance ends with its last agent; nothing but its state is left.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/approvals"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/dns"
	"github.com/raypher/raypher/parent/events"
	"github.com/raypher/raypher/parent/fleet"
	"github.com/raypher/raypher/parent/gateway"
	"github.com/raypher/raypher/parent/guard/lsm"
	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/parent/guard/tally"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/parent/namespaces"
	"github.com/raypher/raypher/parent/relay"
	"github.com/raypher/raypher/parent/server"
)

// Auto takes the backend lsm where this kernel does, and the broker elsewhere.
const Auto = "auto"

// Options of one raypherd.
type Options struct {
	Paths         instance.Paths
	Policy        string // path of the host's default policy
	Signers       string // folder of trusted manifest signers
	Namespaces    string // path of the file of what namespaces may use; empty: as much as they like
	EnclaveSocket string // of an enclave that runs already; this and EnclaveMachine empty: start one
	// EnclaveMachine is an enclave in a machine of its own: vsock:CID, or vsock-uds:PATH of its vsock device. It serves at EnclavePort, and
	// waits for its start configuration at the port after that.
	EnclaveMachine string
	EnclavePort    uint32
	// EnclaveTier is the tier that an enclave which runs already has to be of; empty: any.
	EnclaveTier string
	// Measurements is a file with those of the enclave's image: a golden list, signed by one of MeasurementKeys (PEM files), or what `raypher eif
	// measure --json` prints. Empty: an enclave in a machine of its own is known by its key.
	Measurements    string
	MeasurementKeys []string
	NitroRoot       string // PEM file with the root of a laboratory's documents; empty: AWS's
	// EnclaveEgress lists the hosts, host:port, that the enclave may be connected to besides the controller of its start configuration.
	EnclaveEgress []string
	EnclaveBinary string // empty: beside this program
	TPMDevice     string // of the enclave that is started, empty: tier software; with EnclaveMachine this instance's NitroTPM, empty: it shows none
	Development   bool   // the enclave that is started may make an operator key and a ceiling; tier software always may
	Listen        string // for agents over TCP; empty: none
	Gateway       string // for agents' calls of models; empty: none
	Metrics       string // loopback address of metrics for Prometheus; empty: none
	OTLP          string // URL of an OpenTelemetry collector that gets a span of each call of a model; empty: none
	DNSPort       uint16 // 0: one that is free
	DNSUpstreams  []string
	Group         string // of operators
	Backend       string // Auto, agents.LSM or agents.Broker; empty: Auto
	KeepRuns      int    // old private runs whose journals are kept
	DryRun        bool
	XDP           []string // interfaces whose incoming packets are guarded
	CountCalls    bool     // count agents' system calls
	Version       string
	Log           *slog.Logger
}

// daemon holds the parts, in the order in which they were brought up. Taking down goes the other way.
type daemon struct {
	options  Options
	log      *slog.Logger
	group    int
	policy   []byte
	limits   *namespaces.File // of namespaces; nil: there is no such file
	notes    []string
	store    *audit.Store
	enclave  *enclave
	fleet    *fleet.Client // nil: no controller is configured
	cgroups  *cgroup.Parent
	loopback net.Listener
	gateway  *gateway.Server // nil: agents call no models here
	metrics  net.Listener    // nil: none are served
	dns      *dns.Server
	guard    *netguard.Guard
	calls    *tally.Tally // nil: nobody wants system calls counted
	files    *lsm.Guard   // nil: the broker holds files
	hub      *events.Hub
	desk     *approvals.Desk
	wires    *isolation
	agents   *agents.Host
	server   *server.Server
	relay    *relay.Server
	// reloading is held while policy and limits are exchanged.
	reloading sync.Mutex
	emptied   chan struct{} // private: the last agent is gone
	down      []func() error
}

// Run serves until ctx ends. An error means that raypherd did not start, or that a part of it failed.
func Run(ctx context.Context, o Options) (err error) {
	d := &daemon{options: o, log: o.Log, emptied: make(chan struct{}, 1)}
	defer func() {
		for i := len(d.down) - 1; i >= 0; i-- {
			err = errors.Join(err, d.down[i]())
		}
	}()
	for _, step := range []func(context.Context) error{
		d.prepare, d.openJournal, d.connectEnclave, d.openFleet, d.openListeners, d.openTelemetry, d.attachGuard, d.countCalls, d.openAgents, d.guardInterfaces, d.openRelay, d.openServer,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return d.serve(ctx)
}

// later registers what takes a part down.
func (d *daemon) later(f func() error) { d.down = append(d.down, f) }

func (d *daemon) prepare(context.Context) (err error) {
	if err := checkHost(); err != nil {
		return err
	}
	if d.policy, err = readPolicy(d.options.Policy); err != nil {
		return err
	}
	if d.limits, err = readNamespaces(d.options.Namespaces); err != nil {
		return err
	}
	if d.group, err = operators(d.options.Group); err != nil {
		return err
	}
	if err := makeFolders(d.options.Paths); err != nil {
		return err
	}
	held, err := lock(d.options.Paths)
	if err != nil {
		return err
	}
	d.later(held.Close)
	if d.options.Paths.Private {
		d.later(func() error { return os.RemoveAll(d.options.Paths.Run) })
	}
	sweep(d.options.Paths, d.log)
	prune(d.options.Paths, d.options.KeepRuns, time.Now(), d.log)
	if err := mountBPF(d.options.Paths.Pins); err != nil {
		return err
	}
	if d.group < 0 && !d.options.Paths.Private {
		d.log.Info("only root can run agents: `groupadd --system " + d.options.Group + "`, then restart, lets the members of that group do so")
	}
	return nil
}

func (d *daemon) openJournal(context.Context) (err error) {
	if d.store, err = audit.Open(d.options.Paths.Journal); err != nil {
		return err
	}
	d.later(d.store.Close)
	for _, r := range d.store.Recovered() {
		d.log.Warn("the journal's torn end was set aside", "recovered", fmt.Sprintf("%+v", r))
	}
	return nil
}

func (d *daemon) connectEnclave(ctx context.Context) (err error) {
	p := d.options.Paths
	if d.options.EnclaveSocket != "" || d.options.EnclaveMachine != "" {
		d.enclave, err = openEnclave(ctx, d.options, d.store)
	} else {
		var binary string
		if binary, err = enclaveBinary(d.options.EnclaveBinary); err != nil {
			return err
		}
		d.enclave, err = startEnclave(ctx, link.LocalOptions{
			Egress: d.options.EnclaveEgress,
			Binary: binary, Socket: p.EnclaveSocket, State: p.EnclaveState, Keys: p.Keys, TPMDevice: d.options.TPMDevice,
			Development: d.options.Development || d.options.TPMDevice == "",
			Store:       d.store, Log: d.log, Progress: func(said string) { d.log.Info(said) },
		})
	}
	if err != nil {
		return err
	}
	d.later(d.enclave.close)
	d.desk = approvals.New(approvals.Options{Record: d.enclave.recordApproval, Proposals: p.Proposals, Log: d.log})
	d.later(func() error { d.desk.Close(); return nil })
	d.hub, err = events.New(events.Options{Record: d.enclave.record, Spool: p.Spool, Log: d.log})
	return err
}

func (d *daemon) openListeners(context.Context) (err error) {
	if d.options.Listen != "" {
		if d.loopback, err = server.ListenLoopback(d.options.Listen); err != nil {
			return err
		}
	}
	if d.options.Gateway != "" {
		if d.gateway, err = gateway.Listen(d.options.Gateway); err != nil {
			return errors.Join(err, d.closeLoopback())
		}
		d.later(func() error { d.gateway.Close(); return nil })
	}
	d.dns, err = dns.Listen(dns.Options{
		Port: d.options.DNSPort, Upstreams: d.options.DNSUpstreams,
		Report:  func(q dns.Query) { d.agents.NameRefused(q) },
		Observe: func(o dns.Observation) { d.agents.NameObserved(o) },
		Asked:   func(id uint64, name string, addr netip.Addr) { d.agents.NameAsked(id, name, addr) },
	})
	if err != nil {
		return errors.Join(err, d.closeLoopback())
	}
	return nil
}

func (d *daemon) closeLoopback() error {
	if d.loopback == nil {
		return nil
	}
	return d.loopback.Close()
}

func (d *daemon) attachGuard(context.Context) (err error) {
	if d.cgroups, err = cgroup.Open(d.options.Paths.Cgroup); err != nil {
		return err
	}
	d.later(d.cgroups.Close)
	var own []netip.AddrPort
	if d.loopback != nil {
		own = append(own, d.loopback.Addr().(*net.TCPAddr).AddrPort())
	}
	if d.gateway != nil {
		own = append(own, d.gateway.Address())
	}
	d.guard, err = netguard.Load(netguard.Options{
		CgroupPath: d.cgroups.Path(), PinDir: d.options.Paths.Pins, DNSPort: d.dns.Port(), GatewayPort: d.gatewayPort(), Own: own,
	})
	if err != nil {
		return fmt.Errorf("network guard: %w", err)
	}
	d.later(d.guard.Close)
	d.notes = slices.Concat(d.guard.Notes(), d.limits.Notes(d.cgroups.Bounds()))
	if err := d.attachFiles(); err != nil {
		return err
	}
	if root := d.options.NitroRoot; root != "" {
		d.notes = append(d.notes[:len(d.notes):len(d.notes)], fmt.Sprintf(testRoot, root))
	}
	d.later(d.leaveNothing)
	return nil
}

func (d *daemon) openAgents(context.Context) error {
	hostname, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name of this host: %w", err)
	}
	var files agents.FileGuard
	if d.files != nil {
		files = d.files
	}
	d.wires = newIsolation(d)
	d.later(d.wires.close)
	d.agents = agents.NewHost(agents.Options{
		Isolation: d.wires, Files: files,
		Paths: d.options.Paths, Cgroups: d.cgroups, Enclave: d.enclave, Guard: d.guard, Events: d.hub, Approvals: d.desk,
		EnclaveKeys: func() ([][32]byte, error) { return link.Pins(filepath.Join(d.options.Paths.Keys, link.PinFile)) },
		FleetPolicy: d.fleetPolicy(), Gateway: d.gatewayAddress(),
		Policy: d.policy, PolicyPath: d.options.Policy, Signers: d.options.Signers, Namespaces: d.limits, DryRun: d.options.DryRun,
		Hostname: hostname, Notes: d.notes, Log: d.log, Gone: d.gone,
	})
	d.later(func() error { d.agents.Detach(); return nil })
	d.dns.Bind(d.whoAsked, d.guard.GrantName)
	d.bindGateway()
	if err := d.agents.Adopt(); err != nil {
		d.log.Error("not everything of the earlier raypherd could be cleaned up", "error", err)
	}
	return nil
}

// whoAsked tells the DNS forwarder whose question it has.
func (d *daemon) whoAsked(proto uint8, local, remote netip.AddrPort) (dns.Agent, bool) {
	id, ok := d.guard.Peer(proto, local, remote)
	if !ok {
		return dns.Agent{}, false
	}
	a, ok := d.agents.ByCgroup(id)
	if !ok {
		return dns.Agent{}, false
	}
	permit := a.Permit()
	return dns.Agent{CgroupID: id, Network: permit.Network, Mode: permit.Mode}, true
}

// openRelay comes before the server: a warden asks as soon as it is one.
func (d *daemon) openRelay(context.Context) (err error) {
	d.relay, err = relay.Listen(relay.Options{Paths: d.options.Paths, Group: d.group, Warden: d.wardenOf, Log: d.log})
	if err == nil {
		d.later(d.relay.Close)
	}
	return err
}

func (d *daemon) openServer(context.Context) (err error) {
	d.server, err = server.New(server.Options{
		Paths: d.options.Paths, Agents: d.agents, Events: d.hub, Approvals: d.desk, Enclave: d.enclave, Fleet: d.fleet, Evidence: evidence{d.store}, Spent: newSpent(d.store),
		Peer: d.guard.Peer, Counters: d.counters, Reload: d.reload, Group: d.group, Loopback: d.loopback,
		Version: d.options.Version, Backend: d.backend(), Notes: d.notes, Log: d.log,
	})
	return err
}

// wardenOf tells the relay whose warden a process is.
func (d *daemon) wardenOf(t *task.Task) (relay.Agent, error) {
	kind, a, err := d.agents.Whose(t)
	if err != nil {
		return nil, err
	}
	if kind != agents.Warden {
		return nil, errNoWarden
	}
	return a, nil
}

var errNoWarden = errors.New("it is the warden of no agent of this raypherd")

// serve runs the parts until ctx ends or one of them fails. Events are taken until the last agent's owner has let go.
func (d *daemon) serve(ctx context.Context) error {
	serving, cancel := context.WithCancel(ctx)
	defer cancel()
	recording, stopRecording := context.WithCancel(context.WithoutCancel(ctx))
	recorded := make(chan error, 1)
	go func() { recorded <- d.hub.Run(recording) }()

	parts, serving := errgroup.WithContext(serving)
	parts.Go(func() error { return d.server.Serve(serving) })
	parts.Go(func() error { return d.relay.Serve(serving) })
	parts.Go(func() error { sayLosses(serving, lossesLooked, d.guard.Statistics, d.log); return nil })
	parts.Go(func() error { d.reloadOnHangup(serving); return nil })
	if d.fleet != nil {
		parts.Go(func() error { d.fleet.Run(serving); return nil })
	}
	parts.Go(func() error { return unlessDone(serving, d.guard.Run(serving, d.agents.NetworkEvent)) })
	if d.files != nil {
		parts.Go(func() error { return unlessDone(serving, d.files.Run(serving, d.agents.FileEvent)) })
	}
	parts.Go(func() error { return unlessDone(serving, d.dns.Serve(serving)) })
	if d.gateway != nil {
		parts.Go(func() error { return unlessDone(serving, d.gateway.Serve(serving)) })
	}
	if !d.options.Paths.Private { // for whose one run nobody counts
		parts.Go(func() error { return unlessDone(serving, d.tell(serving)) })
	}
	if d.options.Paths.Private {
		parts.Go(func() error { d.untilEmpty(serving); cancel(); return nil })
	}
	d.announce()
	err := parts.Wait()
	_, _ = sd.SdNotify(false, sd.SdNotifyStopping) // systemd notices the end by itself
	if d.options.Paths.Private {
		err = errors.Join(err, d.stopAgents())
	}
	d.agents.Detach()
	stopRecording()
	err = errors.Join(err, <-recorded)
	d.log.Info("raypherd ends; the guard of running agents stays", "agents", len(d.agents.List()))
	return err
}

// unlessDone drops the error of a part that was told to end.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// announce says that the guard is in place.
func (d *daemon) announce() {
	for _, note := range d.notes {
		d.log.Warn(note)
	}
	tier := "unknown, the enclave does not answer"
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	if description, err := d.enclave.Describe(ctx); err == nil {
		tier = description.Tier
	}
	d.log.Info("eBPF probes attached successfully",
		"hooks", hooks(d.options.Paths.Pins), "cgroup", d.cgroups.Path(), "pinned", d.guard.Pinned(), "backend", d.backend(), "tier", tier)
	address := "none"
	if d.loopback != nil {
		address = d.loopback.Addr().String()
	}
	d.log.Info("raypherd serves", "socket", d.options.Paths.Socket, "agents over TCP", address, "calls of models", cmp.Or(d.gatewayAddress(), "none"), "metrics", cmp.Or(d.metricsAddress(), "none"), "dns port", d.dns.Port(),
		"adopted agents", len(d.agents.List()), "version", d.options.Version)
	_, _ = sd.SdNotify(false, sd.SdNotifyReady) // without systemd there is nobody to tell
}
