package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// Endpoints returns the parsed egress rules in the order of the policy. Rules that Parse would refuse are left out.
func (n *Network) Endpoints() []Endpoint {
	if n == nil {
		return nil
	}
	endpoints := make([]Endpoint, 0, len(n.Egress))
	for _, text := range n.Egress {
		if e, f := parseEgress(text); f == nil {
			endpoints = append(endpoints, e)
		}
	}
	return endpoints
}

// ListenEndpoints returns the parsed listen rules, all with a Prefix. A bare port gives one endpoint for each address family;
// 0.0.0.0 and :: stand for every address of their family.
func (n *Network) ListenEndpoints() []Endpoint {
	if n == nil {
		return nil
	}
	var endpoints []Endpoint
	for _, text := range n.Listen {
		if parsed, f := parseListen(text); f == nil {
			endpoints = append(endpoints, parsed...)
		}
	}
	return endpoints
}

// MatchHost returns the first egress rule that names a host, in any spelling that DNS takes for the same: case and a trailing
// dot do not matter. What is not a host name in ASCII matches nothing.
func (n *Network) MatchHost(name string) (Endpoint, bool) {
	matches := n.MatchHosts(name)
	if len(matches) == 0 {
		return Endpoint{}, false
	}
	return matches[0], true
}

// MatchHosts returns all egress rules that name a host: a name may be granted on several ports.
func (n *Network) MatchHosts(name string) []Endpoint {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if !isHostName(name) {
		return nil
	}
	var matches []Endpoint
	for _, e := range n.Endpoints() {
		if e.Host != "" && hostCovers(e.Host, name) {
			matches = append(matches, e)
		}
	}
	return matches
}

// hostCovers reports whether every name that inner stands for is one that outer stands for.
func hostCovers(outer, inner string) bool {
	if outer == inner {
		return true
	}
	suffix, wild := strings.CutPrefix(outer, "*")
	return wild && strings.HasSuffix(inner, suffix) && inner != suffix
}

// MatchUnix returns the rule that grants connecting to the unix socket at path, which is absolute, clean and resolved.
func (n *Network) MatchUnix(path string) (rule string, ok bool) {
	if n == nil || len(n.Unix) == 0 {
		return "", false
	}
	d := compileUnix(n.Unix).Decide(path, Read)
	return d.Rule, d.Verdict == VerdictAllow
}

// narrowNetwork: an outer policy without the section grants nothing of it.
func narrowNetwork(outer, inner *Network) (*Network, []Beyond) {
	if inner == nil {
		return outer, nil
	}
	if outer == nil {
		outer = &Network{DefaultAction: Drop}
	}
	var beyond []Beyond
	if outer.DefaultAction != Allow {
		if inner.DefaultAction == Allow {
			beyond = append(beyond, Beyond{"network.default_action", string(Allow), "the policy above has " + string(Drop)})
		}
		granted := outer.Endpoints()
		for _, e := range inner.Endpoints() {
			if !endpointCovered(e, granted) {
				beyond = append(beyond, Beyond{"network.egress", e.Rule, "not granted by the policy above"})
			}
		}
	}
	granted := outer.ListenEndpoints()
	for _, e := range inner.ListenEndpoints() {
		item := Beyond{"network.listen", e.Rule, "not granted by the policy above"}
		if !endpointCovered(e, granted) && !slices.Contains(beyond, item) {
			beyond = append(beyond, item)
		}
	}
	beyond = append(beyond, pathsIncluded("network.unix", inner.Unix, outer.Unix)...)
	result := *inner
	return &result, beyond
}

// endpointCovered reports whether every destination of e is granted. A name is granted only by a rule for names: addresses
// that a rule grants do not let their names be resolved.
func endpointCovered(e Endpoint, granted []Endpoint) bool {
	var prefixes []netip.Prefix
	for _, g := range granted {
		if g.Port != 0 && g.Port != e.Port {
			continue // every port is more than any list of ports that a policy can hold
		}
		if e.Host != "" && g.Host != "" && hostCovers(g.Host, e.Host) {
			return true
		}
		if e.Host == "" && g.Host == "" {
			prefixes = append(prefixes, g.Prefix)
		}
	}
	return e.Host == "" && prefixCovered(e.Prefix, prefixes)
}

// prefixCovered reports whether every address of p is in one of prefixes: in one as a whole, or each half of it is covered.
// It halves only where a longer prefix lies inside, so its depth is at most 128 and its work linear in the prefixes per level.
func prefixCovered(p netip.Prefix, prefixes []netip.Prefix) bool {
	var inside []netip.Prefix
	for _, q := range prefixes {
		if q.Bits() <= p.Bits() && q.Contains(p.Addr()) {
			return true
		}
		if q.Bits() > p.Bits() && p.Contains(q.Addr()) {
			inside = append(inside, q)
		}
	}
	if len(inside) == 0 {
		return false
	}
	low := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	high := netip.PrefixFrom(setBit(p.Addr(), p.Bits()), p.Bits()+1)
	return prefixCovered(low, inside) && prefixCovered(high, inside)
}

// setBit returns a with bit i, counted from the most significant one, set.
func setBit(a netip.Addr, i int) netip.Addr {
	bytes := a.AsSlice()
	bytes[i/8] |= 0x80 >> (i % 8)
	set, _ := netip.AddrFromSlice(bytes)
	return set
}
