package netguard

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/policy"
)

// Arm gives an agent its rules, or replaces those it had (Mode and Deadline as well). Its cgroup may hold processes only
// after this.
func (g *Guard) Arm(a Agent) error {
	if a.CgroupID == 0 { // what the kernel says of a process directly in the parent's folder
		return errors.New("network guard: arming an agent: it has no cgroup")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	entry := bpf.NetguardAgent{Deadline: uint64(max(a.Deadline, 0)), Mode: modeNumber(a.Mode)}
	if a.Isolated {
		entry.Isolated = 1
	}
	return g.put(a.CgroupID, entry, a.Network)
}

// Renew moves the deadline of an armed agent.
func (g *Guard) Renew(cgroupID uint64, deadline int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	entry, err := g.entry(cgroupID)
	if err != nil {
		return err
	}
	entry.Deadline = uint64(max(deadline, 0))
	if err := g.endTerm(entry.Slot); err != nil { // it may be earlier than before
		return err
	}
	return explain("network guard: renewing an agent", g.write(entry, ebpf.UpdateExist))
}

// write puts an agent's entry in force, in place: a program that reads it meanwhile finds the old one or the new one, whole. Until its term is
// written as well, packets of open flows ask the entry.
func (g *Guard) write(a bpf.NetguardAgent, how ebpf.MapUpdateFlags) error {
	if err := g.maps.Agents.Update(a.Cgroup, bpf.NetguardAgentEntry{Agent: a}, how|ebpf.UpdateLock); err != nil {
		return err
	}
	return g.maps.Terms.Put(a.Slot, bpf.NetguardTerm{Generation: a.Generation, Deadline: a.Deadline})
}

// endTerm has the packets of open flows ask the agent's entry, from now on.
func (g *Guard) endTerm(slot uint32) error {
	if slot == 0 {
		return nil
	}
	return explain("network guard: ending a term", g.maps.Terms.Put(slot, bpf.NetguardTerm{}))
}

// setTerms makes the terms those of the agents that were found: an earlier raypherd may have ended between two of its writes.
func (g *Guard) setTerms() error {
	const what = "network guard: setting terms"
	all := make([]bpf.NetguardTerm, g.maps.Terms.MaxEntries())
	slots := make([]uint32, len(all))
	for i := range slots {
		slots[i] = uint32(i)
	}
	var id uint64
	var e bpf.NetguardAgentEntry
	it := g.maps.Agents.Iterate()
	for it.Next(&id, &e) {
		if slot := e.Agent.Slot; slot != 0 && int(slot) < len(all) {
			all[slot] = bpf.NetguardTerm{Generation: e.Agent.Generation, Deadline: e.Agent.Deadline}
		}
	}
	if err := it.Err(); err != nil {
		return explain(what, err)
	}
	_, err := g.maps.Terms.BatchUpdate(slots, all, nil)
	return explain(what, err)
}

// generation numbers rules as they are put in force, so that no two have the same, also of a raypherd before or after this one: by the
// nanoseconds since the machine started. g.mu is held.
func (g *Guard) generation() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0, explain("network guard: reading the clock", err)
	}
	g.last = max(g.last+1, uint64(now.Nano()))
	return g.last, nil
}

// Replace puts other rules in force at once; open flows are decided again by their next packet.
func (g *Guard) Replace(cgroupID uint64, n *policy.Network) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	entry, err := g.entry(cgroupID)
	if err != nil {
		return err
	}
	return g.put(cgroupID, entry, n)
}

// Disarm removes an agent's entry: what still runs in its cgroup gets nothing.
func (g *Guard) Disarm(cgroupID uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	entry, err := g.entry(cgroupID)
	if errors.Is(err, ErrUnknownAgent) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := g.endTerm(entry.Slot); err != nil {
		return err
	}
	defer g.dropReplies(entry.Slot)
	if err := g.maps.Agents.Delete(cgroupID); err != nil {
		return explain("network guard: disarming an agent", err)
	}
	g.slots.release(entry.Slot)
	delete(g.lent, cgroupID)
	delete(g.networks, cgroupID)
	delete(g.indexed, cgroupID)
	delete(g.cuts, cgroupID)
	_, err = g.dropNames(cgroupID, g.keeps(cgroupID, nil, nil))
	err = errors.Join(err, g.restoreNames(cgroupID), g.dropTraffic(cgroupID))
	for _, m := range []*ebpf.Map{g.maps.Counts, g.maps.Reported} {
		if e := m.Delete(cgroupID); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
			err = errors.Join(err, explain("network guard: counters of an agent", e))
		}
	}
	return err
}

// Agents lists the armed cgroups, including those found in pinned maps.
func (g *Guard) Agents() []uint64 {
	var all []uint64
	var id uint64
	var a bpf.NetguardAgentEntry
	for it := g.maps.Agents.Iterate(); it.Next(&id, &a); {
		all = append(all, id)
	}
	slices.Sort(all)
	return all
}

// Counters returns the totals of one agent.
func (g *Guard) Counters(cgroupID uint64) (Counters, error) {
	var c bpf.NetguardCounters
	if err := g.maps.Counts.Lookup(cgroupID, &c); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return Counters{}, fmt.Errorf("network guard: cgroup %d: %w", cgroupID, ErrUnknownAgent)
		}
		return Counters{}, explain("network guard: counters of an agent", err)
	}
	return Counters{Refused: c.Refused, WouldBlock: c.WouldBlock, Incoming: c.Incoming}, nil
}

func (g *Guard) entry(cgroupID uint64) (bpf.NetguardAgent, error) {
	var e bpf.NetguardAgentEntry
	err := g.maps.Agents.Lookup(cgroupID, &e)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return e.Agent, fmt.Errorf("network guard: cgroup %d: %w", cgroupID, ErrUnknownAgent)
	}
	return e.Agent, explain("network guard: reading an agent", err)
}

// put writes the rules into a slot of their own, and then the entry that points there: packets are judged by all of the old
// rules or all of the new ones.
func (g *Guard) put(cgroupID uint64, entry bpf.NetguardAgent, n *policy.Network) error {
	const what = "network guard: arming an agent"
	local, _, err := g.hosts.Table()
	if err != nil {
		return err
	}
	if err := g.cutNames(cgroupID); err != nil {
		return err
	}
	rules := rulesOf(n)
	rules = append(append(rules, g.lentTo(cgroupID, n)...), g.cutRules(cgroupID)...)
	entry.Cgroup, entry.Cut = cgroupID, g.cutFlags(cgroupID)
	s, err := g.slots.take() // also where there is no rule: its term is by slot, and there is room for what is lent
	if err != nil {
		return err
	}
	defer s.rules.Close()
	if err := fill(s.rules, rules); err != nil {
		g.slots.release(s.index)
		return err
	}
	entry.Slot = s.index
	entry.Reject, entry.DefaultAllow = 0, 0
	if n != nil && n.OnDeny == policy.Reject {
		entry.Reject = 1
	}
	if n != nil && n.DefaultAction == policy.Allow {
		entry.DefaultAllow = 1
	}
	before, err := g.entry(cgroupID)
	if err != nil && !errors.Is(err, ErrUnknownAgent) {
		g.slots.release(entry.Slot)
		return err
	}
	if entry.Generation, err = g.generation(); err != nil {
		g.slots.release(entry.Slot)
		return err
	}
	err = g.maps.Counts.Update(cgroupID, bpf.NetguardCounters{}, ebpf.UpdateNoExist)
	if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		g.slots.release(entry.Slot)
		return explain(what, err)
	}
	// Names that are no longer granted go first: until the entry is written they are only missing.
	if _, err = g.dropNames(cgroupID, g.keeps(cgroupID, n, local)); err == nil {
		err = g.grantLocal(cgroupID, n)
	}
	if err != nil {
		g.slots.release(entry.Slot)
		return err
	}
	err = g.keepReplies(before.Slot, entry.Slot, n)
	if err == nil {
		err = g.endTerm(before.Slot)
	}
	if err != nil {
		g.slots.release(entry.Slot)
		return err
	}
	if err := g.write(entry, ebpf.UpdateAny); err != nil {
		return explain(what, err) // the slot may be in force
	}
	g.dropReplies(before.Slot)
	g.slots.release(before.Slot)
	g.networks[cgroupID] = n
	return nil
}

func fill(trie *ebpf.Map, rules []rule) error {
	for i, r := range rules {
		if err := trie.Put(r.key, r.says); err != nil {
			return explain(fmt.Sprintf("network guard: rule %d of %d", i+1, len(rules)), err)
		}
	}
	return nil
}

func modeNumber(m policy.Mode) bpf.NetguardMode {
	switch m {
	case policy.Audit:
		return bpf.NetguardModeMODE_AUDIT
	case policy.Permissive:
		return bpf.NetguardModeMODE_PERMISSIVE
	}
	return bpf.NetguardModeMODE_ENFORCE // also for what is unknown
}

func modeName(m bpf.NetguardMode) policy.Mode {
	switch m {
	case bpf.NetguardModeMODE_AUDIT:
		return policy.Audit
	case bpf.NetguardModeMODE_PERMISSIVE:
		return policy.Permissive
	}
	return policy.Enforce
}
