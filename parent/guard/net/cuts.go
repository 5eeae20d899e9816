package netguard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/policy"
)

// Cut is what an operator severs an agent from, whatever its rules, loans and mode say: open flows too, in both directions, from the
// next packet on.
type Cut struct {
	Address netip.Prefix // not valid: every address, if Name is empty as well
	Name    string       // as a rule spells a host
	Reject  bool         // calls fail with EPERM, streams that are open are ended; false: silence
}

// Everything says whether the cut names nothing in particular.
func (c Cut) Everything() bool { return !c.Address.IsValid() && c.Name == "" }

// String says what is cut, in the words of a rule.
func (c Cut) String() string {
	switch {
	case c.Name != "":
		return c.Name
	case c.Address.IsValid() && c.Address.IsSingleIP():
		return c.Address.Addr().String()
	case c.Address.IsValid():
		return c.Address.String()
	}
	return "everything"
}

// Cut severs an agent from cuts, and from nothing else; an agent that an earlier raypherd armed must be Remembered first. A name's cut ends
// flows whose TLS hello asked for it, and those to addresses that no other name of the agent has.
//
// Streams that a cut with Reject ends are reset at both ends, so far as they are in the caller's network namespace and their sockets in the
// agent's cgroup itself, not below it; others see silence.
func (g *Guard) Cut(cgroupID uint64, cuts []Cut) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	entry, err := g.entry(cgroupID)
	if err != nil {
		return err
	}
	n, known := g.networks[cgroupID]
	if !known {
		return fmt.Errorf("network guard: cgroup %d: its rules are not known yet: try again", cgroupID)
	}
	before := g.cuts[cgroupID]
	g.cuts[cgroupID] = slices.Clone(cuts)
	ends, err := g.rejected(cgroupID)
	if err != nil {
		return err
	}
	// Once while the resets may still leave, and once for what was opened in between.
	aborted := abort(cgroupID, ends)
	if err := g.put(cgroupID, entry, n); err != nil {
		g.cuts[cgroupID] = before
		return err
	}
	return errors.Join(g.restoreNames(cgroupID), aborted, abort(cgroupID, ends))
}

// Cuts are what the agent is severed from. A raypherd that was restarted learns them by Cut.
func (g *Guard) Cuts(cgroupID uint64) []Cut {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.cuts[cgroupID])
}

// cutFlags are the bits of an agent's entry that its cuts set. g.mu is held.
func (g *Guard) cutFlags(cgroupID uint64) (flags bpf.NetguardCut) {
	for _, c := range g.cuts[cgroupID] {
		switch {
		case c.Everything() && c.Reject:
			flags |= bpf.NetguardCutCUT_ALL | bpf.NetguardCutCUT_REJECT
		case c.Everything():
			flags |= bpf.NetguardCutCUT_ALL
		case c.Name != "":
			flags |= bpf.NetguardCutCUT_NAMES
		default:
			flags |= bpf.NetguardCutCUT_ADDRESSES
		}
	}
	return flags
}

// cutRules are the entries of the trie for addresses that are cut. g.mu is held.
func (g *Guard) cutRules(cgroupID uint64) []rule {
	var rules []rule
	for _, c := range g.cuts[cgroupID] {
		if c.Name != "" || c.Everything() {
			continue
		}
		says := bpf.NetguardRuleRULE_CUT
		if c.Reject {
			says = bpf.NetguardRuleRULE_CUT_REJECT
		}
		rules = append(rules, rule{ruleKey(classCut, c.Address, 0), bpf.NetguardRuleSaid{Says: says, Id: bpf.NetguardRuleIdRULE_OPERATOR}})
	}
	return rules
}

// isCut says whether a name is cut from an agent. g.mu is held.
func (g *Guard) isCut(cgroupID uint64, name string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	return slices.ContainsFunc(g.cuts[cgroupID], func(c Cut) bool { return c.covers(name) })
}

func (c Cut) covers(name string) bool {
	if suffix, wild := strings.CutPrefix(c.Name, "*"); wild {
		return strings.HasSuffix(name, suffix) && name != suffix
	}
	return c.Name != "" && c.Name == name
}

// cutNames writes which server names are cut: those of a wildcard are the ones that were resolved for the agent. g.mu is held.
func (g *Guard) cutNames(cgroupID uint64) error {
	const what = "network guard: cutting a name"
	for _, c := range g.cuts[cgroupID] {
		if c.Name == "" {
			continue
		}
		said := bpf.NetguardCutSaid{How: bpf.NetguardSeveranceCUT_IN_SILENCE, By: serverHash(c.Name)}
		if c.Reject {
			said.How = bpf.NetguardSeveranceCUT_WITH_ERROR
		}
		if err := g.maps.CutNames.Put(bpf.NetguardCutName{Cgroup: cgroupID, Server: said.By}, said); err != nil {
			return explain(what, err)
		}
		var k bpf.NetguardServerKey
		var expires uint64
		it := g.maps.Servers.Iterate()
		for it.Next(&k, &expires) {
			if name := text(k.Name[:]); k.Cgroup == cgroupID && c.covers(name) {
				if err := g.maps.CutNames.Put(bpf.NetguardCutName{Cgroup: cgroupID, Server: serverHash(name)}, said); err != nil {
					return explain(what, err)
				}
			}
		}
		if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
			return explain(what, err)
		}
	}
	return nil
}

// restoreNames removes the server names of cuts that are over. g.mu is held.
func (g *Guard) restoreNames(cgroupID uint64) error {
	by := map[uint32]bool{}
	for _, c := range g.cuts[cgroupID] {
		by[serverHash(c.Name)] = c.Name != ""
	}
	var k bpf.NetguardCutName
	var said bpf.NetguardCutSaid
	var old []bpf.NetguardCutName
	for it := g.maps.CutNames.Iterate(); it.Next(&k, &said); {
		if k.Cgroup == cgroupID && !by[said.By] {
			old = append(old, k)
		}
	}
	for _, k := range old {
		if err := g.maps.CutNames.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return explain("network guard: restoring a name", err)
		}
	}
	return nil
}

// serverHash is server_hash of bpf/netguard/decide.h.
func serverHash(name string) uint32 {
	hash := fnv32(name)
	return max(hash, 1)
}

func fnv32(text string) uint32 {
	hash := uint32(2166136261)
	for i := range len(text) {
		hash = (hash ^ uint32(text[i])) * 16777619
	}
	return hash
}

// ParseCut reads what an operator wants cut: nothing, an address or CIDR, or a name.
func ParseCut(name, address string, reject bool) (Cut, error) {
	c := Cut{Reject: reject}
	item := name
	switch {
	case name == "" && address == "":
		return c, nil
	case name != "" && address != "":
		return c, errors.New("cut a name or an address, not both at once")
	case address != "":
		item = address
	}
	rules := (&policy.Network{Egress: []string{item}}).Endpoints()
	if len(rules) != 1 {
		return c, fmt.Errorf("%q: write an address, a CIDR or a name, as in a policy", item)
	}
	p := rules[0]
	if p.Port != 0 {
		return c, fmt.Errorf("%q: what is cut has no port: it is cut on every one", item)
	}
	if address != "" && !p.Prefix.IsValid() {
		return c, fmt.Errorf("%q is no address and no CIDR: cut a name by --name", address)
	}
	if name != "" && p.Host == "" {
		return c, fmt.Errorf("%q is no name: cut an address by --address", name)
	}
	c.Name, c.Address = p.Host, p.Prefix
	return c, nil
}
