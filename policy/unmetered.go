package policy

import "net/netip"

// normalised is the form that goes into the hash: what refuse says is said by nothing too.
func (u Unmetered) normalised() Unmetered {
	if u == UnmeteredRefuse {
		return ""
	}
	return u
}

// mostOfTheInternet is of how many public addresses nobody writes rules to reach one service: a 256th of IPv4, and of IPv6, in networks of
// 64 bits, what a registry hands out.
const (
	mostOfTheInternet4 = 1 << 24
	mostOfTheInternet6 = 1 << 32
)

// translated4 is where IPv4 stands within IPv6 (RFC 6052).
var translated4 = netip.MustParsePrefix("64:ff9b::/96")

// Reaches finds a rule by which a service of that name and port can be reached, by name or because it holds the most of the
// internet: default_action allow, or the one with which the prefixes have so many public addresses that the service's are expected among them. It
// resolves nothing: that narrower prefixes hold the service's addresses it does not see. require_approval counts, since a person is not asked about money.
func (n *Network) Reaches(host string, port uint16) (rule string, ok bool) {
	if n == nil {
		return "", false
	}
	if n.DefaultAction == Allow {
		return "default_action: allow", true
	}
	asked := &Network{Egress: n.RequireApproval}
	var open internet
	for _, section := range []*Network{n, asked} {
		for _, e := range section.MatchHosts(host) {
			if e.Port == 0 || e.Port == port {
				return e.Rule, true
			}
		}
		for _, e := range section.Endpoints() {
			if e.Host == "" && (e.Port == 0 || e.Port == port) && open.holds(e.Prefix, host) {
				return e.Rule, true
			}
		}
	}
	return "", false
}

// internet is how much of it rules open: addresses of IPv4, and networks of 64 bits of IPv6. What several hold counts for each.
type internet struct{ four, six uint64 }

// holds adds a prefix, and reports whether all hold the most of the internet now, or this one the address that host is.
func (i *internet) holds(p netip.Prefix, host string) bool {
	if translated4.Overlaps(p) {
		address := p.Addr().As16()
		p = netip.PrefixFrom(netip.AddrFrom4([4]byte(address[12:])), max(0, p.Bits()-translated4.Bits())).Masked()
	}
	if address, err := netip.ParseAddr(host); err == nil {
		return p.Contains(address.Unmap())
	}
	if _, reserved := reservedPrefix(p); reserved {
		return false
	}
	for _, private := range privateRanges {
		if private.Prefix.Bits() <= p.Bits() && private.Prefix.Contains(p.Addr()) {
			return false
		}
	}
	if p.Addr().Is4() {
		i.four += 1 << (32 - p.Bits())
		return i.four >= mostOfTheInternet4
	}
	i.six += 1 << (64 - min(p.Bits(), 64))
	return p.Bits() == 0 || i.six >= mostOfTheInternet6
}
