package policy

import (
	"net/netip"
	"slices"
	"strings"
)

// narrowNetwork: an outer policy without the section grants nothing of it.
func narrowNetwork(outer, inner *Network) (*Network, []Beyond) {
	if inner == nil {
		return outer, nil
	}
	if outer == nil {
		outer = &Network{DefaultAction: Drop}
	}
	var beyond []Beyond
	if outer.DefaultAction == Allow {
		beyond = append(beyond, endpointsBeyond("network.egress", reservedOf(inner.Endpoints()), outer.Endpoints(), farEnds)...)
		beyond = append(beyond, narrowAsked(inner, outer)...)
	} else {
		if inner.DefaultAction == Allow {
			beyond = append(beyond, Beyond{"network.default_action", string(Allow), "the policy above has " + string(Drop)})
		}
		beyond = append(beyond, narrowAsked(inner, outer)...)
	}
	listen, ingress := outer.comesIn()
	beyond = append(beyond, endpointsBeyond("network.listen", inner.ListenEndpoints(), listen, ownEnds)...)
	beyond = append(beyond, endpointsBeyond("network.ingress", inner.IngressEndpoints(), ingress, ownEnds)...)
	beyond = append(beyond, pathsIncluded("network.unix", inner.Unix, outer.Unix)...)
	if inner.Unmetered == UnmeteredAllow && outer.Unmetered != UnmeteredAllow {
		beyond = append(beyond, Beyond{"network.unmetered", string(UnmeteredAllow), "the policy above has " + string(UnmeteredRefuse)})
	}
	result := *inner
	result.Isolate = inner.Isolate || outer.Isolate // stricter, as on_violation: kill
	return &result, beyond
}

// comesIn are the rules on listening and those on who may open flows, where each also holds what the other grants to everyone: a port
// to listen on at every address is one that everyone may come to.
func (n *Network) comesIn() (listen, ingress []Endpoint) {
	everyone := func(e Endpoint) bool { return e.Prefix.Bits() == 0 }
	listen, ingress = n.ListenEndpoints(), n.IngressEndpoints()
	for _, e := range slices.Clone(listen) {
		if everyone(e) {
			ingress = append(ingress, e)
		}
	}
	for _, e := range n.IngressEndpoints() {
		if everyone(e) {
			listen = append(listen, e)
		}
	}
	return listen, ingress
}

// reservedOf are the rules that default_action: allow does not stand for.
func reservedOf(rules []Endpoint) []Endpoint {
	return slices.DeleteFunc(rules, func(e Endpoint) bool {
		if e.Host != "" {
			return true
		}
		_, reserved := reservedPrefix(e.Prefix)
		return !reserved
	})
}

// endpointsBeyond lists the rules of inner that reach a destination which outer does not grant. Each port is compared on its
// own: a rule for every port is within rules for every port only, since no policy can list all ports.
func endpointsBeyond(section string, inner, outer []Endpoint, of ends) []Beyond {
	var beyond []Beyond
	byPort := map[uint16]*reach{}
	for _, e := range inner {
		granted := byPort[e.Port]
		if granted == nil {
			granted = newReach(outer, e.Port)
			granted.of = of
			byPort[e.Port] = granted
		}
		item := Beyond{section, e.Rule, "not granted by the policy above"}
		if !granted.covers(e) && (len(beyond) == 0 || beyond[len(beyond)-1] != item) {
			beyond = append(beyond, item) // a port to listen on is one rule with two endpoints
		}
	}
	return beyond
}

// ends are what rules are about.
type ends uint8

const (
	farEnds ends = iota // destinations: a wide rule leaves out what is reserved
	ownEnds             // where an agent listens
)

// reach is everything that rules grant on one port.
type reach struct {
	of       ends
	hosts    map[string]bool
	private  map[string]bool       // those of hosts that open private addresses too
	prefixes map[netip.Prefix]bool // with the parent of every two halves that are in it
}

func newReach(rules []Endpoint, port uint16) *reach {
	r := &reach{hosts: map[string]bool{}, private: map[string]bool{}, prefixes: map[netip.Prefix]bool{}}
	var byLength [129][]netip.Prefix
	for _, e := range rules {
		switch {
		case e.Port != 0 && e.Port != port:
		case e.Host != "":
			r.hosts[e.Host] = true
			if e.Private {
				r.private[e.Host] = true
			}
		case !r.prefixes[e.Prefix]:
			r.prefixes[e.Prefix] = true
			byLength[e.Prefix.Bits()] = append(byLength[e.Prefix.Bits()], e.Prefix)
		}
	}
	for bits := len(byLength) - 1; bits > 0; bits-- {
		for _, p := range byLength[bits] {
			parent := netip.PrefixFrom(p.Addr(), bits-1).Masked()
			if r.prefixes[sibling(p)] && !r.prefixes[parent] {
				r.prefixes[parent] = true
				byLength[bits-1] = append(byLength[bits-1], parent)
			}
		}
	}
	return r
}

// sibling is the other half of the parent of p.
func sibling(p netip.Prefix) netip.Prefix {
	bytes := p.Addr().AsSlice()
	i := p.Bits() - 1
	bytes[i/8] ^= 0x80 >> (i % 8)
	addr, _ := netip.AddrFromSlice(bytes)
	return netip.PrefixFrom(addr, p.Bits())
}

// covers reports whether every destination of e is granted. A name is granted only by a rule for names: addresses that a rule
// grants do not let their names be resolved.
func (r *reach) covers(e Endpoint) bool {
	if e.Host == "" {
		_, reserved := reservedPrefix(e.Prefix)
		return slices.ContainsFunc(ancestors(e.Prefix), func(p netip.Prefix) bool {
			if _, own := reservedPrefix(p); r.of == farEnds && reserved && !own {
				return false // a wider rule means the rest of the world
			}
			return r.prefixes[p]
		})
	}
	hosts := r.hosts
	if e.Private {
		hosts = r.private
	}
	if hosts[e.Host] {
		return true
	}
	for rest := strings.TrimPrefix(e.Host, "*."); ; {
		// *.a.b covers x.a.b and *.x.a.b, and *.a.b itself was looked up above.
		_, parent, found := strings.Cut(rest, ".")
		if !found {
			return false
		}
		if hosts["*."+parent] {
			return true
		}
		rest = parent
	}
}

// ancestors are all prefixes that hold p, with p.
func ancestors(p netip.Prefix) []netip.Prefix {
	all := make([]netip.Prefix, 0, p.Bits()+1)
	for bits := p.Bits(); bits >= 0; bits-- {
		all = append(all, netip.PrefixFrom(p.Addr(), bits).Masked())
	}
	return all
}
