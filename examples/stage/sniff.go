package stage

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Numbers of the IANA protocol registry, and the ICMPv6 types that every link carries by itself (RFC 4861, RFC 3810).
const (
	protoHopByHop = 0
	protoICMPv6   = 58

	firstNeighbourType = 133 // router solicitation
	lastNeighbourType  = 137 // redirect
)

// sniff records each IP packet that reaches this host, whatever listens: so "nothing arrived" means nothing at all.
// Neighbour discovery and multicast listener reports do not count; they come from the link, not from a program.
func (h *host) sniff() error {
	// ETH_P_ALL in network byte order, packet(7).
	const allProtocols = uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(allProtocols))
	if err != nil {
		return fmt.Errorf("watch the wire: %w", err)
	}
	iface, err := net.InterfaceByName(h.plan.Interface)
	if err != nil {
		return fmt.Errorf("watch the wire: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: iface.Index}); err != nil {
		return fmt.Errorf("watch the wire: %w", err)
	}
	go func() {
		packet := make([]byte, 65536)
		for {
			n, from, err := unix.Recvfrom(fd, packet, 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return
			}
			if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype == unix.PACKET_OUTGOING {
				continue
			}
			if text, ok := describe(packet[:n]); ok {
				h.record("packet", text)
			}
		}
	}()
	return nil
}

// describe names the ends of an IP packet; ok is false for what the link sends by itself.
func describe(packet []byte) (text string, ok bool) {
	if len(packet) < 1 {
		return "", false
	}
	switch packet[0] >> 4 {
	case 4:
		if len(packet) < 20 {
			return "", false
		}
		payload := packet[min(len(packet), int(packet[0]&15)*4):]
		return ends(packet[9], addr(packet[12:16]), addr(packet[16:20]), payload), true
	case 6:
		if len(packet) < 41 {
			return "", false
		}
		proto, payload := packet[6], packet[40:]
		if proto == protoHopByHop || proto == protoICMPv6 && payload[0] >= firstNeighbourType && payload[0] <= lastNeighbourType {
			return "", false
		}
		return ends(proto, addr(packet[8:24]), addr(packet[24:40]), payload), true
	}
	return "", false
}

func addr(bytes []byte) netip.Addr {
	address, _ := netip.AddrFromSlice(bytes)
	return address
}

func ends(proto byte, from, to netip.Addr, payload []byte) string {
	port := uint16(0)
	if (proto == unix.IPPROTO_TCP || proto == unix.IPPROTO_UDP) && len(payload) >= 4 {
		port = binary.BigEndian.Uint16(payload[2:])
	}
	return fmt.Sprintf("protocol %d from %s to %s", proto, from, netip.AddrPortFrom(to, port))
}
