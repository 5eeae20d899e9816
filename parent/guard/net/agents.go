package netguard

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"

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
	return explain("network guard: renewing an agent", g.write(entry, ebpf.UpdateExist))
}

// write puts an agent's entry in force, in place: a program that reads it meanwhile finds the old one or the new one, whole.
func (g *Guard) write(a bpf.NetguardAgent, how ebpf.MapUpdateFlags) error {
	return g.maps.Agents.Update(a.Cgroup, bpf.NetguardAgentEntry{Agent: a}, how|ebpf.UpdateLock)
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
	entry.Slot = 0
	if len(rules) > 0 || n != nil && len(n.RequireApproval) > 0 { // room for what is lent
		s, err := g.slots.take()
		if err != nil {
			return err
		}
		defer s.rules.Close()
		if err := fill(s.rules, rules); err != nil {
			g.slots.release(s.index)
			return err
		}
		entry.Slot = s.index
	}
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
	entry.Generation = before.Generation + 1
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
	if err := g.write(entry, ebpf.UpdateAny); err != nil {
		g.slots.release(entry.Slot)
		return explain(what, err)
	}
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
