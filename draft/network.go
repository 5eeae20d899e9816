package draft

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/trace"
)

// Where an agent went is granted by the name that it had asked for; an address for which no name was asked, by itself. A name that
// was asked for and not gone to is granted on port 9 (discard, RFC 863), where nothing answers: so it is resolved, and no more. One
// that does not exist is not granted.

const discard = 9

// network is where runs went.
type network struct {
	names    map[string][]netip.Addr // that were asked for, with their answers
	closed   map[netip.Addr]bool     // that no name opens
	went     map[netip.AddrPort]bool
	listened map[netip.AddrPort]bool
	others   map[string]bool // addresses without a port
}

func newNetwork() *network {
	return &network{
		names: map[string][]netip.Addr{}, closed: map[netip.Addr]bool{}, went: map[netip.AddrPort]bool{}, listened: map[netip.AddrPort]bool{}, others: map[string]bool{},
	}
}

func (n *network) add(e trace.Entry) {
	if e.Operation == trace.Resolve {
		addr, err := netip.ParseAddr(e.Address)
		n.names[e.Name] = append(n.names[e.Name], nil...)
		if err == nil && !slices.Contains(n.names[e.Name], addr) {
			n.names[e.Name] = append(n.names[e.Name], addr)
			n.closed[addr] = n.closed[addr] || e.Special
		}
		return
	}
	where, err := netip.ParseAddrPort(e.Address)
	switch {
	case err != nil:
		return
	case e.Operation == trace.Bind:
		n.listened[where] = true
	case where.Port() == 0:
		n.others[where.Addr().String()] = true
	default:
		n.went[where] = true
	}
}

func (n *network) rules() []Rule {
	var rules []Rule
	gone := map[string]bool{}
	add := func(r Rule) { rules = append(rules, r) }
	for where := range n.went {
		named := false
		for _, name := range n.namesOf(where.Addr()) {
			gone[name], named = true, true
			r := hostRule(name, where.Port())
			if what, private := policy.Private(where.Addr()); private && !n.closed[where.Addr()] {
				r.Pattern = "private " + r.Pattern
				if r.Grade == GradeNone {
					r.Grade, r.Why = GradeNote, "its address is a "+what+" one"
				}
			}
			add(r)
		}
		if !named || n.closed[where.Addr()] {
			add(addressRule(where.Addr(), where.Port()))
		}
	}
	for other := range n.others {
		if addr, err := netip.ParseAddr(other); err == nil {
			add(addressRule(addr, 0))
		}
	}
	for name, answers := range n.names {
		switch {
		case gone[name] || name == "":
		case len(answers) == 0:
			add(Rule{List: ListEgress, Pattern: hostPort(name, discard), Grade: GradeRisky, Why: "was asked for and had no address: who registers it later would be reached"})
		default:
			r := hostRule(name, discard)
			if r.Grade == GradeNone {
				r.Grade, r.Why = GradeNote, "only asked for: port 9 lets the name be resolved and opens nothing"
			}
			add(r)
		}
	}
	for where := range n.listened {
		r := Rule{List: ListListen, Pattern: where.String()}
		if where.Addr().IsUnspecified() {
			r.Grade, r.Why = GradeNote, "on every address: other machines can connect"
		}
		add(r)
	}
	return rules
}

// namesOf are the names that were answered with an address.
func (n *network) namesOf(addr netip.Addr) []string {
	var names []string
	for name, answers := range n.names {
		if name != "" && slices.Contains(answers, addr) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// isHost reports whether a rule with this name would be one for this host alone. Programs and servers choose names: one that is spelled
// as a pattern, an address or a network would be granted as that.
func isHost(name string) bool {
	_, err := netip.ParseAddr(name)
	return err != nil && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == "" && strings.Trim(name, ".") != ""
}

func hostPort(name string, port uint16) string { return name + ":" + strconv.Itoa(int(port)) }

func hostRule(name string, port uint16) Rule {
	r := Rule{List: ListEgress, Pattern: hostPort(name, port)}
	if strings.HasPrefix(name, "metadata.") || name == "metadata" || strings.HasSuffix(name, ".internal") && strings.Contains(name, "metadata") {
		r.Grade, r.Why = GradeRisky, whyMetadata
	}
	return r
}

func addressRule(addr netip.Addr, port uint16) Rule {
	addr = addr.Unmap()
	r := Rule{List: ListEgress, Pattern: addr.String()}
	if port != 0 {
		r.Pattern = netip.AddrPortFrom(addr, port).String()
	}
	what, _ := policy.Reserved(addr)
	switch {
	case strings.Contains(what, "metadata") || strings.HasPrefix(what, "link-local"):
		r.Grade, r.Why = GradeRisky, whyMetadata
	case what == "loopback" || what == "this host":
		r.Grade, r.Why = GradeNote, "a service of this host"
	default:
		r.Grade, r.Why = GradeNote, "an address for which no name was asked"
	}
	return r
}
