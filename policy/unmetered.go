package policy

import "net/netip"

// normalised is the form that goes into the hash: what refuse says is said by nothing too.
func (u Unmetered) normalised() Unmetered {
	if u == UnmeteredRefuse {
		return ""
	}
	return u
}

// wholeInternet is how short a prefix of public addresses is, in bits, that nobody writes to reach one service: a 256th of IPv4, and
// of IPv6 what a registry hands out.
const (
	wholeInternet4 = 8
	wholeInternet6 = 32
)

// Private networks that are as large (RFC 1918, RFC 4193).
var (
	privateNetwork4 = netip.MustParsePrefix("10.0.0.0/8")
	privateNetwork6 = netip.MustParsePrefix("fc00::/7")
)

// Reaches finds a rule by which a service of that name and port can be reached, by name or because it holds the most of the
// internet: default_action allow, or a prefix of so many public addresses that the service's are expected among them. It resolves nothing: that a
// narrower prefix holds the service's addresses it does not see. require_approval counts, since a person is not asked about money.
func (n *Network) Reaches(host string, port uint16) (rule string, ok bool) {
	if n == nil {
		return "", false
	}
	if n.DefaultAction == Allow {
		return "default_action: allow", true
	}
	asked := &Network{Egress: n.RequireApproval}
	for _, section := range []*Network{n, asked} {
		for _, e := range section.MatchHosts(host) {
			if e.Port == 0 || e.Port == port {
				return e.Rule, true
			}
		}
		for _, e := range section.Endpoints() {
			if e.Host == "" && (e.Port == 0 || e.Port == port) && holdsInternet(e.Prefix, host) {
				return e.Rule, true
			}
		}
	}
	return "", false
}

// holdsInternet reports whether a prefix has the most of the internet, or the address that host is.
func holdsInternet(p netip.Prefix, host string) bool {
	if address, err := netip.ParseAddr(host); err == nil {
		return p.Contains(address.Unmap())
	}
	if _, reserved := reservedPrefix(p); reserved {
		return false
	}
	if p.Addr().Is4() {
		return p.Bits() <= wholeInternet4 && p != privateNetwork4
	}
	return p.Bits() <= wholeInternet6 && !privateNetwork6.Contains(p.Addr())
}
