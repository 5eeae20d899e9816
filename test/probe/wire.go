package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// emitPatience is how long a stream may take to connect.
const emitPatience = 300 * time.Millisecond

// emission is something that is to leave this host: where to, and the words that it carries.
type emission struct {
	to    netip.AddrPort
	link  string
	words []byte
}

func init() {
	for name, send := range ways {
		Actions["emit-"+name] = func(a []string) error { // address:port, interface: a packet of this kind to it, with the name in it
			to, err := netip.ParseAddrPort(a[0])
			if err != nil {
				return err
			}
			return send(emission{to, a[1], []byte("emitted-" + name)})
		}
	}
}

// ways are the kinds of packets that a program can try to have sent, by name.
var ways = map[string]func(emission) error{
	"tcp":              func(e emission) error { return e.connect(e.family(), 0, nil) },
	"tcp-mapped":       func(e emission) error { return e.connect(unix.AF_INET6, 0, nil) },
	"tcp-multipath":    func(e emission) error { return e.connect(e.family(), unix.IPPROTO_MPTCP, nil) },
	"fastopen":         emission.fastOpen,
	"fastopen-connect": emission.fastOpenConnect,
	"udp":              func(e emission) error { return e.datagram(e.family(), 0, nil) },
	"udp-mapped":       func(e emission) error { return e.datagram(unix.AF_INET6, 0, nil) },
	"udp-connected":    func(e emission) error { return e.connect(e.family(), 0, datagrams) },
	"udp-batch":        emission.batch,
	"udp-broadcast":    func(e emission) error { return e.datagram(e.family(), 0, broadcast) },
	"udp-bound":        func(e emission) error { return e.datagram(e.family(), 0, e.bindToDevice) },
	"udp-marked":       func(e emission) error { return e.datagram(e.family(), 0, mark) },
	"udp-routed":       func(e emission) error { return e.datagram(e.family(), 0, e.sourceRoute) },
	"udp-routed-once":  emission.ancillaryRoute,
	"udp-foreign":      func(e emission) error { return e.datagram(e.family(), 0, transparent) },
	"udplite":          func(e emission) error { return e.datagram(e.family(), unix.IPPROTO_UDPLITE, nil) },
	"ping":             emission.ping,
	"raw-icmp":         func(e emission) error { return e.raw(unix.IPPROTO_ICMP, e.echo()) },
	"raw-udp":          func(e emission) error { return e.raw(unix.IPPROTO_UDP, e.udp()) },
	"raw-gre":          func(e emission) error { return e.raw(unix.IPPROTO_GRE, append([]byte{0, 0, 8, 0}, e.words...)) },
	"raw-whole":        func(e emission) error { return e.raw(unix.IPPROTO_RAW, e.packet()) },
	"frame":            emission.frame,
	"frame-cooked":     emission.cooked,
	"frame-xdp":        emission.xdp,
	"sctp":             func(e emission) error { return e.connect(e.family(), unix.IPPROTO_SCTP, seqpackets) },
	"dccp":             func(e emission) error { return e.connect(e.family(), unix.IPPROTO_DCCP, dccpType) },
	"vsock":            func(emission) error { return Closed(unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)) },
	"can":              func(emission) error { return Closed(unix.Socket(unix.AF_CAN, unix.SOCK_RAW, unix.CAN_RAW)) },
	"bluetooth": func(emission) error {
		return Closed(unix.Socket(unix.AF_BLUETOOTH, unix.SOCK_SEQPACKET, unix.BTPROTO_L2CAP))
	},
	"tipc":          func(emission) error { return Closed(unix.Socket(unix.AF_TIPC, unix.SOCK_RDM, 0)) },
	"smc":           func(emission) error { return Closed(unix.Socket(unix.AF_SMC, unix.SOCK_STREAM, 0)) },
	"l2tp":          func(e emission) error { return Closed(unix.Socket(e.family(), unix.SOCK_DGRAM, unix.IPPROTO_L2TP)) },
	"pppox":         func(emission) error { return Closed(unix.Socket(unix.AF_PPPOX, unix.SOCK_STREAM, 0)) },
	"llc":           func(emission) error { return Closed(unix.Socket(unix.AF_LLC, unix.SOCK_DGRAM, 0)) },
	"netlink-audit": func(emission) error { return Closed(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT)) },
	"netlink-monitor": func(emission) error {
		return Closed(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG))
	},
}

// The kinds of sockets that connect takes beside streams.
var (
	datagrams  = func(kind *int) { *kind = unix.SOCK_DGRAM }
	seqpackets = func(kind *int) { *kind = unix.SOCK_SEQPACKET }
	dccpType   = func(kind *int) { *kind = unix.SOCK_DCCP }
)

func (e emission) family() int {
	if e.to.Addr().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// address is the destination for a socket of a family; IPv4 in IPv6 where that is the family.
func (e emission) address(family int) unix.Sockaddr {
	if family == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(e.to.Port()), Addr: e.to.Addr().As4()}
	}
	a := &unix.SockaddrInet6{Port: int(e.to.Port()), Addr: e.to.Addr().As16()}
	if l, err := net.InterfaceByName(e.link); err == nil && (e.to.Addr().IsLinkLocalUnicast() || e.to.Addr().IsMulticast()) {
		a.ZoneId = uint32(l.Index)
	}
	return a
}

// connect connects, sends the words, and waits for an answer.
func (e emission) connect(family, protocol int, of func(*int)) error {
	kind := unix.SOCK_STREAM
	if of != nil {
		of(&kind)
	}
	fd, err := e.open(family, kind, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, e.address(family)); err != nil {
		return err
	}
	return e.say(fd)
}

func (e emission) say(fd int) error {
	if _, err := unix.Write(fd, e.words); err != nil {
		return err
	}
	_, err := unix.Read(fd, make([]byte, 1500))
	return err
}

// open makes a socket that waits for nothing for long.
func (e emission) open(family, kind, protocol int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, err
	}
	limit := unix.NsecToTimeval(emitPatience.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &limit); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	return fd, nil
}

func (e emission) fastOpen() error {
	fd, err := e.open(e.family(), unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, e.words, unix.MSG_FASTOPEN, e.address(e.family())); err != nil {
		return err
	}
	_, err = unix.Read(fd, make([]byte, 1500))
	return err
}

func (e emission) fastOpenConnect() error {
	fd, err := e.open(e.family(), unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
		return err
	}
	if err := unix.Connect(fd, e.address(e.family())); err != nil {
		return err
	}
	return e.say(fd)
}

// datagram sends one, without connecting, after the socket was set up.
func (e emission) datagram(family, protocol int, set func(fd int) error) error {
	fd, err := e.open(family, unix.SOCK_DGRAM, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if set != nil {
		if err := set(fd); err != nil {
			return err
		}
	}
	return unix.Sendto(fd, e.words, 0, e.address(family))
}

func broadcast(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }
func mark(fd int) error      { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 1) }

func (e emission) bindToDevice(fd int) error { return unix.BindToDevice(fd, e.link) }

// looseRoute are IPv4 options with a loose source route over the destination (RFC 791, 3.1).
func (e emission) looseRoute() []byte {
	a := e.to.Addr().As4()
	return append([]byte{131, 7, 4}, append(a[:], 0)...)
}

func (e emission) sourceRoute(fd int) error {
	return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(e.looseRoute()))
}

// transparent takes an address that is not this host's for its own.
func transparent(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{203, 0, 113, 7}})
}

// ancillaryRoute brings the route along with one datagram (IP_RETOPTS, ip(7)).
func (e emission) ancillaryRoute() error {
	fd, err := e.open(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	options := e.looseRoute()
	control := make([]byte, unix.CmsgSpace(len(options)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = unix.IPPROTO_IP, unix.IP_RETOPTS
	h.SetLen(unix.CmsgLen(len(options)))
	copy(control[unix.CmsgLen(0):], options)
	return unix.Sendmsg(fd, e.words, control, e.address(unix.AF_INET), 0)
}

// batch sends with sendmmsg(2).
func (e emission) batch() error {
	fd, err := e.open(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	to := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: e.to.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&to.Port))[:], e.to.Port())
	part := unix.Iovec{Base: &e.words[0]}
	part.SetLen(len(e.words))
	messages := [2]struct {
		unix.Msghdr
		sent uint32
		_    [4]byte
	}{}
	for i := range messages {
		messages[i].Name, messages[i].Namelen, messages[i].Iov = (*byte)(unsafe.Pointer(&to)), unix.SizeofSockaddrInet4, &part
		messages[i].SetIovlen(1)
	}
	if _, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages)), uintptr(len(messages)), 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// echo is an ICMP echo request.
func (e emission) echo() []byte {
	b := append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, e.words...)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return b
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
		sum += uint32(b[i]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// ping needs the user's group in net.ipv4.ping_group_range.
func (e emission) ping() error {
	fd, err := e.open(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, e.echo(), 0, e.address(unix.AF_INET))
}

func (e emission) raw(protocol int, packet []byte) error {
	fd, err := e.open(unix.AF_INET, unix.SOCK_RAW, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: e.to.Addr().As4()})
}

// udp is a datagram with its header, without a checksum.
func (e emission) udp() []byte {
	b := binary.BigEndian.AppendUint16(nil, 4000)
	b = binary.BigEndian.AppendUint16(b, e.to.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(e.words)))
	return append(append(b, 0, 0), e.words...)
}

// packet is the datagram in IPv4. The kernel fills in length and checksum, and the source where it sends it.
func (e emission) packet() []byte {
	datagram := e.udp()
	b := make([]byte, 20)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(datagram)))
	a := e.to.Addr().As4()
	copy(b[16:], a[:])
	return append(b, datagram...)
}

// station is the neighbour that broadcasts reach: everyone.
var station = [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

const ethernetIP = 0x0800

// whole is the packet in a frame.
func (e emission) whole() []byte {
	b := append(append([]byte{}, station[:6]...), 2, 0, 0, 0, 0, 9, 8, 0)
	return append(b, e.packet()...)
}

func (e emission) frame() error  { return e.packetSocket(unix.SOCK_RAW, e.whole()) }
func (e emission) cooked() error { return e.packetSocket(unix.SOCK_DGRAM, e.packet()) }

func (e emission) packetSocket(kind int, b []byte) error {
	fd, err := e.open(unix.AF_PACKET, kind, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	l, err := net.InterfaceByName(e.link)
	if err != nil {
		return fmt.Errorf("%s: %w", e.link, err)
	}
	protocol := [2]byte{}
	binary.BigEndian.PutUint16(protocol[:], ethernetIP)
	return unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16(protocol[:]), Ifindex: l.Index, Halen: 6, Addr: station,
	})
}

// flow is the stream that "flow-open" opened, and listening the socket of "flow-listen".
var flow, listening = -1, -1

func init() {
	Actions["flow-open"] = func(a []string) error { // address:port: a stream that stays open
		e, err := emissionTo(a[0])
		if err != nil {
			return err
		}
		if flow, err = e.open(e.family(), unix.SOCK_STREAM, 0); err != nil {
			return err
		}
		return unix.Connect(flow, e.address(e.family()))
	}
	Actions["flow-say"] = func([]string) error { return emission{words: []byte("emitted-flow\n")}.say(flow) }
	Actions["flow-listen"] = func(a []string) error { // address:port: others may open streams
		e, err := emissionTo(a[0])
		if err != nil {
			return err
		}
		if listening, err = e.open(e.family(), unix.SOCK_STREAM, 0); err != nil {
			return err
		}
		if err := unix.Bind(listening, e.address(e.family())); err != nil {
			return err
		}
		return unix.Listen(listening, 8)
	}
}

func emissionTo(text string) (emission, error) {
	to, err := netip.ParseAddrPort(text)
	return emission{to: to}, err
}

func init() {
	Actions["resolve"] = func(a []string) error { // name, address: asks whoever answers at a server of names
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, "192.0.2.53:53")
		}}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		got, err := r.LookupNetIP(ctx, "ip4", a[0]+".")
		switch {
		case err != nil:
			return errors.New("no answer")
		case len(got) != 1 || got[0].String() != a[1]:
			return fmt.Errorf("%v", got)
		}
		return nil
	}
}
