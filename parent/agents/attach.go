package agents

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/attach"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/parent/guard/lsm"
	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/namespaces"
	"github.com/raypher/raypher/policy"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/raypher/raypher/visa"
)

// An attached agent is a cgroup that somebody else made, with what runs in it: it has no warden, no floor and no process of its own
// that could ask for it. The kernel alone holds it: the network guard, attached there once more, and where programs of BPF LSM load
// these. Its deadline closes it like any other; it is never frozen, and killed only when somebody says so. It ends when its last
// process does.

// Network is the backend of an attached agent of which the network section alone is held.
const Network = "network"

// ErrAttach says that a cgroup cannot be attached, and why.
var ErrAttach = errors.New("cannot be attached")

// Attach puts what runs in a cgroup under a policy. On an error nothing has changed for it.
func (h *Host) Attach(ctx context.Context, caller Caller, r *parentv1.AttachRequest) (*Agent, error) {
	begun := boottime()
	if h.options.Paths.Private {
		return nil, fmt.Errorf("%w: attach: this raypherd serves one run and ends with it", ErrNotAllowed)
	}
	h.attaching.Lock() // of two that want the same cgroup the second finds it marked
	defer h.attaching.Unlock()
	group, err := h.attachable(caller, r)
	if err != nil {
		return nil, err
	}
	a, err := h.portray(caller, group, r)
	if err != nil {
		return nil, err
	}
	if err := h.reserve(a.uid); err != nil {
		return nil, err
	}
	defer h.release(a.uid)
	asked, err := h.readAttached(ctx, a, r)
	if err != nil {
		return nil, err
	}
	if err := h.shares.Room(namespaces.ShareOf(a.namespace, a.name, asked)); err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	g, reply, err := a.mint(ctx, begun, nil, nil)
	if err != nil {
		return nil, err
	}
	if err := h.fix(a, g, reply, h.askDescription(ctx)); err != nil {
		return nil, err
	}
	if err := attach.Check(g.permit); err != nil { // a ceiling may have added something of its own
		return nil, fmt.Errorf("%w: attach: %w", ErrInvalid, err)
	}
	a.notes = nil // what a host does not provide is about floors and limits, which there are none of
	if a.uncovered, err = a.survey(); err != nil {
		return nil, err
	}
	if err := h.claim(a); err != nil {
		return nil, err
	}
	if err := h.take(a); err != nil {
		h.shares.Release(a.id)
		return nil, err
	}
	h.options.Log.Info("a cgroup is under the guard", "agent", a.id, "subject", a.subject, "cgroup", a.attached, "backend", a.backend, "by user", a.attachedBy)
	return a, nil
}

// attachable finds the cgroup that is asked for, and says why it cannot be taken. Whether a caller may have it is decided by whom
// its processes belong to.
func (h *Host) attachable(caller Caller, r *parentv1.AttachRequest) (*cgroup.Group, error) {
	path, err := h.named(r)
	if err != nil {
		return nil, fmt.Errorf("%w: attach: %w", ErrInvalid, err)
	}
	random := make([]byte, 6)
	rand.Read(random)
	group, err := h.options.Cgroups.Attach(hex.EncodeToString(random), path)
	if err == nil {
		err = group.Free()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: attach: %w: %w", ErrInvalid, ErrAttach, err)
	}
	pids, err := group.Processes()
	if err != nil {
		return nil, err
	}
	if caller.UID != 0 && !group.Given(caller.UID) {
		return nil, fmt.Errorf("%w: attach: cgroup %s: processes of others may come there: only root attaches a cgroup that has its processes in others below it, unless it was given to the caller (systemd: Delegate=)", ErrNotAllowed, path)
	}
	for _, pid := range pids {
		if what := reserved(pid, caller); what != "" {
			return nil, fmt.Errorf("%w: attach: cgroup %s %w: it holds %s (process %d)", ErrInvalid, path, ErrAttach, what, pid)
		}
		if err := owned(pid, caller); err != nil {
			return nil, fmt.Errorf("%w: attach: cgroup %s: %w", ErrNotAllowed, path, err)
		}
	}
	return group, nil
}

// named finds the folder of the cgroup that a request names in one of three ways.
func (h *Host) named(r *parentv1.AttachRequest) (string, error) {
	ways := 0
	for _, given := range []bool{r.Cgroup != "", r.Pid != 0, r.Unit != ""} {
		if given {
			ways++
		}
	}
	switch {
	case ways != 1:
		return "", errors.New("name one cgroup, process or unit")
	case r.Unit != "":
		return h.options.Cgroups.Named(r.Unit)
	case r.Cgroup != "":
		return h.options.Cgroups.Folder(r.Cgroup)
	}
	t, err := task.Open(int(r.Pid))
	if err != nil {
		return "", err
	}
	defer t.Close()
	path, err := h.options.Cgroups.PathOf(t.PID())
	if err == nil && !t.Alive() {
		err = task.ErrGone
	}
	return path, err
}

// reserved says what a process is that no cgroup may hold which is attached; empty: nothing of that kind.
func reserved(pid int, caller Caller) string {
	switch pid {
	case 1:
		return "the init process"
	case os.Getpid():
		return "raypherd"
	case caller.Task.PID():
		return "the caller itself: attach from elsewhere"
	}
	program, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // what cannot be read has none: a thread of the kernel
	switch name := strings.TrimSuffix(filepath.Base(program), " (deleted)"); name {
	case "raypherd", "raypher-enclave", "raypher-controller":
		return name
	}
	return ""
}

// owned lets root attach everything, and others what is theirs. A set-user-id program is not, nor one that cannot be looked at.
func owned(pid int, caller Caller) error {
	if caller.UID == 0 {
		return nil
	}
	t, err := task.Open(pid)
	var id task.Identity
	if err == nil {
		defer t.Close()
		id, err = t.Identity()
	}
	switch {
	case errors.Is(err, task.ErrGone):
		return nil
	case err != nil:
		return fmt.Errorf("whose process %d in it is cannot be said, and only root attaches others' programs: %w", pid, err)
	case id.UID != caller.UID:
		return fmt.Errorf("process %d in it is user %d's, you are user %d: only root attaches others' programs", pid, id.UID, caller.UID)
	}
	return nil
}

// portray begins the agent with what can be seen of the cgroup's first process. Its visa's key is thrown away: nobody is the warden that
// could prove to have it, and what the visa says it says to whoever reads the journal.
func (h *Host) portray(caller Caller, group *cgroup.Group, r *parentv1.AttachRequest) (*Agent, error) {
	fail := func(err error) (*Agent, error) { return nil, fmt.Errorf("attach: %w", err) }
	pids, err := group.Processes()
	if err != nil {
		return fail(err)
	}
	first := int(r.Pid)
	if first == 0 && len(pids) > 0 {
		first = slices.Min(pids)
	}
	main, err := task.Open(first)
	if err != nil {
		return fail(err)
	}
	defer main.Close()
	id, err := main.Identity()
	if err != nil {
		return fail(err)
	}
	if caller.UID != 0 && id.UID != caller.UID { // its number is another's since it was looked at
		return nil, fmt.Errorf("%w: attach: process %d is user %d's", ErrNotAllowed, first, id.UID)
	}
	switch lies, err := cgroup.Of(first); {
	case err != nil:
		return fail(err)
	case !group.Holds(lies):
		return fail(fmt.Errorf("%w: process %d has left cgroup %s", ErrInvalid, first, group.Path()))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	a := &Agent{
		host: h, id: group.Name(), group: group, uid: id.UID, runnerPID: first, started: time.Now(), state: Running,
		attached: group.Below(), attachedBy: caller.UID, networkOnly: r.NetworkOnly, secretHash: make([]byte, 32),
	}
	if len(a.attached) > visa.MaxText {
		return fail(fmt.Errorf("%w: the cgroup's path has %d bytes, a visa has room for %d", ErrInvalid, len(a.attached), visa.MaxText))
	}
	if a.confirmation, err = visa.ConfirmationKey(&key.PublicKey); err != nil {
		return fail(err)
	}
	a.user, a.home = "uid-"+strconv.Itoa(int(a.uid)), "/nonexistent"
	if u, err := user.LookupId(strconv.Itoa(int(a.uid))); err == nil {
		a.user, a.home = u.Username, filepath.Clean("/"+u.HomeDir)
	}
	a.policyHome = a.home
	exe := fmt.Sprintf("/proc/%d/exe", first)
	if a.program, err = os.Readlink(exe); err != nil {
		return fail(fmt.Errorf("the program of process %d: %w", first, err))
	}
	program, err := os.Open(exe)
	if err != nil {
		return fail(fmt.Errorf("the program of process %d: %w", first, err))
	}
	defer program.Close()
	if a.digest, err = h.digests.of(program); err != nil {
		return fail(err)
	}
	a.terminals = terminalsOf(main)
	if !main.Alive() {
		return fail(fmt.Errorf("process %d: %w", first, task.ErrGone))
	}
	name := r.Name
	if name == "" {
		name = strings.TrimSuffix(strings.TrimSuffix(filepath.Base(group.Path()), ".service"), ".scope")
	}
	a.name = agentName(&attend.Launch{Name: name, Program: a.program})
	return a, nil
}

// readAttached reads the policy and chooses what holds it.
func (h *Host) readAttached(ctx context.Context, a *Agent, r *parentv1.AttachRequest) (*policy.Policy, error) {
	written, name, err := h.readPolicy(ctx, a, &attend.Launch{Policy: r.Policy, PolicyPath: r.PolicyPath})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if h.options.DryRun {
		audit := *written
		audit.Mode = policy.Audit
		written = &audit
	}
	if err := attach.Check(written); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	if a.namespace = written.Namespace; a.namespace == "" {
		a.namespace = defaultNamespace
	}
	hash := written.Hash()
	a.sourceHash = hash[:]
	asked, err := written.Expand(a.policyHome)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	switch {
	case a.networkOnly:
		a.backend, asked = Network, attach.NetworkOnly(asked)
	case h.options.Files == nil:
		return nil, fmt.Errorf("%w: attach: files, programs and signals of programs that run already are held by programs of BPF LSM alone, and this raypherd has none in force (`raypher doctor` says why): "+
			"--network-only holds the network section and nothing else", ErrInvalid)
	default:
		a.backend = LSM
		if asked.Filesystem != nil {
			if _, err := floor.Resolved(asked).FileTable(); err != nil {
				return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
			}
		}
	}
	a.asked = asked.Canonical()
	return asked, nil
}

// survey lists what nothing will hold.
func (a *Agent) survey() ([]string, error) {
	pids, err := a.group.Processes()
	if err != nil {
		return nil, err
	}
	threads, children, err := a.group.Elsewhere()
	if err != nil {
		return nil, err
	}
	return attach.Place{
		PIDs: pids, Threads: threads, Children: children, OwnsAbove: a.group.OwnedAbove(), Files: a.backend == LSM, Network: a.launchPermit.Network,
	}.Uncovered(), nil
}

// take arms both guards and makes the agent known. The record comes first: a raypherd that is killed in the middle leaves nothing that
// the next one does not know of. The entries come before the programs, which refuse everything to a cgroup without one.
func (h *Host) take(a *Agent) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, a.letGo())
		}
	}()
	if err := a.save(); err != nil {
		return err
	}
	if err := a.group.Mark(); err != nil {
		return err
	}
	empty, err := a.group.Empty()
	if err != nil {
		return err
	}
	if err := a.arm(); err != nil {
		return err
	}
	a.start(empty)
	return nil
}

// arm puts the grant of an attached agent in force.
func (a *Agent) arm() error {
	o, g := a.host.options, a.current()
	if isolates(g.permit) {
		return ErrStaysShared
	}
	err := o.Guard.Arm(netguard.Agent{CgroupID: a.group.ID(), Network: g.permit.Network, Mode: mode(g.permit), Deadline: g.deadline})
	if err != nil {
		return fmt.Errorf("arming the network guard: %w", err)
	}
	if err := o.Guard.Attach(a.group.Path()); err != nil {
		return err
	}
	if other, replaced := a.group.Replaced(); replaced { // nothing is armed for that one: it would stay closed, and nobody would know why
		return errors.Join(fmt.Errorf("attach: cgroup %s: %w: it has ended, and another one is in its place: try again", a.attached, ErrAttach), o.Guard.Detach(other))
	}
	if a.backend != LSM {
		return nil
	}
	level, err := o.Files.Level(a.group.Path())
	if err != nil {
		return err
	}
	return a.holdAt(level)
}

// letGo undoes take. What runs there goes on, held by nothing of this agent's any more.
func (a *Agent) letGo() error {
	o, id := a.host.options, a.group.ID()
	var files error
	if a.backend == LSM && o.Files != nil {
		files = o.Files.Disarm(id)
	}
	return errors.Join(files, o.Guard.Detach(id), o.Guard.Disarm(id), a.group.Remove(), a.forget())
}

// LetGo lets an attached agent go, which is journalled. Only root and who attached it may.
func (h *Host) LetGo(ctx context.Context, caller Caller, r *parentv1.DetachRequest) error {
	if r.AgentId == "" {
		return h.detachUnknown(caller, r.Cgroup)
	}
	a, err := h.Agent(r.AgentId)
	if err != nil {
		return err
	}
	if a.attached == "" {
		return fmt.Errorf("%w: agent %s was launched: what it took for itself at its launch nobody can take from it; `raypher agents stop` ends it", ErrInvalid, a.id)
	}
	if err := a.disposes(caller); err != nil {
		return err
	}
	select {
	case a.detaches <- caller.UID:
	case <-a.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-a.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// disposes says whether a caller may detach, end or give other rules to an agent. What was launched is every operator's; programs that run
// anyway were put under the guard by somebody who could, and belong to nobody else.
func (a *Agent) disposes(caller Caller) error {
	if a.attached == "" || caller.UID == 0 || caller.UID == a.attachedBy {
		return nil
	}
	return fmt.Errorf("%w: agent %s was attached by user %d: that user or root may do this", ErrNotAllowed, a.id, a.attachedBy)
}

// detachUnknown frees a cgroup that this raypherd's guard holds for an agent which it no longer knows: see Adopt.
func (h *Host) detachUnknown(caller Caller, name string) error {
	if caller.UID != 0 {
		return fmt.Errorf("%w: detach: only root frees what belongs to no agent", ErrNotAllowed)
	}
	path, err := h.options.Cgroups.Folder(name)
	if err != nil {
		return fmt.Errorf("%w: detach: %w", ErrInvalid, err)
	}
	group, err := h.options.Cgroups.Attach("unknown", path)
	if err != nil && !errors.Is(err, cgroup.ErrEmpty) {
		return fmt.Errorf("%w: detach: %w", ErrInvalid, err)
	}
	if a, ok := h.ByCgroup(group.ID()); ok {
		return fmt.Errorf("%w: detach: cgroup %s is agent %s: `raypher detach %[3]s` lets it go", ErrInvalid, path, a.id)
	}
	if !slices.Contains(h.options.Guard.Attached(), group.ID()) {
		return fmt.Errorf("%w: detach: nothing of this raypherd holds cgroup %s", ErrInvalid, path)
	}
	h.options.Log.Warn("a cgroup of no known agent is let go", "cgroup", path)
	a := &Agent{host: h, id: "unknown", group: group, backend: LSM}
	return a.letGo()
}

// detached ends an attached agent whose programs go on, which the journal says.
func (o *owner) detached(by uint32) {
	o.record(journal.Verdict{
		Time: time.Now().UnixNano(), Decision: journal.Log, Layer: "guard", Operation: "detach", Count: 1,
		Target: o.attached, Rule: "by user " + strconv.Itoa(int(by)),
	}, nil)
	o.end()
}

// closeAttached ends what an attached agent was granted, where the guard did not follow a new grant: the next renewal tries again.
func (o *owner) closeAttached() {
	err := o.host.options.Guard.Renew(o.group.ID(), 0)
	if o.backend == LSM {
		err = errors.Join(err, o.host.options.Files.Extend(o.group.ID(), 0))
	}
	if err != nil {
		o.host.options.Log.Error("an attached agent is not closed", "agent", o.id, "error", err)
	}
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.renewAt = boottime() + int64(o.retry)
	o.retry = min(2*o.retry, maxRetry)
}

// holdAt is hold for a cgroup at that depth of the hierarchy.
func (a *Agent) holdAt(level uint32) error {
	o, g := a.host.options, a.current()
	permit := floor.ResolvedWithin(g.permit, a.launchPermit)
	err := o.Files.Arm(lsm.Agent{
		CgroupID: a.group.ID(), Level: level, Permit: permit, Deadline: g.deadline,
		Closed: o.Paths.Closed(), Sealed: instance.Sealed(),
		Devices: a.terminals, Loaders: floor.Loaders(permit, a.program), Sockets: []string{o.Paths.AgentSocket},
	})
	if err != nil {
		return fmt.Errorf("arming the file guard: %w", err)
	}
	return nil
}
