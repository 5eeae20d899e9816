package policy

import (
	"net/netip"
	"slices"
	"strconv"
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

// IngressEndpoints returns the parsed ingress rules: Prefix is whoever opens the flow, Port is the agent's own, 0 for every port.
// A bare port gives one endpoint for each address family.
func (n *Network) IngressEndpoints() []Endpoint {
	if n == nil {
		return nil
	}
	var endpoints []Endpoint
	for _, text := range n.Ingress {
		if parsed, f := parseIngress(text); f == nil {
			endpoints = append(endpoints, parsed...)
		}
	}
	return endpoints
}

// ingressWords says in words whom the ingress rules let in.
func (n *Network) ingressWords() []string {
	words := make([]string, 0, len(n.Ingress))
	for _, text := range n.Ingress {
		switch parsed, f := parseIngress(text); {
		case f != nil:
		case len(parsed) > 1:
			words = append(words, "from everyone to port "+strconv.Itoa(int(parsed[0].Port)))
		case parsed[0].Port == 0:
			words = append(words, "from "+parsed[0].Prefix.String()+" to every port")
		default:
			words = append(words, "from "+parsed[0].Prefix.String()+" to port "+strconv.Itoa(int(parsed[0].Port)))
		}
	}
	return words
}

// Grants reports whether an egress rule grants an address on some port; a reserved one is granted by a rule within its range
// alone. It says nothing of names, and nothing of default_action.
func (n *Network) Grants(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(n.Endpoints(), func(e Endpoint) bool { return e.holds(a) })
}

// holds reports whether a rule is about an address, which is unmapped and has no zone: a reserved one lies in no wider rule.
func (e Endpoint) holds(a netip.Addr) bool {
	if !e.Prefix.IsValid() || !e.Prefix.Contains(a) {
		return false
	}
	_, reserved := Reserved(a)
	_, own := reservedPrefix(e.Prefix)
	return own || !reserved
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
	return matchHosts(n.Endpoints(), name)
}

func matchHosts(rules []Endpoint, name string) []Endpoint {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if !isHostName(name) {
		return nil
	}
	var matches []Endpoint
	for _, e := range rules {
		if e.Host != "" && hostCovers(e.Host, name) {
			matches = append(matches, e)
		}
	}
	return matches
}

// NameOpens returns those of the rules that name a host which open an address that it was answered with: none for a reserved
// address, for a private one those that say private.
func (n *Network) NameOpens(name string, a netip.Addr) []Endpoint {
	rules := n.MatchHosts(name)
	if _, reserved := Reserved(a); reserved {
		return nil
	}
	if _, private := Private(a); private {
		return slices.DeleteFunc(rules, func(e Endpoint) bool { return !e.Private })
	}
	return rules
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
