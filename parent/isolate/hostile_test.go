package isolate

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/xdp"
	"github.com/raypher/raypher/policy"
)

// frames builds what a hostile agent sends. Its zero mistakes are the frame of a datagram that is granted.
type frames struct {
	from, to         net.HardwareAddr
	agent4, agent6   netip.Addr
	host4, host6     netip.Addr
	granted4, other4 netip.Addr
	granted6         netip.Addr
}

func (f frames) ethernet(kind uint16, payload []byte) []byte {
	return slices.Concat(f.to, f.from, binary.BigEndian.AppendUint16(nil, kind), payload)
}

// sender is the port that datagrams come from.
const sender = 4000

func udp(port uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, sender)
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	return append(append(b, 0, 0), data...)
}

func ipv4(from, to netip.Addr, proto byte, fragment uint16, options, payload []byte) []byte {
	h := make([]byte, 20, 60)
	h[0], h[8], h[9] = byte(0x45+len(options)/4), 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(options)+len(payload)))
	binary.BigEndian.PutUint16(h[4:], 77)
	binary.BigEndian.PutUint16(h[6:], fragment)
	copy(h[12:], from.AsSlice())
	copy(h[16:], to.AsSlice())
	h = append(h, options...)
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(h[i])<<8 | uint32(h[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	return append(h, payload...)
}

func ipv6(from, to netip.Addr, next byte, payload []byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], from.AsSlice())
	copy(h[24:], to.AsSlice())
	return append(h, payload...)
}

func arp(operation byte, mac net.HardwareAddr, from, to netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, operation}
	b = append(append(b, mac...), from.AsSlice()...)
	return append(append(b, make([]byte, 6)...), to.AsSlice()...)
}

// hostile are frames of which none may reach the host's stack.
func (f frames) hostile() map[string][]byte {
	stranger, foreign := net.HardwareAddr{2, 1, 2, 3, 4, 5}, netip.MustParseAddr("10.77.0.1")
	ok4 := ipv4(f.agent4, f.granted4, 17, 0, nil, udp(80, "x"))
	spoofed, elsewhere := f, f
	spoofed.from, elsewhere.to = stranger, stranger
	neighbour := func(kind byte, about netip.Addr) []byte {
		return append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, about.AsSlice()...)
	}
	return map[string][]byte{
		"other port":                f.ethernet(0x800, ipv4(f.agent4, f.granted4, 17, 0, nil, udp(81, "x"))),
		"other address":             f.ethernet(0x800, ipv4(f.agent4, f.other4, 17, 0, nil, udp(80, "x"))),
		"host end":                  f.ethernet(0x800, ipv4(f.agent4, f.host4, 17, 0, nil, udp(80, "x"))),
		"host end, stream":          f.ethernet(0x800, ipv4(f.agent4, f.host4, 6, 0, nil, append(udp(22, ""), make([]byte, 12)...))),
		"source of the host":        f.ethernet(0x800, ipv4(foreign, f.granted4, 17, 0, nil, udp(80, "x"))),
		"source of the host end":    f.ethernet(0x800, ipv4(f.host4, f.granted4, 17, 0, nil, udp(80, "x"))),
		"source 127.0.0.1":          f.ethernet(0x800, ipv4(netip.MustParseAddr("127.0.0.1"), f.granted4, 17, 0, nil, udp(80, "x"))),
		"another station":           spoofed.ethernet(0x800, ok4),
		"for another station":       elsewhere.ethernet(0x800, ok4),
		"tagged":                    f.ethernet(0x8100, append([]byte{0, 5, 8, 0}, ok4...)),
		"tagged twice":              f.ethernet(0x88a8, append([]byte{0, 5, 0x81, 0, 0, 6, 8, 0}, ok4...)),
		"source route":              f.ethernet(0x800, ipv4(f.agent4, f.granted4, 17, 0, append([]byte{131, 7, 4}, append(f.other4.AsSlice(), 0)...), udp(80, "x"))),
		"later piece alone":         f.ethernet(0x800, ipv4(f.agent4, f.granted4, 17, 100, nil, udp(80, "xxxxxxxx"))),
		"first piece, other port":   f.ethernet(0x800, ipv4(f.agent4, f.granted4, 17, 0x2000, nil, udp(81, "xxxxxxxx"))),
		"piece too short for ports": f.ethernet(0x800, ipv4(f.agent4, f.granted4, 17, 0x2000, nil, []byte{1, 2})),
		"broadcast":                 f.ethernet(0x800, ipv4(f.agent4, netip.MustParseAddr("255.255.255.255"), 17, 0, nil, udp(67, "x"))),
		"group":                     f.ethernet(0x800, ipv4(f.agent4, netip.MustParseAddr("224.0.0.251"), 17, 0, nil, udp(5353, "x"))),
		"tunnel (41)":               f.ethernet(0x800, ipv4(f.agent4, f.granted4, 41, 0, nil, ipv6(f.agent6, f.granted6, 17, udp(80, "x")))),
		"GRE":                       f.ethernet(0x800, ipv4(f.agent4, f.granted4, 47, 0, nil, append([]byte{0, 0, 8, 0}, ok4...))),
		"SCTP":                      f.ethernet(0x800, ipv4(f.agent4, f.granted4, 132, 0, nil, udp(80, "xxxxxxxx"))),
		"redirect":                  f.ethernet(0x800, ipv4(f.agent4, f.host4, 1, 0, nil, append([]byte{5, 1, 0, 0}, append(f.agent4.AsSlice(), ok4...)...))),
		"error about nothing":       f.ethernet(0x800, ipv4(f.agent4, f.other4, 1, 0, nil, append([]byte{3, 3, 0, 0, 0, 0, 0, 0}, ok4...))),
		"echo":                      f.ethernet(0x800, ipv4(f.agent4, f.granted4, 1, 0, nil, []byte{8, 0, 0, 0, 0, 0, 0, 0})),
		"DNS past the forwarder":    f.ethernet(0x800, ipv4(f.agent4, f.granted4, 17, 0, nil, udp(53, "x"))),
		"IPv6, other port":          f.ethernet(0x86dd, ipv6(f.agent6, f.granted6, 17, udp(81, "x"))),
		"IPv6, source":              f.ethernet(0x86dd, ipv6(f.host6, f.granted6, 17, udp(80, "x"))),
		"IPv6, link-local source":   f.ethernet(0x86dd, ipv6(netip.MustParseAddr("fe80::1"), f.granted6, 17, udp(80, "x"))),
		"IPv6, mapped":              f.ethernet(0x86dd, ipv6(f.agent6, netip.MustParseAddr("::ffff:10.77.0.2"), 17, udp(80, "x"))),
		"IPv6, routing header":      f.ethernet(0x86dd, ipv6(f.agent6, f.granted6, 43, append([]byte{17, 2, 0, 1, 0, 0, 0, 0}, append(f.granted6.AsSlice(), udp(80, "x")...)...))),
		"IPv6, options, other port": f.ethernet(0x86dd, ipv6(f.agent6, f.granted6, 60, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp(81, "x")...))),
		"IPv6, later piece alone":   f.ethernet(0x86dd, ipv6(f.agent6, f.granted6, 44, append([]byte{17, 0, 0, 8, 0, 0, 0, 9}, udp(80, "x")...))),
		"IPv6, pieces of pieces":    f.ethernet(0x86dd, ipv6(f.agent6, f.granted6, 44, append([]byte{44, 0, 0, 1, 0, 0, 0, 9, 17, 0, 0, 1, 0, 0, 0, 9}, udp(80, "x")...))),
		"router advertisement":      f.ethernet(0x86dd, ipv6(f.agent6, netip.MustParseAddr("ff02::1"), 58, neighbour(134, f.agent6))),
		"neighbour, another's":      f.ethernet(0x86dd, ipv6(f.agent6, f.host6, 58, neighbour(136, f.host6))),
		"neighbour, asks another":   f.ethernet(0x86dd, ipv6(f.agent6, netip.MustParseAddr("ff02::1"), 58, neighbour(135, f.granted6))),
		"ARP, another's":            f.ethernet(0x806, arp(2, f.from, f.granted4, f.host4)),
		"ARP, asks another":         f.ethernet(0x806, arp(1, f.from, f.agent4, f.granted4)),
		"ARP, another station":      f.ethernet(0x806, arp(1, stranger, f.agent4, f.host4)),
		"unknown type":              f.ethernet(0x8137, []byte("x")),
		"empty":                     f.ethernet(0x800, nil),
		"jumbled":                   f.ethernet(0x800, bytes.Repeat([]byte{0xff}, 60)),
	}
}

// TestHostileFrames: whoever is root in an agent's namespace, with whatever frames, gets nothing past the wire but what is granted.
func TestHostileFrames(t *testing.T) {
	w := newWorld(t)
	w.serve(w.far, netip.AddrPortFrom(far4, 80))
	g := w.newGuest(&policy.Network{Egress: []string{far4.String() + ":80", "[" + far6.String() + "]:80"}})
	stack := w.stack(g)
	f, fd := g.packets(t)
	for name, good := range map[string][]byte{ // else the silence below would say nothing
		"datagram":          f.ethernet(0x800, ipv4(f.agent4, f.granted4, 17, 0, nil, udp(80, "good"))),
		"IPv6":              f.ethernet(0x86dd, ipv6(f.agent6, f.granted6, 17, udp(80, "good"))),
		"IPv6 with options": f.ethernet(0x86dd, ipv6(f.agent6, f.granted6, 60, append([]byte{17, 0, 1, 4, 0, 0, 0, 0}, udp(80, "good")...))),
		"ARP":               f.ethernet(0x806, arp(1, f.from, f.agent4, f.host4)),
		"neighbour":         f.ethernet(0x86dd, ipv6(f.agent6, f.host6, 58, append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, f.host6.AsSlice()...))),
	} {
		send(t, fd, good)
		if !eventually(func() bool { return contains(stack.came(), good) }) {
			t.Errorf("%s: was granted and did not come", name)
		}
	}
	for name, bad := range f.hostile() {
		before, err := w.xdp.Of(g.cgroup)
		must(t, err)
		send(t, fd, bad)
		var after xdpguard.Dropped
		counted := eventually(func() bool {
			after, err = w.xdp.Of(g.cgroup)
			must(t, err)
			return after.Packets > before.Packets
		})
		if frames := stack.came(); len(frames) > 0 {
			t.Errorf("%s: the host's stack got %v", name, frames)
		}
		if !counted || after.Bytes-before.Bytes != uint64(len(bad)) {
			t.Errorf("%s: %d bytes counted as %d", name, len(bad), after.Bytes-before.Bytes)
		}
	}
}

// packets opens a socket for frames inside, and says who is who.
func (g guest) packets(t *testing.T) (f frames, fd int) {
	t.Helper()
	within(t, g.ns, func() {
		l, err := netlink.LinkByName(agentEnd)
		must(t, err)
		f.from = l.Attrs().HardwareAddr
		neighbours, err := netlink.NeighList(l.Attrs().Index, unix.AF_UNSPEC)
		must(t, err)
		for _, n := range neighbours {
			if a, _ := netip.AddrFromSlice(n.IP); a.Is4() {
				f.to, f.host4, f.agent4 = n.HardwareAddr, a, a.Next()
			} else if strings.HasPrefix(a.String(), "fd") {
				f.host6, f.agent6 = a, a.Next()
			}
		}
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}))
		t.Cleanup(func() { unix.Close(fd) })
		// Answers find somebody: otherwise the namespace's own stack says later that they did not, by frames that nobody sent here.
		answers, err := net.ListenUDP("udp", &net.UDPAddr{Port: sender})
		must(t, err)
		t.Cleanup(func() { answers.Close() })
	})
	f.granted4, f.other4, f.granted6 = far4, other4, far6
	return f, fd
}

func send(t *testing.T, fd int, frame []byte) {
	t.Helper()
	must(t, unix.Send(fd, frame, 0))
}

func contains(frames []string, frame []byte) bool {
	return slices.ContainsFunc(frames, func(s string) bool { return strings.HasPrefix(s, hex.EncodeToString(frame)) })
}

func eventually(ok func() bool) bool {
	for range 200 {
		if ok() {
			return true
		}
		time.Sleep(5 * time.Millisecond)
	}
	return false
}

// TestRootInside: addresses, stations and routes that root makes in an agent's namespace lead nowhere.
func TestRootInside(t *testing.T) {
	w := newWorld(t)
	at := netip.AddrPortFrom(far4, 80)
	w.serve(w.far, at)
	g := w.newGuest(&policy.Network{Egress: []string{at.String()}})
	if err := g.talk(t, "tcp", at, 1); err != nil {
		t.Fatal("before: ", err)
	}
	within(t, g.ns, func() {
		l, err := netlink.LinkByName(agentEnd)
		must(t, err)
		must(t, netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 77, 0, 9), Mask: net.CIDRMask(24, 32)}}))
		must(t, netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: far4.AsSlice(), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}))
	})
	stack := w.stack(g)
	if err := g.talk(t, "udp", at, 1); err == nil { // on the link now, in its name
		t.Error("an address that root made inside reaches outside")
	}
	within(t, g.ns, func() {
		l, err := netlink.LinkByName(agentEnd)
		must(t, err)
		must(t, netlink.AddrDel(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 77, 0, 9), Mask: net.CIDRMask(24, 32)}}))
		must(t, netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 9, 9, 9, 9, 9}))
	})
	if err := g.talk(t, "udp", at, 1); err == nil {
		t.Error("another station inside reaches outside")
	}
	if frames := stack.came(); len(frames) > 0 {
		t.Errorf("the host's stack got %v", frames)
	}
}
