package policy

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// String spells the endpoint as a rule.
func (e Endpoint) String() string {
	where := e.Host
	if where == "" {
		where = e.Prefix.String()
		if e.Prefix.IsSingleIP() {
			where = e.Prefix.Addr().String()
		}
		if e.Port != 0 && e.Prefix.Addr().Is6() {
			where = "[" + where + "]"
		}
	}
	if e.Private {
		where = privateMark + where
	}
	if e.Port == 0 {
		return where
	}
	return where + ":" + strconv.Itoa(int(e.Port))
}

// privateMark stands in front of a name whose answers may be private addresses.
const privateMark = "private "

// parseEgress reads one egress rule: an address, a CIDR or a host name, each with or without :port; IPv6 with a port stands
// in brackets, and private may stand in front of a host name.
func parseEgress(text string) (Endpoint, *fault) {
	bare, private := strings.CutPrefix(text, privateMark)
	if f := checkEndpointText(bare); f != nil {
		return Endpoint{}, f
	}
	where, port, f := splitPort(bare)
	if f != nil {
		return Endpoint{}, f
	}
	e := Endpoint{Port: port, Private: private, Rule: text}
	switch {
	case private && looksLikeAddress(where):
		f = faultf(fmt.Sprintf("write %q", bare), "%q: private says what a name may be answered with; an address is granted as it is", text)
	case looksLikeAddress(where):
		e.Prefix, f = parsePrefix(where)
	case strings.Contains(where, "/"):
		name, _, _ := strings.Cut(where, "/")
		f = faultf(fmt.Sprintf("write %q, or the CIDR of its addresses", name), "%q: a name cannot have a prefix length", text)
	default:
		e.Host, f = parseHost(where)
	}
	return e, f
}

// parseListen reads one listen rule: a port on every address, an address, or address:port. The wildcard addresses 0.0.0.0 and
// :: stand for every address of their family.
func parseListen(text string) ([]Endpoint, *fault) {
	if f := checkEndpointText(text); f != nil {
		return nil, f
	}
	if isDigits(text) {
		port, f := parsePort(text, text)
		if f != nil {
			return nil, f
		}
		return []Endpoint{
			{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Port: port, Rule: text},
			{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Port: port, Rule: text},
		}, nil
	}
	where, port, f := splitPort(text)
	if f != nil {
		return nil, f
	}
	if where == "localhost" {
		return nil, faultf("write 127.0.0.1 or [::1]", "%q: listen takes addresses, not names", text)
	}
	if !looksLikeAddress(where) {
		return nil, faultf("write a port, 127.0.0.1:8080 or [::1]:8080", "%q: listen takes addresses, not names", text)
	}
	prefix, f := parsePrefix(where)
	if f != nil {
		return nil, f
	}
	if prefix.Addr().IsUnspecified() {
		prefix = netip.PrefixFrom(prefix.Addr(), 0)
	}
	return []Endpoint{{Prefix: prefix, Port: port, Rule: text}}, nil
}

// parseIngress reads one ingress rule: a port of the agent for everyone, or an address or CIDR, each with or without the agent's
// :port. Who opens a flow shows an address and no name.
func parseIngress(text string) ([]Endpoint, *fault) {
	if isDigits(text) {
		return parseListen(text)
	}
	if f := checkEndpointText(text); f != nil {
		return nil, f
	}
	where, port, f := splitPort(text)
	if f != nil {
		return nil, f
	}
	if !looksLikeAddress(where) {
		return nil, faultf("write a port, 10.0.0.0/8:8080 or [2001:db8::/32]:8080", "%q: ingress takes addresses, not names", text)
	}
	prefix, f := parsePrefix(where)
	if f != nil {
		return nil, f
	}
	if prefix.IsSingleIP() && prefix.Addr().IsUnspecified() {
		return nil, faultf("write the port alone for everyone, or "+prefix.Addr().String()+"/0", "%q: nobody has this address", text)
	}
	return []Endpoint{{Prefix: prefix, Port: port, Rule: text}}, nil
}

func checkEndpointText(text string) *fault {
	if text == "" {
		return faultf("write an address, a CIDR, a host name, or one of them with :port", "empty destination")
	}
	if len(text) > 300 {
		return faultf("", "destination of %d bytes, at most 300", len(text))
	}
	for _, r := range text {
		if r >= 0x80 {
			return faultf("write the name in its ASCII form (xn--...)", "%q is not ASCII", text)
		}
		if r <= ' ' || r == 0x7f {
			return faultf("", "%q has a space or a control character", text)
		}
	}
	if i := strings.Index(text, "://"); i >= 0 {
		host, _, _ := strings.Cut(text[i+3:], "/")
		return faultf(fmt.Sprintf("write %q", host), "%q is a URL: only hosts and ports are governed", text)
	}
	return nil
}

// splitPort takes :port off the end. IPv6 without brackets has no port.
func splitPort(text string) (where string, port uint16, f *fault) {
	where = text
	if strings.HasPrefix(text, "[") {
		end := strings.IndexByte(text, ']')
		if end < 0 {
			return "", 0, faultf("write [address]:port", "%q: [ without ]", text)
		}
		where = text[1:end]
		after := text[end+1:]
		switch {
		case !strings.Contains(where, ":"):
			return "", 0, faultf("write it without brackets", "%q: only IPv6 stands in brackets", text)
		case after == "":
			return where, 0, nil
		case strings.HasPrefix(after, "/"):
			return "", 0, faultf(fmt.Sprintf("write [%s%s]", where, after), "%q: the prefix length stands inside the brackets", text)
		case after[0] != ':':
			return "", 0, faultf("write [address]:port", "%q: unexpected %q after ]", text, after)
		}
		port, f = parsePort(text, after[1:])
		return where, port, f
	}
	switch strings.Count(text, ":") {
	case 0:
		return text, 0, nil
	case 1:
		where, digits, _ := strings.Cut(text, ":")
		if where == "" {
			return "", 0, faultf("write 0.0.0.0/0"+text+" and [::/0]"+text+" for every address", "%q names no destination", text)
		}
		port, f = parsePort(text, digits)
		return where, port, f
	}
	if prefix, after, ok := strings.Cut(text, "/"); ok && strings.Contains(after, ":") {
		bits, digits, _ := strings.Cut(after, ":")
		return "", 0, faultf(fmt.Sprintf("write [%s/%s]:%s", prefix, bits, digits), "%q: IPv6 with a port stands in brackets", text)
	}
	return text, 0, nil
}

func parsePort(text, digits string) (uint16, *fault) {
	if digits == "*" {
		return 0, faultf("leave the port out for every port", "%q: a port is a number", text)
	}
	if strings.Contains(digits, "-") {
		return 0, faultf("write one rule for each port, or leave the port out for every port", "%q: port ranges are not known", text)
	}
	port, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || port == 0 || !isDigits(digits) || digits[0] == '0' {
		return 0, faultf("a port is a number from 1 to 65535", "%q: %q is no port", text, digits)
	}
	return uint16(port), nil
}

func isDigits(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

// looksLikeAddress tells what is meant as an address, right or wrong, from what is meant as a name: a colon, or a last label
// that is a number (RFC 1123 section 2.1).
func looksLikeAddress(where string) bool {
	where, _, _ = strings.Cut(where, "/")
	if strings.Contains(where, ":") {
		return true
	}
	last := strings.TrimSuffix(where, ".")
	return isDigits(last[strings.LastIndexByte(last, '.')+1:])
}

// parsePrefix reads an address or a CIDR without host bits.
func parsePrefix(text string) (netip.Prefix, *fault) {
	address, bits, isCIDR := strings.Cut(text, "/")
	addr, err := netip.ParseAddr(address)
	if err != nil {
		return netip.Prefix{}, faultf("write four numbers from 0 to 255, or an IPv6 address", "%q is not an address", address)
	}
	if addr.Zone() != "" {
		return netip.Prefix{}, faultf(fmt.Sprintf("write %q", addr.WithZone("")), "%q: zones are not known", text)
	}
	if addr.Is4In6() {
		return netip.Prefix{}, faultf(fmt.Sprintf("write %q", addr.Unmap()), "%q is IPv4 written as IPv6", text)
	}
	if !isCIDR {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	n, err := strconv.Atoi(bits)
	if err != nil || !isDigits(bits) || (len(bits) > 1 && bits[0] == '0') || n > addr.BitLen() {
		return netip.Prefix{}, faultf(fmt.Sprintf("a prefix length is a number from 0 to %d", addr.BitLen()), "%q: %q is no prefix length", text, bits)
	}
	prefix := netip.PrefixFrom(addr, n)
	if masked := prefix.Masked(); masked != prefix {
		return netip.Prefix{}, faultf(fmt.Sprintf("write %q for the network, or %q for the one address", masked, addr), "%q has bits set after the prefix", text)
	}
	return prefix, nil
}

// parseHost reads a DNS name (RFC 1035 section 2.3.4), lower-cases it and takes a trailing dot off. *.name stands for every name below.
func parseHost(text string) (string, *fault) {
	host := strings.TrimSuffix(strings.ToLower(text), ".")
	name, wild := strings.CutPrefix(host, "*.")
	if host == "*" {
		return "", faultf("write default_action: allow, or 0.0.0.0/0 and ::/0", "%q: a rule names a domain", text)
	}
	if strings.Contains(name, "*") {
		return "", faultf("write *.example.com; * stands only for whole labels in front", "%q: * in the middle of a name", text)
	}
	if wild && !strings.Contains(name, ".") {
		return "", faultf("write *.example.com", "%q covers a whole top-level domain", text)
	}
	if !isHostName(name) {
		return "", faultf("write labels of letters, digits and -, at most 63 each and 253 in all", "%q is not a host name", text)
	}
	return host, nil
}

// isHostName accepts lower-case names of letters, digits, - and _ (which service names have).
func isHostName(name string) bool {
	if name == "" || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		if strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}
