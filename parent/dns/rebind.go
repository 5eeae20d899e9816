package dns

import "net/netip"

// reservedPrefixes are addresses that no name opens: they are this host's, or where clouds hand out credentials.
var reservedPrefixes = []struct {
	prefix netip.Prefix
	what   string
}{
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
}

// nat64 and sixToFour carry an IPv4 address, which counts as if it stood there alone.
var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	sixToFour = netip.MustParsePrefix("2002::/16")    // RFC 3056
)

// reserved says what an address is that no name may open, or nothing.
func reserved(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		b := a.As16()
		switch {
		case nat64.Contains(a):
			return reserved(netip.AddrFrom4([4]byte(b[12:16])))
		case sixToFour.Contains(a):
			return reserved(netip.AddrFrom4([4]byte(b[2:6])))
		}
	}
	for _, r := range reservedPrefixes {
		if r.prefix.Contains(a) {
			return r.what
		}
	}
	return ""
}
