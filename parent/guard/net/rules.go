package netguard

import (
	"encoding/binary"
	"net/netip"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/policy"
)

// The first bits of a rule's key stand before the address: class, a zero byte, the port (struct rule_key).
const (
	rulePrefixBits = 32
	classListen    = 0x10
	classFrom      = 0x20
	classBind      = 0x40
	classCut       = 0x80
)

// rule is one entry of an agent's trie.
type rule struct {
	key  bpf.NetguardRuleKey
	says bpf.NetguardRuleSaid
}

// rulesOf turns the network section into the entries of the trie. Rules that name a host stand for nothing there: the forwarder
// opens addresses as it resolves them, grantLocal those of the hosts file. A rule that is wider than a reserved range leaves a hole
// there, and so does default_action: allow.
func rulesOf(n *policy.Network) []rule {
	if n == nil {
		return nil
	}
	set := map[bpf.NetguardRuleKey]bpf.NetguardRuleSaid{}
	var holes []netip.Prefix
	for _, r := range policy.ReservedRanges() {
		holes = append(holes, r.Prefix)
	}
	hole := func(port uint16, wider func(netip.Prefix) bool) {
		for _, p := range holes {
			if wider(p) {
				set[ruleKey(0, p, port)] = bpf.NetguardRuleSaid{Says: bpf.NetguardRuleRULE_HOLE, Id: bpf.NetguardRuleIdRULE_RESERVED_RANGE}
			}
		}
	}
	if n.DefaultAction == policy.Allow {
		hole(0, func(netip.Prefix) bool { return true })
	}
	for _, e := range n.Endpoints() {
		if e.Prefix.IsValid() {
			hole(e.Port, func(p netip.Prefix) bool { return e.Prefix.Bits() < p.Bits() && e.Prefix.Contains(p.Addr()) })
		}
	}
	add := func(endpoints []policy.Endpoint, class uint8, list string) {
		for _, e := range endpoints {
			if e.Prefix.IsValid() {
				set[ruleKey(class, e.Prefix, e.Port)] = grantBy(list, e.Rule)
			}
		}
	}
	add(n.Endpoints(), 0, listEgress)
	add(n.ListenEndpoints(), classListen, listListen)
	add(n.IngressEndpoints(), classFrom, listIngress)
	for _, e := range n.IngressEndpoints() { // whoever they are, they come to some address of the host
		for _, everywhere := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			set[ruleKey(classBind, netip.PrefixFrom(everywhere, 0), e.Port)] = grantBy(listIngress, e.Rule)
		}
	}
	rules := make([]rule, 0, len(set))
	for k, says := range set {
		rules = append(rules, rule{k, says})
	}
	return rules
}

func grantBy(list, rule string) bpf.NetguardRuleSaid {
	return bpf.NetguardRuleSaid{Says: bpf.NetguardRuleRULE_GRANT, Id: ruleID(list, rule)}
}

func ruleKey(class uint8, p netip.Prefix, port uint16) bpf.NetguardRuleKey {
	bits := p.Bits()
	if p.Addr().Is4In6() && bits >= 96 {
		bits -= 96
	}
	words, family := addressWords(p.Addr())
	return bpf.NetguardRuleKey{
		Prefixlen: uint32(rulePrefixBits + bits),
		Class:     class | family,
		Port:      networkOrder(port),
		Addr:      words,
	}
}

// addressWords is an address as struct flow holds it: network order, IPv4 in the first word, also where it is mapped.
func addressWords(a netip.Addr) (words [4]uint32, family uint8) {
	a = a.Unmap()
	if a.Is4() {
		b := a.As4()
		words[0] = binary.NativeEndian.Uint32(b[:])
		return words, 4
	}
	b := a.As16()
	for i := range words {
		words[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return words, 6
}

func addressOf(words [4]uint32, family uint8) netip.Addr {
	var b [16]byte
	for i, w := range words {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	switch family {
	case 4:
		return netip.AddrFrom4([4]byte(b[:4]))
	case 6:
		return netip.AddrFrom16(b)
	}
	return netip.Addr{}
}

func networkOrder(port uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], port)
	return binary.NativeEndian.Uint16(b[:])
}
