package broker

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/policy"
)

// Of connects to internet addresses the broker only asks a person about those that require_approval names: what is granted, and what
// was approved, is the network guard's to say. It opens a destination when somebody agreed, not before, and its programs look at the
// address that the kernel copied: a thread that changes it meanwhile reaches what is granted anyway.

// connectInternet decides on a connect whose address is none of a unix socket.
func (w *worker) connectInternet(n *notification, r *ruling, raw []byte) answer {
	network := r.permit.Network
	if network == nil || len(network.RequireApproval) == 0 || r.lenient {
		return goOn // where nothing is refused, the network guard says what is not granted
	}
	to, ok := parseInternet(raw)
	if !ok || to.Port() == 0 || network.GrantsAddress(to.Addr(), to.Port()) {
		return goOn // port 0: how getaddrinfo sorts addresses (RFC 6724); nothing is sent
	}
	rule, asks := network.Asks(to.Addr(), to.Port())
	if !asks && !network.AsksHosts() {
		return goOn
	}
	// Where a rule names a host, raypherd knows which addresses it has; it lets go on at once what no rule asks about.
	protocol, err := w.protocol(n, int32(n.Args[0]))
	if err != nil {
		return result(err)
	}
	d := policy.Decision{Verdict: policy.VerdictApproval, Rule: rule}
	if a, settled := w.settle(n, r, d, event{operation: OperationConnect, target: to.String() + "/" + protocol}); settled {
		return a
	}
	return goOn
}

// OperationConnect is the operation of questions about internet addresses; the target is address:port/protocol.
const OperationConnect = "connect"

// protocol names the protocol of a socket of the target.
func (w *worker) protocol(n *notification, number int32) (string, error) {
	socket, err := w.take(n, number)
	if err != nil {
		return "", err
	}
	defer unix.Close(socket)
	protocol, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	switch {
	case err != nil:
		return "", err
	case protocol == unix.IPPROTO_TCP:
		return "tcp", nil
	case protocol == unix.IPPROTO_UDP:
		return "udp", nil
	}
	return "protocol-" + itoa(protocol), nil
}

// parseInternet reads a struct sockaddr_in or sockaddr_in6. The unspecified address stands for loopback, as in the kernel.
func parseInternet(raw []byte) (netip.AddrPort, bool) {
	if len(raw) < floor.SizeInet4 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(raw[2:])
	var addr netip.Addr
	switch family := binary.LittleEndian.Uint16(raw); {
	case family == unix.AF_INET:
		addr = netip.AddrFrom4([4]byte(raw[4:8]))
	case family == unix.AF_INET6 && len(raw) >= 24: // SIN6_LEN_RFC2133, net/ipv6/af_inet6.c
		addr = netip.AddrFrom16([16]byte(raw[8:24])).Unmap()
	default:
		return netip.AddrPort{}, false
	}
	switch {
	case addr == netip.IPv4Unspecified():
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case addr == netip.IPv6Unspecified():
		addr = netip.IPv6Loopback()
	}
	return netip.AddrPortFrom(addr, port), true
}
