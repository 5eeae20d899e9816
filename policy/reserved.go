package policy

import "net/netip"

// ReservedRange is a range of addresses that no wide rule grants.
type ReservedRange struct {
	Prefix netip.Prefix
	What   string // in words, for messages
}

// reservedRanges are this host's own addresses, those of its link and of groups, and where clouds hand out credentials.
var reservedRanges = withCarried([]ReservedRange{
	{netip.MustParsePrefix("0.0.0.0/8"), "this host"},                        // RFC 1122 section 3.2.1.3
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},                       // RFC 1122 section 3.2.1.3
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local, cloud metadata"},  // RFC 3927; 169.254.169.254
	{netip.MustParsePrefix("100.100.100.200/32"), "cloud metadata"},          // Alibaba Cloud
	{netip.MustParsePrefix("192.0.0.192/32"), "cloud metadata"},              // Oracle Cloud
	{netip.MustParsePrefix("168.63.129.16/32"), "cloud metadata"},            // Azure's wire server
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},                      // RFC 5771
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},                       // RFC 1112; 255.255.255.255
	{netip.MustParsePrefix("::/96"), "this host"},                            // unspecified, loopback, IPv4-compatible
	{netip.MustParsePrefix("fe80::/10"), "link-local"},                       // RFC 4291
	{netip.MustParsePrefix("fd00:ec2::254/128"), "cloud metadata"},           // AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), "cloud metadata"},            // Google Cloud
	{netip.MustParsePrefix("ff00::/8"), "multicast"},                         // RFC 4291
	{netip.MustParsePrefix("64:ff9b:1::/48"), "translated to local address"}, // RFC 8215
})

// withCarried adds the IPv6 ranges that carry a reserved IPv4 range: NAT64 (RFC 6052) and 6to4 (RFC 3056).
func withCarried(all []ReservedRange) []ReservedRange {
	for _, r := range all {
		if !r.Prefix.Addr().Is4() {
			continue
		}
		b := r.Prefix.Addr().As4()
		nat64 := [16]byte{0: 0, 1: 0x64, 2: 0xff, 3: 0x9b, 12: b[0], 13: b[1], 14: b[2], 15: b[3]}
		sixToFour := [16]byte{0: 0x20, 1: 0x02, 2: b[0], 3: b[1], 4: b[2], 5: b[3]}
		all = append(all,
			ReservedRange{netip.PrefixFrom(netip.AddrFrom16(nat64), 96+r.Prefix.Bits()), r.What},
			ReservedRange{netip.PrefixFrom(netip.AddrFrom16(sixToFour), 16+r.Prefix.Bits()), r.What})
	}
	return all
}

// ReservedRanges are the ranges that a rule grants only when it lies within one of them: 127.0.0.0/8, 169.254.169.254 and others
// say what they mean, 0.0.0.0/0 and default_action: allow mean the rest of the world. Names never open them.
func ReservedRanges() []ReservedRange { return append([]ReservedRange(nil), reservedRanges...) }

// Reserved says what an address is that only a rule of its own grants; false: it is none.
func Reserved(a netip.Addr) (what string, reserved bool) {
	a = a.Unmap().WithZone("")
	return reservedPrefix(netip.PrefixFrom(a, a.BitLen()))
}

// privateRanges are the networks that stand behind this host and are not of the internet: a name opens them only by a rule that
// says private, because whoever answers for the name chooses the address (DNS rebinding).
var privateRanges = withCarried([]ReservedRange{
	{netip.MustParsePrefix("10.0.0.0/8"), "private"},     // RFC 1918
	{netip.MustParsePrefix("172.16.0.0/12"), "private"},  // RFC 1918
	{netip.MustParsePrefix("192.168.0.0/16"), "private"}, // RFC 1918
	{netip.MustParsePrefix("100.64.0.0/10"), "shared"},   // RFC 6598: carriers' NAT, and many overlay networks
	{netip.MustParsePrefix("fc00::/7"), "private"},       // RFC 4193
	{netip.MustParsePrefix("fec0::/10"), "private"},      // RFC 3879: site-local, deprecated
})

// Private says what an address is that a name opens only by a rule that says private; false: it is none. What is reserved no name
// opens (see Reserved), whatever this says.
func Private(a netip.Addr) (what string, private bool) {
	a = a.Unmap().WithZone("")
	for _, r := range privateRanges {
		if r.Prefix.Contains(a) {
			return r.What, true
		}
	}
	return "", false
}

// reservedPrefix is Reserved for the whole of a prefix.
func reservedPrefix(p netip.Prefix) (what string, reserved bool) {
	for _, r := range reservedRanges {
		if r.Prefix.Bits() <= p.Bits() && r.Prefix.Contains(p.Addr()) {
			return r.What, true
		}
	}
	return "", false
}
