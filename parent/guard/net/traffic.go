package netguard

import (
	"errors"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/policy"
)

// Traffic is what passed by one rule of one agent since the agent was armed, and what was dropped. Bytes are those of IP packets, a packet is
// one on the wire. Packets to raypherd itself count for their own rule.
type Traffic struct {
	PacketsOut, BytesOut         uint64
	PacketsIn, BytesIn           uint64
	DroppedPackets, DroppedBytes uint64 // in both directions
}

// Add adds another's.
func (t *Traffic) Add(o Traffic) {
	t.PacketsOut, t.BytesOut = t.PacketsOut+o.PacketsOut, t.BytesOut+o.BytesOut
	t.PacketsIn, t.BytesIn = t.PacketsIn+o.PacketsIn, t.BytesIn+o.BytesIn
	t.DroppedPackets, t.DroppedBytes = t.DroppedPackets+o.DroppedPackets, t.DroppedBytes+o.DroppedBytes
}

// RuleID is how the kernel knows a rule: the numbers of enum rule_id, and hashes of rules of policies, which stay the same when the rules
// are replaced or raypherd is restarted.
type RuleID uint32

// ofPolicy is set in the ids of rules of policies.
const ofPolicy = 1 << 31

func ruleID(list, rule string) bpf.NetguardRuleId {
	return bpf.NetguardRuleId(fnv32(list+" "+rule) | ofPolicy)
}

// The lists of a policy, as rules are named by.
const (
	listEgress  = "egress"
	listListen  = "listen"
	listIngress = "ingress"
)

// RuleNames tells the rules of policies, and those that every agent has, by their ids.
func RuleNames(all ...*policy.Network) map[RuleID]string {
	names := map[RuleID]string{
		RuleID(bpf.NetguardRuleIdRULE_NONE):           "default",
		RuleID(bpf.NetguardRuleIdRULE_OWN):            "raypherd",
		RuleID(bpf.NetguardRuleIdRULE_DEFAULT_ALLOW):  "default_action: allow",
		RuleID(bpf.NetguardRuleIdRULE_LOAN):           "approved",
		RuleID(bpf.NetguardRuleIdRULE_OPERATOR):       "cut",
		RuleID(bpf.NetguardRuleIdRULE_RESERVED_RANGE): "default (reserved address)",
	}
	for _, n := range all {
		for list, endpoints := range map[string][]policy.Endpoint{
			listEgress: n.Endpoints(), listListen: n.ListenEndpoints(), listIngress: n.IngressEndpoints(),
		} {
			for _, e := range endpoints {
				names[RuleID(ruleID(list, e.Rule))] = list + " " + e.Rule
			}
		}
	}
	return names
}

// Traffic returns the counters of all agents by cgroup id and rule.
func (g *Guard) Traffic() (map[uint64]map[RuleID]Traffic, error) {
	all := map[uint64]map[RuleID]Traffic{}
	var key bpf.NetguardTrafficKey
	var each []bpf.NetguardTraffic // of each CPU
	it := g.maps.Passed.Iterate()
	for it.Next(&key, &each) {
		var sum Traffic
		for _, t := range each {
			sum.Add(Traffic{t.PacketsOut, t.BytesOut, t.PacketsIn, t.BytesIn, t.DroppedPackets, t.DroppedBytes})
		}
		if all[key.Cgroup] == nil {
			all[key.Cgroup] = map[RuleID]Traffic{}
		}
		all[key.Cgroup][RuleID(key.Rule)] = sum
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, explain("network guard: reading traffic", err)
	}
	return all, nil
}

// dropTraffic forgets the counters of an agent.
func (g *Guard) dropTraffic(cgroupID uint64) error {
	var key bpf.NetguardTrafficKey
	var each []bpf.NetguardTraffic
	var old []bpf.NetguardTrafficKey
	for it := g.maps.Passed.Iterate(); it.Next(&key, &each); {
		if key.Cgroup == cgroupID {
			old = append(old, key)
		}
	}
	for _, key := range old {
		if err := g.maps.Passed.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return explain("network guard: forgetting traffic", err)
		}
	}
	return nil
}

// Memory returns how many bytes the kernel has set aside for the guard's maps of all agents, and for the rules of one.
func (g *Guard) Memory(cgroupID uint64) (shared, rules uint64, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	of := func(m *ebpf.Map) (uint64, error) {
		info, err := m.Info()
		if err != nil {
			return 0, explain("network guard: memory of a map", err)
		}
		n, _ := info.Memlock()
		return n, nil
	}
	for _, m := range g.shared {
		n, err := of(m)
		if err != nil {
			return 0, 0, err
		}
		shared += n
	}
	entry, err := g.entry(cgroupID)
	if err != nil || entry.Slot == 0 {
		return shared, 0, err
	}
	err = g.inTrie(entry.Slot, func(trie *ebpf.Map) (err error) {
		rules, err = of(trie)
		return err
	})
	return shared, rules, err
}

// Remember tells the guard the rules of an agent that an earlier raypherd armed, and what it was severed from. The kernel knows both; if
// it is armed anew, it stays severed.
func (g *Guard) Remember(cgroupID uint64, n *policy.Network, cuts []Cut) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.networks[cgroupID], g.cuts[cgroupID] = n, slices.Clone(cuts)
}

// ruleOfName is the id of the rule by which a name is granted on a port. g.mu is held.
func (g *Guard) ruleOfName(cgroupID uint64, name string, port uint16) bpf.NetguardRuleId {
	for _, e := range g.hostRules(cgroupID).Match(name) {
		if e.Port == port {
			return ruleID(listEgress, e.Rule)
		}
	}
	return bpf.NetguardRuleIdRULE_LOAN
}
