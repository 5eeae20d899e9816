package agents

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/manifest"
	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/doctor"
	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/parent/namespaces"
	"github.com/raypher/raypher/policy"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/raypher/raypher/visa"
)

// Caller is the process at the other end of a unix socket.
type Caller struct {
	Task   *task.Task
	UID    uint32
	Groups []uint32
}

// defaultNamespace is the namespace of a policy that names none.
const defaultNamespace = "default"

// maxName bounds an agent's name, in bytes.
const maxName = 63

// Launch makes an agent out of the runner that l names: after it the runner is inside, the guard is armed, and it may take its
// floor and execute the program. The caller is the agent's warden from then on; it is told the secret, which it shows
// when it reattaches. On an error nothing is left behind and the runner is where it was, and the warden no operator any more.
//
// expect is called with what will most likely be granted, before the enclave is asked.
func (h *Host) Launch(ctx context.Context, caller Caller, l *attend.Launch, expect func(attend.Terms)) (a *Agent, secret []byte, err error) {
	begun := boottime()
	runner, id, err := h.checkCaller(caller, l)
	if err != nil {
		return nil, nil, err
	}
	defer runner.Close()
	if err := h.reserve(id.UID); err != nil {
		return nil, nil, err
	}
	defer h.release(id.UID)
	if a, err = h.describe(l, id.UID); err != nil {
		return nil, nil, err
	}
	asked, err := h.readRules(ctx, a, l)
	if err != nil {
		return nil, nil, err
	}
	if err := h.shares.Room(namespaces.ShareOf(a.namespace, a.name, asked)); err != nil {
		return nil, nil, fmt.Errorf("launch: %w", err)
	}
	program, err := runner.OpenFile(int(l.ProgramFD))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the program: %w", ErrInvalid, err)
	}
	defer program.Close()
	if err := mayExecute(program, id.UID); err != nil {
		return nil, nil, fmt.Errorf("%w: the program: user %d may not execute it: %w", ErrInvalid, id.UID, err)
	}
	if a.digest, err = h.digests.of(program); err != nil {
		return nil, nil, err
	}
	// Moving takes the kernel as long as all the rest: it goes on beside it.
	entered := make(chan error, 1)
	go func() { entered <- errors.Join(h.enter(a, runner), h.retire(caller.Task)) }()
	described := make(chan description, 1)
	go func() { described <- h.askDescription(ctx) }()
	expect(a.terms(h.expected.of(a)))
	g, reply, err := a.mint(ctx, begun, nil, nil)
	if err == nil {
		h.expected.keep(a, reply.Permit)
		err = h.fix(a, g, reply, <-described)
	}
	if err == nil {
		err = h.claim(a)
	}
	if err := errors.Join(err, <-entered); err != nil {
		return nil, nil, errors.Join(err, a.leave())
	}
	secret = make([]byte, 32)
	rand.Read(secret)
	hash := sha256.Sum256(secret)
	a.secretHash = hash[:]
	if err := h.install(a, caller, runner); err != nil {
		return nil, nil, errors.Join(err, a.leave())
	}
	return a, secret, nil
}

// checkCaller says whether the warden may make an agent of the runner: neither may be governed already, and the runner must
// run as the warden does, unless that is root.
func (h *Host) checkCaller(caller Caller, l *attend.Launch) (*task.Task, task.Identity, error) {
	fail := func(format string, args ...any) (*task.Task, task.Identity, error) {
		return nil, task.Identity{}, fmt.Errorf("%w: launch: "+format, append([]any{ErrNotAllowed}, args...)...)
	}
	kind, _, err := h.Whose(caller.Task)
	if err != nil {
		return fail("%w", err)
	}
	if kind != Outside {
		return fail("process %d belongs to an agent: an agent cannot start another one", caller.Task.PID())
	}
	if int(l.RunnerPID) <= 1 || int(l.RunnerPID) == caller.Task.PID() {
		return fail("process %d cannot become an agent", l.RunnerPID)
	}
	runner, err := task.Open(int(l.RunnerPID))
	if err != nil {
		return fail("%w", err)
	}
	kind, _, err = h.Whose(runner)
	if err == nil && kind != Outside {
		err = fmt.Errorf("process %d belongs to an agent already", runner.PID())
	}
	var id task.Identity
	if err == nil {
		id, err = runner.Identity()
	}
	if err == nil && caller.UID != 0 && caller.UID != id.UID {
		err = fmt.Errorf("process %d runs as user %d, you are user %d", runner.PID(), id.UID, caller.UID)
	}
	if err != nil {
		runner.Close()
		return fail("%w", err)
	}
	return runner, id, nil
}

// describe begins an agent with what needs no reading of rules.
func (h *Host) describe(l *attend.Launch, uid uint32) (*Agent, error) {
	if _, err := visa.ParseConfirmationKey(l.ConfirmationKey); err != nil {
		return nil, fmt.Errorf("%w: launch: the warden's key: %w", ErrInvalid, err)
	}
	if n := len(l.HandleHash); n != 0 && n != sha256.Size {
		return nil, fmt.Errorf("%w: launch: the hash of its placeholder key has %d bytes, use %d", ErrInvalid, n, sha256.Size)
	}
	var budget cost.Amount
	if l.Budget != "" {
		var err error
		if budget, err = cost.ParseAmount(l.Budget); err == nil && budget == 0 {
			err = errors.New("it must be more than 0")
		}
		if err != nil {
			return nil, fmt.Errorf("%w: launch: budget %.40q: %w", ErrInvalid, l.Budget, err)
		}
	}
	if !filepath.IsAbs(l.Program) || !filepath.IsAbs(l.Home) {
		return nil, fmt.Errorf("%w: launch: program %.200q and home %.200q must be absolute paths", ErrInvalid, l.Program, l.Home)
	}
	random := make([]byte, 6)
	rand.Read(random)
	a := &Agent{
		host: h, id: hex.EncodeToString(random),
		name: agentName(l), uid: uid,
		policyHome: filepath.Clean(l.Home), program: l.Program, argv: l.Argv, runnerPID: int(l.RunnerPID),
		confirmation: l.ConfirmationKey, handle: l.HandleHash, budget: uint64(budget),
		started: time.Now(),
	}
	a.user, a.home = "uid-"+strconv.Itoa(int(uid)), "/nonexistent"
	if u, err := user.LookupId(strconv.Itoa(int(uid))); err == nil {
		a.user, a.home = u.Username, filepath.Clean("/"+u.HomeDir)
	}
	return a, nil
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// agentName is the name under which the agent appears in its SPIFFE ID, whose path segments take letters, digits, dot,
// dash and underscore (SPIFFE-ID, section 2.2).
func agentName(l *attend.Launch) string {
	name := l.Name
	if name == "" {
		name = filepath.Base(l.Program)
	}
	name = notInNames.ReplaceAllString(name, "-")
	if len(name) > maxName {
		name = name[:maxName]
	}
	if strings.Trim(name, ".-") == "" {
		return "agent"
	}
	return name
}

// readRules reads policy and manifest, and returns what both together ask for. What the enclave is asked for is their canonical form; the
// inclusion is checked here too, so that an excess is listed even when no enclave answers.
func (h *Host) readRules(ctx context.Context, a *Agent, l *attend.Launch) (*policy.Policy, error) {
	written, name, err := h.readPolicy(ctx, a, l)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if l.DryRun || h.options.DryRun {
		audit := *written
		audit.Mode = policy.Audit
		written = &audit
	}
	a.namespace = written.Namespace
	if a.namespace == "" {
		a.namespace = defaultNamespace
	}
	hash := written.Hash()
	a.sourceHash = hash[:]
	asked, err := written.Expand(a.policyHome)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	a.asked = asked.Canonical()
	h.chooseBackend(a, asked)
	if len(l.Manifest) == 0 {
		return asked, nil
	}
	permissions, err := h.readManifest(a, l)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	narrowed, err := policy.Narrow(asked, permissions)
	if err != nil {
		return nil, fmt.Errorf("%w: %s asks for more than %s: %w", ErrInvalid, l.ManifestPath, name, err)
	}
	a.manifest = permissions.Canonical()
	return narrowed, nil
}

// readPolicy reads the policy that the launch names: its own, one of the controller (fleet:NAME), or the host's.
func (h *Host) readPolicy(ctx context.Context, a *Agent, l *attend.Launch) (*policy.Policy, string, error) {
	source, name := l.Policy, l.PolicyPath
	if of, ok := strings.CutPrefix(name, attend.FleetPolicy); ok && len(source) == 0 {
		p, err := h.fleetPolicy(ctx, a, of)
		return p, name, err
	}
	if len(source) == 0 {
		source, name = h.defaultPolicy(), h.options.PolicyPath
	}
	if len(source) == 0 {
		return nil, "", fmt.Errorf("launch: no policy: give one with --policy, or lay down %s for this host", h.options.PolicyPath)
	}
	written, err := policy.Parse(name, source)
	return written, name, err
}

// fleetPolicy is the version of a policy of the controller that is for the agent.
func (h *Host) fleetPolicy(ctx context.Context, a *Agent, name string) (*policy.Policy, error) {
	if h.options.FleetPolicy == nil {
		return nil, fmt.Errorf("launch: policy %s%s: this host has no controller: its start configuration names none", attend.FleetPolicy, name)
	}
	description, err := h.options.Enclave.Describe(ctx)
	if err != nil {
		return nil, fmt.Errorf("launch: policy %s%s: whom it is for: %w", attend.FleetPolicy, name, err)
	}
	r, err := h.options.FleetPolicy(name, func(p *policy.Policy) string {
		namespace := p.Namespace
		if namespace == "" {
			namespace = defaultNamespace
		}
		return "spiffe://" + description.GetTrustDomain() + "/ns/" + namespace + "/agent/" + a.name
	})
	if err != nil {
		return nil, fmt.Errorf("launch: policy %s%s: %w", attend.FleetPolicy, name, err)
	}
	h.options.Log.Info("an agent begins with a policy of the controller", "agent", a.name, "policy", name, "version", r.Version)
	return r.Policy, nil
}

func (h *Host) readManifest(a *Agent, l *attend.Launch) (*policy.Policy, error) {
	if !filepath.IsAbs(l.ManifestPath) {
		return nil, fmt.Errorf("manifest %q: its path must be absolute", l.ManifestPath)
	}
	m, err := manifest.ParseFile(l.ManifestPath, l.Manifest)
	if err != nil {
		return nil, err
	}
	var signers manifest.Signers
	if l.ManifestSigners == "" {
		if signers, err = manifest.LoadSigners(h.options.Signers); err != nil {
			return nil, err
		}
	}
	var permissions *policy.Policy
	err = asUser(a.uid, func() (err error) {
		if l.ManifestSigners != "" {
			if signers, err = manifest.LoadSigners(l.ManifestSigners); err != nil {
				return err
			}
		}
		root := filepath.Dir(l.ManifestPath)
		if err := errors.Join(m.Verify(signers), m.VerifyFiles(root)); err != nil {
			return fmt.Errorf("%s: %w", l.ManifestPath, err)
		}
		permissions, err = m.Permissions(root)
		return err
	})
	if err != nil {
		return nil, err
	}
	return permissions.Expand(a.policyHome)
}

// visaSkew is how far the time of a visa may be from this host's, its making included, before that is said.
const visaSkew = 30 * time.Second

// mint asks the enclave for a visa on an intent within the agent's policy and manifest; nil: on all of it.
func (a *Agent) mint(ctx context.Context, begun int64, intent []byte, asked *parentv1.RequestVisaRequest) (grant, *enclavev1.MintReply, error) {
	request := &enclavev1.MintRequest{
		Policy: a.asked, Manifest: a.manifest, Intent: intent, PolicySourceHash: a.sourceHash,
		Namespace: a.namespace, Name: a.name, ConfirmationKey: a.confirmation, HandleHash: a.handle, RunBudget: a.budget,
		Asserted: &enclavev1.Asserted{
			AgentId: a.id, Uid: a.uid, User: a.user, Home: a.home, Pid: int32(a.runnerPID),
			BinarySha256: a.digest, Backend: a.backend, Host: a.host.options.Hostname, Cgroup: a.attached,
		},
	}
	if asked != nil {
		request.Audience, request.Nonce, request.TtlSeconds = asked.Audience, asked.Nonce, asked.TtlSeconds
	}
	reply, err := a.host.options.Enclave.Mint(ctx, request)
	if err != nil {
		return grant{}, nil, fmt.Errorf("%w: %w", ErrEnclave, err)
	}
	permit, err := policy.ParseCanonical(reply.Permit)
	if err != nil {
		return grant{}, nil, fmt.Errorf("%w: its permit cannot be read: %w", ErrEnclave, err)
	}
	claims, err := visa.Read(reply.Visa)
	if err != nil {
		return grant{}, nil, fmt.Errorf("%w: its visa cannot be read: %w", ErrEnclave, err)
	}
	// What is asked for is kept in the record of the agent; what was granted at the launch binds, whatever it says.
	var key []byte // of the launch: see fix
	if a.launchPermit != nil {
		if err := a.withinLaunch(permit); err != nil {
			return grant{}, nil, fmt.Errorf("%w: %w", ErrEnclave, err)
		}
		if key, err = a.signer(ctx, reply.Visa); err != nil {
			return grant{}, nil, fmt.Errorf("%w: who signed its visa: %w", ErrEnclave, err)
		}
	}
	if apart := time.Since(time.Unix(claims.IssuedAt, 0)); apart.Abs() > visaSkew {
		a.host.options.Log.Warn(doctor.ClockSkew("the enclave", apart).Error())
	}
	lifetime := time.Duration(reply.LifetimeSeconds) * time.Second
	return grant{
		visa: reply.Visa, visaID: claims.ID, enclaveKey: key, policyHash: reply.PolicyHash, permit: permit, intent: intent,
		expires: reply.ExpiresUnix, lifetime: lifetime, deadline: begun + int64(lifetime),
	}, reply, nil
}

// description is what the enclave says of itself, or why it does not.
type description struct {
	*enclavev1.Description
	err error
}

func (h *Host) askDescription(ctx context.Context) description {
	d, err := h.options.Enclave.Describe(ctx)
	return description{d, err}
}

// fix completes the agent with what the enclave said of its visa and of itself. Which key signed is not taken on trust: every
// raypherd holds its enclave to the key that it pinned.
func (h *Host) fix(a *Agent, g grant, reply *enclavev1.MintReply, enclave description) error {
	claims, err := visa.Read(reply.Visa)
	if err != nil {
		return fmt.Errorf("%w: its visa cannot be read: %w", ErrEnclave, err)
	}
	if enclave.err != nil {
		return fmt.Errorf("%w: %w", ErrEnclave, enclave.err)
	}
	a.subject, a.tier, a.development = claims.Subject, claims.Tier, enclave.Development
	g.enclaveKey = enclave.PublicKey
	a.gateway = h.gatewayOf(enclave.Description)
	a.grant, a.launchPermit = g, g.permit
	a.launchVisa, a.enclaveKey = g.visa, enclave.PublicKey
	a.notes = slices.Concat(h.options.Cgroups.Notes(limits(g.permit)), h.options.Notes, a.notes)
	return nil
}

// claim gives the agent its share of its namespace, by what it was granted: a ceiling may have given it limits that its policy lacks. What
// binds is the launch's permit, whatever the agent narrows itself to, because the cgroup's limits stay. leave gives it back.
func (h *Host) claim(a *Agent) error {
	if err := h.shares.Claim(a.id, a.share()); err != nil {
		return fmt.Errorf("launch: %w", err)
	}
	return nil
}

func (a *Agent) share() namespaces.Share {
	return namespaces.ShareOf(a.namespace, a.name, a.launchPermit)
}

// limits are what the cgroup holds of a permit.
func limits(p *policy.Policy) cgroup.Limits {
	var l cgroup.Limits
	if r := p.Resources; r != nil {
		if r.MaxMemoryMB != nil {
			l.MemoryBytes = min(*r.MaxMemoryMB, 1<<40) << 20
		}
		if r.MaxProcesses != nil {
			l.Tasks = *r.MaxProcesses
		}
	}
	return l
}

// enter puts the runner into a new cgroup. Nothing is granted there yet: the network guard drops everything of a cgroup that
// it was not told of.
func (h *Host) enter(a *Agent, runner *task.Task) (err error) {
	if a.cameFrom, err = cgroup.Of(runner.PID()); err != nil {
		return err
	}
	group, err := h.options.Cgroups.Create(a.id, int(a.uid))
	if err != nil {
		return err
	}
	a.group = group
	if err := h.admit(group.ID()); err != nil {
		return err
	}
	if !runner.Alive() {
		return fmt.Errorf("%w: launch: process %d: %w", ErrInvalid, runner.PID(), task.ErrGone)
	}
	if err := group.Add(runner.PID()); err != nil {
		return err
	}
	// If it ended in that moment, its pid may be another process's by now; leave puts that one back.
	if !runner.Alive() {
		return fmt.Errorf("%w: launch: process %d: %w", ErrInvalid, runner.PID(), task.ErrGone)
	}
	return nil
}

// retire takes the operator's rights from a process that becomes a warden. It must live: reading its rules may have taken as long as the
// caller wanted, and whoever has its pid since, an agent's process maybe, is not moved.
func (h *Host) retire(warden *task.Task) error {
	gone := fmt.Errorf("launch: the warden: %w", task.ErrGone)
	if !warden.Alive() {
		return gone
	}
	if err := h.options.Cgroups.AddWarden(warden.PID()); err != nil {
		return err
	}
	if !warden.Alive() { // then whoever got its pid in this moment was moved, and is refused as a warden; that is all
		return gone
	}
	return nil
}

// leave undoes enter, and claim.
func (a *Agent) leave() error {
	a.host.shares.Release(a.id)
	if a.group == nil {
		return nil
	}
	return errors.Join(a.group.Evict(a.cameFrom), a.host.dismiss(a.group.ID()), a.group.Remove())
}

// install bounds the agent, arms the guard for it and makes it known. On an error only the cgroup is left.
func (h *Host) install(a *Agent, caller Caller, runner *task.Task) (err error) {
	// The enclave, or a warden that reads slowly, took its time: whoever has the runner's pid by now is not bounded.
	if !runner.Alive() {
		return fmt.Errorf("%w: launch: process %d: %w", ErrInvalid, runner.PID(), task.ErrGone)
	}
	if err := a.group.Limit(limits(a.launchPermit), runner.PID()); err != nil {
		return err
	}
	if r := a.launchPermit.Resources; r != nil && r.MaxFDs != nil {
		if err := runner.LimitFiles(*r.MaxFDs); err != nil {
			return err
		}
	}
	empty, err := a.group.Empty()
	if err != nil {
		return err
	}
	err = h.options.Guard.Arm(netguard.Agent{
		CgroupID: a.group.ID(), Network: a.grant.permit.Network, Mode: mode(a.grant.permit), Deadline: a.grant.deadline,
		Isolated: a.isolated(),
	})
	if err != nil {
		return fmt.Errorf("arming the network guard: %w", err)
	}
	a.terminals = terminalsOf(runner)
	if err := a.become(caller); err != nil {
		return errors.Join(err, h.options.Guard.Disarm(a.group.ID()))
	}
	a.start(empty)
	return nil
}
