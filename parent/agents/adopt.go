package agents

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/guard/net"
)

// endTimeout is how long Adopt waits for the processes of a cgroup that it does not know to be gone.
const endTimeout = 5 * time.Second

// Adopt finds the agents that an earlier raypherd left. Those with a record, the same cgroup and a living warden go on, and
// their wardens are awaited. Everything else in the cgroup of all agents is killed: nobody watches over it. Call it once,
// before the first launch. The error tells what could not be cleaned up; the host is usable all the same.
func (h *Host) Adopt() error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	records, problems := readRecords(h.options.Paths.Records)
	armed := h.options.Guard.Agents()
	known := make(map[string]bool)
	for i := range records {
		r := &records[i]
		if err := h.adopt(r, boot, armed); err != nil {
			h.options.Log.Warn("an agent of the earlier raypherd does not go on", "agent", r.ID, "reason", err)
			problems = errors.Join(problems, (&Agent{host: h, id: r.ID}).forget())
			continue
		}
		known[r.ID] = true
	}
	problems = errors.Join(problems, h.clear(known))
	for _, id := range armed {
		if _, ok := h.ByCgroup(id); !ok {
			problems = errors.Join(problems, h.options.Guard.Disarm(id))
		}
	}
	if h.options.Files == nil {
		return problems
	}
	for _, id := range h.options.Files.Agents() {
		if _, ok := h.ByCgroup(id); !ok {
			problems = errors.Join(problems, h.options.Files.Disarm(id))
		}
	}
	return problems
}

// adopt lets one agent go on.
func (h *Host) adopt(r *record, boot string, armed []uint64) error {
	if r.Boot != boot {
		return errors.New("the machine was started anew")
	}
	group, err := h.options.Cgroups.Find(r.ID)
	if errors.Is(err, fs.ErrNotExist) || err == nil && group.ID() != r.CgroupID {
		return errors.New("its cgroup is gone")
	}
	if err != nil {
		return err
	}
	if !group.Populated() {
		return errors.New("it has ended")
	}
	a, err := h.revive(r)
	if err != nil {
		return err
	}
	a.group = group
	a.tally.partly.Store(true)
	if !slices.Contains(armed, group.ID()) {
		err := h.options.Guard.Arm(netguard.Agent{
			CgroupID: group.ID(), Network: a.grant.permit.Network, Mode: mode(a.grant.permit), Deadline: a.grant.deadline,
		})
		if err != nil {
			return errors.Join(fmt.Errorf("arming the network guard: %w", err), a.warden.Close())
		}
	}
	if err := a.findAgain(); err != nil {
		return errors.Join(err, a.warden.Close())
	}
	empty, err := group.Empty()
	if err != nil {
		return errors.Join(err, a.warden.Close())
	}
	h.shares.Keep(a.id, a.share())
	a.start(empty)
	return nil
}

// clear ends what runs in our cgroup without being a known agent.
func (h *Host) clear(known map[string]bool) error {
	names, err := h.options.Cgroups.Agents()
	if err != nil {
		return err
	}
	var problems error
	for _, name := range names {
		if known[name] {
			continue
		}
		group, err := h.options.Cgroups.Find(name)
		if err == nil {
			err = h.clearOne(group)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = errors.Join(problems, err)
		}
	}
	return problems
}

func (h *Host) clearOne(group *cgroup.Group) error {
	if group.Populated() {
		h.options.Log.Warn("processes of no known agent are ended", "cgroup", group.Path())
		if err := group.Kill(); err != nil {
			return err
		}
	}
	empty, err := group.Empty()
	if err != nil {
		return err
	}
	select {
	case <-empty:
		return group.Remove()
	case <-time.After(endTimeout):
		return fmt.Errorf("%s: its processes are killed and not yet gone", group.Path())
	}
}
