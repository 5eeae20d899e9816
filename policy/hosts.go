package policy

import "strings"

// HostIndex finds the rules that name a host without looking at all of them. It is never changed, so it can be shared.
type HostIndex struct{ rules map[string][]Endpoint }

// Hosts indexes the egress rules that name hosts.
func (n *Network) Hosts() HostIndex { return indexHosts(n.Endpoints()) }

// HostsAsked indexes those of require_approval.
func (n *Network) HostsAsked() HostIndex {
	if n == nil {
		return HostIndex{}
	}
	return indexHosts((&Network{Egress: n.RequireApproval}).Endpoints())
}

func indexHosts(rules []Endpoint) HostIndex {
	x := HostIndex{map[string][]Endpoint{}}
	for _, e := range rules {
		if e.Host != "" {
			x.rules[e.Host] = append(x.rules[e.Host], e)
		}
	}
	return x
}

// Match returns the rules that MatchHosts does, wildcards first.
func (x HostIndex) Match(name string) []Endpoint {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if len(x.rules) == 0 || !isHostName(name) {
		return nil
	}
	var matches []Endpoint
	for rest := name; ; {
		_, parent, found := strings.Cut(rest, ".")
		if !found {
			return append(matches, x.rules[name]...)
		}
		matches = append(matches, x.rules["*."+parent]...)
		rest = parent
	}
}
