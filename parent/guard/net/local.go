package netguard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/parent/dns/hosts"
	"github.com/raypher/raypher/policy"
)

// Programs read the hosts file without asking a DNS server. So its names are granted when an agent gets its rules, and again
// when the file changes, and like every name on the ports of TLS to streams that ask for them.

const (
	// localExpires marks addresses that the hosts file gives: they hold as long as it does.
	localExpires = 1 << 62
	// maxLocal bounds them for one agent, so that room is left for names that are resolved.
	maxLocal = maxNames / 2
)

// localName is one address of a name that a rule names and the hosts file knows.
type localName struct {
	name string
	addr netip.Addr
	rule policy.Endpoint
}

// localNames are those that rules grant, in order. Unspecified addresses, by which such files close names, open nothing.
func localNames(n *policy.Network, table hosts.Table) ([]localName, error) {
	var all []localName
	add := func(name string, e policy.Endpoint) {
		for _, a := range table[name] {
			if !a.IsUnspecified() && len(name) < len(bpf.NetguardNameGrant{}.Name) {
				all = append(all, localName{name, a, e})
			}
		}
	}
	for _, e := range n.Endpoints() {
		domain, wild := strings.CutPrefix(e.Host, "*")
		if !wild {
			add(e.Host, e)
			continue
		}
		for name := range table {
			if strings.HasSuffix(name, domain) && name != domain {
				add(name, e)
			}
		}
	}
	if len(all) > maxLocal {
		return nil, fmt.Errorf("network guard: %w: the hosts file has %d addresses for the names that the policy grants, at most %d: grant fewer names by wildcards", ErrFull, len(all), maxLocal)
	}
	slices.SortFunc(all, func(a, b localName) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// grantLocal grants an agent the names of the hosts file. g.mu is held.
func (g *Guard) grantLocal(cgroupID uint64, n *policy.Network) error {
	table, _, err := g.hosts.Table()
	if err != nil {
		return err
	}
	all, err := localNames(n, table)
	if err != nil {
		return err
	}
	for _, l := range all {
		err := g.grantName(cgroupID, l.name, l.addr, l.rule.Port, localExpires, ruleID(listEgress, l.rule.Rule))
		if err != nil && !errors.Is(err, ErrCut) {
			return err
		}
	}
	return nil
}

// hostRules are the rules of one network section that name hosts.
type hostRules struct {
	of *policy.Network
	policy.HostIndex
}

// hostRules indexes an agent's rules once. g.mu is held.
func (g *Guard) hostRules(cgroupID uint64) policy.HostIndex {
	n := g.networks[cgroupID]
	if x, ok := g.indexed[cgroupID]; ok && x.of == n {
		return x.HostIndex
	}
	x := hostRules{n, n.Hosts()}
	g.indexed[cgroupID] = x
	return x.HostIndex
}

// keepName says whether an address that a name opened stays open; for the name itself addr is not valid.
type keepName func(name string, addr netip.Addr, port uint16, expires uint64) bool

// keeps is what stays open under rules and the hosts file as they are now. g.mu is held.
func (g *Guard) keeps(cgroupID uint64, n *policy.Network, table hosts.Table) keepName {
	return func(name string, addr netip.Addr, port uint16, expires uint64) bool {
		if n == nil {
			return false
		}
		if expires == localExpires {
			addrs, known := table[name]
			if !known || addr.IsValid() && !slices.Contains(addrs, addr) {
				return false
			}
		}
		if n.AsksName(name) {
			return true
		}
		rules := n.MatchHosts(name)
		if !addr.IsValid() {
			return len(rules) > 0
		}
		if expires != localExpires {
			rules = n.NameOpens(name, addr)
		}
		return slices.ContainsFunc(rules, func(e policy.Endpoint) bool { return e.Port == 0 || e.Port == port })
	}
}

// opensStill reports whether an agent's rules of now open an address by a name, which the hosts file or a server has told. Of an agent
// that was found again nothing is known before Remember. g.mu is held.
func (g *Guard) opensStill(cgroupID uint64, name string, addr netip.Addr, port uint16) bool {
	n, known := g.networks[cgroupID]
	if !known {
		return true
	}
	var expires uint64
	table, _, err := g.hosts.Table()
	if err == nil && slices.Contains(table[name], addr) {
		expires = localExpires
	}
	return g.keeps(cgroupID, n, table)(name, addr, port, expires)
}

// followHosts puts a hosts file that changed in force, for each agent whose rules are known. What it fails to do is tried again.
func (g *Guard) followHosts() {
	g.mu.Lock()
	defer g.mu.Unlock()
	table, version, err := g.hosts.Table()
	if err != nil || version == g.hostsVersion {
		return
	}
	for id, n := range g.networks {
		if _, err := g.entry(id); err != nil {
			continue
		}
		keeps := g.keeps(id, n, table)
		_, e := g.dropNames(id, func(name string, addr netip.Addr, port uint16, expires uint64) bool {
			return expires != localExpires || keeps(name, addr, port, expires)
		})
		if e != nil {
			err = e
		}
		if e := g.grantLocal(id, n); e != nil {
			err = e
		}
	}
	if err == nil {
		g.hostsVersion = version
	}
}
