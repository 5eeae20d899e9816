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
	held, more := h.heldFor()
	problems = errors.Join(problems, more)
	if h.options.Isolation != nil {
		problems = errors.Join(problems, h.options.Isolation.Clean(func(id string) bool { return known[id] }))
	}
	for _, id := range armed {
		if _, ok := h.ByCgroup(id); !ok {
			problems = errors.Join(problems, h.options.Guard.Disarm(id))
		}
	}
	if h.options.Files == nil {
		return problems
	}
	for _, id := range h.options.Files.Agents() {
		if _, ok := h.ByCgroup(id); !ok && !slices.Contains(held, id) { // its deadline closes what is held
			problems = errors.Join(problems, h.options.Files.Disarm(id))
		}
	}
	return problems
}

// heldFor lists the cgroups that are attached for no agent that goes on. Their programs are not ours to end, and to let them go would
// open them: the guard stays there, without an entry, and refuses everything until an operator detaches them.
func (h *Host) heldFor() (held []uint64, problems error) {
	for _, id := range h.options.Guard.Attached() {
		if _, ok := h.ByCgroup(id); ok {
			continue
		}
		path, ok := h.options.Cgroups.Numbered(id)
		if !ok {
			problems = errors.Join(problems, h.options.Guard.Detach(id))
			continue
		}
		held = append(held, id)
		h.options.Log.Error("an attached cgroup does not go on and is closed: `raypher detach --cgroup` lets it go", "cgroup", path)
	}
	return held, problems
}

// adoptAttached lets one attached agent go on.
func (h *Host) adoptAttached(r *record) error {
	path, err := h.options.Cgroups.Folder(r.Attached)
	if err != nil {
		return err
	}
	group, err := h.options.Cgroups.Attach(r.ID, path)
	ended := errors.New("it has ended") // heldFor takes the guard away
	switch {
	case errors.Is(err, cgroup.ErrEmpty) && group.ID() == r.CgroupID:
		return errors.Join(ended, group.Remove())
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, cgroup.ErrEmpty), err == nil && group.ID() != r.CgroupID:
		return ended
	}
	if err != nil {
		return err
	}
	a, err := h.revive(r)
	if err != nil {
		return err
	}
	a.group = group
	a.rememberNetwork()
	a.tally.partly.Store(true)
	if err := group.Mark(); err != nil {
		return err
	}
	empty, err := group.Empty()
	if err != nil {
		return err
	}
	if err := a.arm(); err != nil {
		return err
	}
	h.shares.Keep(a.id, a.share())
	a.start(empty)
	return nil
}

// adopt lets one agent go on.
func (h *Host) adopt(r *record, boot string, armed []uint64) error {
	if r.Boot != boot {
		return errors.New("the machine was started anew")
	}
	if r.Attached != "" {
		return h.adoptAttached(r)
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
	a.rememberNetwork()
	a.tally.partly.Store(true)
	if !slices.Contains(armed, group.ID()) {
		err := h.options.Guard.Arm(netguard.Agent{
			CgroupID: group.ID(), Network: a.grant.permit.Network, Mode: mode(a.grant.permit), Deadline: a.grant.deadline,
			Isolated: a.isolated(),
		})
		if err != nil {
			return errors.Join(fmt.Errorf("arming the network guard: %w", err), a.warden.Close())
		}
	}
	if err := a.connected(); err != nil {
		return errors.Join(err, a.warden.Close())
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
