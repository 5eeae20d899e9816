package agents

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/parent/guard/lsm"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/policy"
)

// The backends: what decides about an agent's files and programs. The names are those of the visa's claim.
const (
	Broker = "broker" // Landlock, seccomp and the warden
	LSM    = "lsm"    // programs of BPF LSM
)

// FileGuard holds the files of agents in the kernel; lsm.Guard is one.
type FileGuard interface {
	Arm(lsm.Agent) error
	Reload(cgroupID uint64, permit *policy.Policy) error
	Extend(cgroupID uint64, deadline int64) error
	Disarm(cgroupID uint64) error
	Agents() []uint64
	Counters(cgroupID uint64) (lsm.Counters, error)
	drainer
	Permit(lsm.Grant) error
	Level(cgroupPath string) (uint32, error)
	Verdict(lsm.Event) journal.Verdict
}

// chooseBackend says what will hold the files of an agent that asks for a policy. What only watches is left to the warden, which
// sees all that a program does, and not only what was refused.
func (h *Host) chooseBackend(a *Agent, asked *policy.Policy) {
	a.backend = Broker
	if h.options.Files == nil {
		return
	}
	if m := mode(asked); m != policy.Enforce {
		return
	}
	if asked.Filesystem != nil {
		if _, err := floor.Resolved(asked).FileTable(); err != nil {
			a.notes = append(a.notes, fmt.Sprintf("backend broker for this agent: %v", err))
			return
		}
	}
	a.backend = LSM
}

// admit lets the runner into its cgroup, of which the file guard knows nothing yet: until its program is about to be executed
// it does what `raypher run` does.
func (h *Host) admit(cgroupID uint64) error {
	if h.options.Files == nil {
		return nil
	}
	err := h.options.Files.Arm(lsm.Agent{CgroupID: cgroupID, Permit: &policy.Policy{Mode: policy.Permissive}, Deadline: math.MaxInt64})
	if err != nil {
		return fmt.Errorf("admitting the runner: %w", err)
	}
	return nil
}

// dismiss forgets a cgroup that nothing runs in any more.
func (h *Host) dismiss(cgroupID uint64) error {
	if h.options.Files == nil {
		return nil
	}
	return h.options.Files.Disarm(cgroupID)
}

// hold puts the agent's rules for files in force, if the kernel is to hold them.
func (a *Agent) hold() error {
	if a.backend != LSM {
		return nil
	}
	o, g := a.host.options, a.current()
	permit := floor.ResolvedWithin(g.permit, a.launchPermit)
	err := o.Files.Arm(lsm.Agent{
		CgroupID: a.group.ID(), Permit: permit, Deadline: g.deadline,
		Closed: o.Paths.Closed(), Sealed: instance.Sealed(),
		Devices: a.terminals, Loaders: floor.Loaders(permit, a.program), Sockets: []string{o.Paths.AgentSocket},
	})
	if err != nil {
		return fmt.Errorf("arming the file guard: %w", err)
	}
	return nil
}

// extendFiles and reloadFiles let the file guard follow a grant.
func (a *Agent) extendFiles(g grant) error {
	if a.backend != LSM {
		return nil
	}
	return a.host.options.Files.Extend(a.group.ID(), g.deadline)
}

func (a *Agent) reloadFiles(g grant) error {
	if a.backend != LSM {
		return nil
	}
	return a.host.options.Files.Reload(a.group.ID(), floor.ResolvedWithin(g.permit, a.launchPermit))
}

// findAgain is hold for an agent of an earlier raypherd. What the kernel holds of it was pinned, and is written anew.
func (a *Agent) findAgain() error {
	h := a.host
	switch {
	case a.backend == LSM && h.options.Files == nil:
		return errors.New("programs of BPF LSM hold its files, and this raypherd uses none: start it with --backend lsm")
	case a.backend == LSM:
		return a.hold()
	case h.options.Files != nil && !slices.Contains(h.options.Files.Agents(), a.group.ID()):
		return h.admit(a.group.ID())
	}
	return nil
}

// terminalsOf are the terminals on the standard descriptors of a process, by path: it may open them again.
func terminalsOf(runner *task.Task) []string {
	var found []string
	for fd := range 3 {
		link := fmt.Sprintf("/proc/%d/fd/%d", runner.PID(), fd)
		path, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(path, "/dev/") || slices.Contains(found, path) {
			continue
		}
		var open, named unix.Stat_t
		if unix.Stat(link, &open) != nil || unix.Stat(path, &named) != nil {
			continue
		}
		if open.Mode&unix.S_IFMT == unix.S_IFCHR && open.Dev == named.Dev && open.Ino == named.Ino {
			found = append(found, path)
		}
	}
	if !runner.Alive() {
		return nil
	}
	return found
}

// FileEvent takes what the file guard refused.
func (h *Host) FileEvent(e lsm.Event) {
	if a, ok := h.ByCgroup(e.CgroupID); ok && a.backend != LSM {
		return // the warden tells
	}
	v := h.options.Files.Verdict(e)
	h.outside(v, e.CgroupID, e.Mode)
}

// drainer is a guard that can say when all that it refused was told.
type drainer interface{ Drain(context.Context) error }

// drainLimit bounds the wait for what the kernel reported of an agent that has ended. It lies there already.
const drainLimit = 5 * time.Second

// drain has everything told that the kernel refused the agent while it is still known: its last process has ended, so nothing is to come.
// It returns the file guard's own count.
func (a *Agent) drain() (refused uint64) {
	ctx, cancel := context.WithTimeout(a.host.ctx, drainLimit)
	defer cancel()
	var err error
	if guard, ok := a.host.options.Guard.(drainer); ok {
		err = guard.Drain(ctx)
	}
	held := a.backend == LSM && a.host.options.Files != nil
	if held {
		err = errors.Join(err, a.host.options.Files.Drain(ctx))
	}
	if err != nil {
		a.host.options.Log.Error("what an agent was refused last may be told without its name", "agent", a.id, "error", err)
	}
	if !held {
		return 0
	}
	c, err := a.host.options.Files.Counters(a.group.ID())
	if err != nil {
		return 0 // it was never armed
	}
	return c.Refused
}

// permitTime is how long the kernel lets through what a person allowed once: until the warden has performed the call.
const permitTime = 10_000_000_000 // nanoseconds

// permitted tells the kernel what a person allowed, before the warden acts on it: it asks again what is opened and executed.
func (a *Agent) permitted(q journal.Question, until int64) error {
	access, ok := map[string]policy.Access{
		"open-read": policy.Read, "open-write": policy.Write, "open-read-write": policy.Read | policy.Write,
		"create": policy.Read | policy.Write, "exec": policy.Read | policy.Exec, "map-exec": policy.Read | policy.Exec,
	}[q.Operation]
	if a.backend != LSM || !ok {
		return nil
	}
	grant := lsm.Grant{CgroupID: a.group.ID(), Path: q.Target, Access: access, Until: until}
	if until == 0 {
		grant.Once, grant.Until = true, boottime()+permitTime
	}
	return a.host.options.Files.Permit(grant)
}

// terms are those of the agent's permit on this host.
func (a *Agent) terms(permit []byte) attend.Terms {
	o := a.host.options
	return attend.Terms{Permit: permit, AgentSocket: o.Paths.AgentSocket, ClosedPaths: o.Paths.Closed(), FilesHeld: a.backend == LSM}
}
