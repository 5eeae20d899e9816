package netguard

import (
	"bufio"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"
	"github.com/vishvananda/netns"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// A probe is this test binary, run again inside a cgroup. It does one action for each line of its input and says what came
// of it, so that a test sees what a governed program would see.

const probeEnvironment = "RAYPHER_NETGUARD_PROBE"

func TestMain(m *testing.M) {
	if os.Getenv(probeEnvironment) != "" {
		serveProbe()
		os.Exit(0)
	}
	// What runs side by side here waits for silence most of the time.
	if err := flag.Set("test.parallel", "8"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

type action struct {
	Do   string         // see probe.act
	To   netip.AddrPort // destination, or local address of bind and listen
	Path string         // of a unix socket, "@" in front of an abstract one; or a name to look up
	Data string

	Patience time.Duration // 0: probePatience
}

type outcome struct {
	Err  string // errno by name, "timeout", or empty
	Data string // what came back
}

// How long a probe waits for an answer: where nothing says what comes, where silence is expected, and where an answer is.
const (
	probePatience   = 700 * time.Millisecond
	silencePatience = 300 * time.Millisecond
	answerPatience  = 5 * time.Second
)

// patience is that of the action that a probe does.
var patience = probePatience

type probe struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// startProbe starts a probe in a cgroup (an open folder; -1: in the test's own), in the near namespace.
func (w *world) startProbe(t testing.TB, cgroup int) *probe {
	t.Helper()
	return w.startProbeIn(t, w.near, cgroup)
}

func (w *world) startProbeIn(t testing.TB, ns netns.NsHandle, cgroup int) *probe {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), probeEnvironment+"=1", "GODEBUG=asyncpreemptoff=1") // no SIGURG: no EINTR
	cmd.Stderr = os.Stderr
	if cgroup >= 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cgroup}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.in(t, ns, func() { must(t, cmd.Start()) })
	p := &probe{t, cmd, in, bufio.NewScanner(out)}
	t.Cleanup(func() {
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return p
}

func (p *probe) do(a action) outcome {
	p.t.Helper()
	line, err := json.Marshal(a)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		p.t.Fatalf("asking the probe: %v", err)
	}
	if !p.out.Scan() {
		p.t.Fatalf("the probe ended: %v", p.out.Err())
	}
	var o outcome
	if err := json.Unmarshal(p.out.Bytes(), &o); err != nil {
		p.t.Fatalf("probe said %q: %v", p.out.Text(), err)
	}
	return o
}

func serveProbe() {
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	state := &probeState{fd: -1}
	for in.Scan() {
		var a action
		if err := json.Unmarshal(in.Bytes(), &a); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		data, err := state.act(a)
		o := outcome{Data: data}
		var errno syscall.Errno
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINPROGRESS):
			o.Err = "timeout"
		case errors.As(err, &errno):
			o.Err = unix.ErrnoName(errno)
		default:
			o.Err = err.Error()
		}
		if err := out.Encode(o); err != nil {
			os.Exit(1)
		}
	}
}

// probeState keeps one open socket between actions.
type probeState struct {
	fd       int
	listener int
}

func (s *probeState) act(a action) (string, error) {
	patience = cmp.Or(a.Patience, probePatience)
	switch a.Do {
	case "tcp", "tcp-mapped", "fastopen", "fastopen-mapped":
		return once(a, unix.SOCK_STREAM, 0)
	case "udp", "udp-mapped", "udp-connected":
		return once(a, unix.SOCK_DGRAM, 0)
	case "sendmmsg":
		return sendBatch(a)
	case "raw":
		return once(a, unix.SOCK_RAW, unix.IPPROTO_RAW)
	case "icmp":
		return once(a, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	case "mptcp":
		return once(a, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)
	case "udplite":
		return once(a, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE)
	case "open", "open-udp", "say", "again":
		return s.flow(a)
	case "bind", "listen", "accept", "accept-keep", "hear", "unlisten", "serve-udp", "answer-udp", "bound-tcp", "tell":
		return s.local(a)
	case "from-tcp", "from-udp":
		return from(a)
	case "unix", "unix-dgram", "socketpair":
		return actUnix(a)
	case "peername", "peername-mapped", "recvfrom", "recvfrom-mapped":
		return actRestored(a)
	case "lookup", "lookup-tcp":
		return lookUp(a)
	case "raw-open", "raw-send":
		return s.raw(a)
	case "pieces", "pieces-fastopen":
		return pieces(a)
	case "burst":
		return burst(a)
	case "bench-request", "bench-stream", "bench-ports":
		return benchFlow(a)
	case "bench-connect", "bench-send":
		return bench(a)
	}
	return "", fmt.Errorf("unknown action %q", a.Do)
}

func socket(family, kind, proto int) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return -1, err
	}
	return fd, waits(fd)
}

// waits gives a socket the patience of the action.
func waits(fd int) error {
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	return errors.Join(
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
	)
}

// sockaddr is the address in the family in which the probe speaks: "-mapped" actions use IPv6 sockets for IPv4.
func sockaddr(a action) (int, unix.Sockaddr) {
	addr := a.To.Addr()
	if addr.Is4() && !strings.HasSuffix(a.Do, "-mapped") {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.To.Port()), Addr: addr.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.To.Port()), Addr: addr.As16()}
}

func receive(fd int) (string, error) {
	if err := waits(fd); err != nil {
		return "", err
	}
	b := make([]byte, 65536)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// once makes a socket, sends Data and returns what the other end answered.
func once(a action, kind, proto int) (string, error) {
	family, to := sockaddr(a)
	fd, err := socket(family, kind, proto)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	switch a.Do {
	case "tcp", "tcp-mapped", "udp-connected", "mptcp":
		if err := unix.Connect(fd, to); err != nil {
			return "", err
		}
		_, err = unix.Write(fd, []byte(a.Data))
	case "fastopen", "fastopen-mapped":
		err = unix.Sendto(fd, []byte(a.Data), unix.MSG_FASTOPEN, to)
	default:
		err = unix.Sendto(fd, []byte(a.Data), 0, to)
	}
	if err != nil {
		return "", err
	}
	return receive(fd)
}

// flow keeps a connection open between actions. "again" takes the same socket apart and connects it anew.
func (s *probeState) flow(a action) (string, error) {
	switch a.Do {
	case "say":
	case "again":
		var unspecified unix.RawSockaddrInet4 // AF_UNSPEC: connect(2) takes the connection apart
		if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&unspecified)), unix.SizeofSockaddrInet4); errno != 0 {
			return "", errno
		}
		_, to := sockaddr(a)
		if err := unix.Connect(s.fd, to); err != nil {
			return "", err
		}
	default:
		family, to := sockaddr(a)
		kind := unix.SOCK_STREAM
		if a.Do == "open-udp" {
			kind = unix.SOCK_DGRAM
		}
		fd, err := socket(family, kind, 0)
		if err != nil {
			return "", err
		}
		if err := unix.Connect(fd, to); err != nil {
			unix.Close(fd)
			return "", err
		}
		s.fd = fd
	}
	if _, err := unix.Write(s.fd, []byte(a.Data)); err != nil {
		return "", err
	}
	return receive(s.fd)
}

// local binds. "bound-tcp" connects to Path from the bound address.
func (s *probeState) local(a action) (string, error) {
	switch a.Do {
	case "accept", "accept-keep", "answer-udp":
		return s.answer(a)
	case "hear":
		return receive(s.fd)
	case "unlisten":
		return "", unix.Close(s.listener)
	case "tell": // a datagram from the bound socket to somebody who has not asked
		_, to := sockaddr(a)
		if err := unix.Sendto(s.listener, []byte(a.Data), 0, to); err != nil {
			return "", err
		}
		return receive(s.listener)
	}
	family, at := sockaddr(a)
	kind := unix.SOCK_STREAM
	if a.Do == "serve-udp" {
		kind = unix.SOCK_DGRAM
	}
	fd, err := socket(family, kind, 0)
	if err != nil {
		return "", err
	}
	if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, at)); err != nil {
		unix.Close(fd)
		return "", err
	}
	switch a.Do {
	case "bound-tcp":
		defer unix.Close(fd)
		to, err := netip.ParseAddrPort(a.Path)
		if err != nil {
			return "", err
		}
		_, peer := sockaddr(action{To: to})
		if err := unix.Connect(fd, peer); err != nil {
			return "", err
		}
		return "", nil
	case "listen":
		if err := unix.Listen(fd, 8); err != nil {
			return "", err
		}
	case "bind":
		return "", unix.Close(fd)
	}
	s.listener = fd
	return "", nil
}

// answer takes one connection or datagram and sends back what it said.
func (s *probeState) answer(a action) (string, error) {
	if err := waits(s.listener); err != nil {
		return "", err
	}
	if a.Do == "answer-udp" {
		b := make([]byte, 65536)
		n, from, err := unix.Recvfrom(s.listener, b, 0)
		if err != nil {
			return "", err
		}
		return string(b[:n]), unix.Sendto(s.listener, b[:n], 0, from)
	}
	fd, _, err := unix.Accept(s.listener)
	if err != nil {
		return "", err
	}
	if a.Do == "accept-keep" {
		s.fd = fd
	} else {
		defer unix.Close(fd)
	}
	said, err := receive(fd)
	if err != nil {
		return "", err
	}
	_, err = unix.Write(fd, []byte(said))
	return said, err
}

// from sends Data from the address Path, and returns the answer.
func from(a action) (string, error) {
	kind := unix.SOCK_STREAM
	if a.Do == "from-udp" {
		kind = unix.SOCK_DGRAM
	}
	family, to := sockaddr(a)
	fd, err := socket(family, kind, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	own, err := netip.ParseAddr(a.Path)
	if err != nil {
		return "", err
	}
	_, at := sockaddr(action{To: netip.AddrPortFrom(own, 0)})
	if err := errors.Join(unix.Bind(fd, at), unix.Connect(fd, to)); err != nil {
		return "", err
	}
	if _, err := unix.Write(fd, []byte(a.Data)); err != nil {
		return "", err
	}
	return receive(fd)
}

func actUnix(a action) (string, error) {
	kind := unix.SOCK_STREAM
	if a.Do == "unix-dgram" {
		kind = unix.SOCK_DGRAM
	}
	if a.Do == "socketpair" {
		pair, err := unix.Socketpair(unix.AF_UNIX, kind, 0)
		if err != nil {
			return "", err
		}
		if _, err := unix.Write(pair[0], []byte(a.Data)); err != nil {
			return "", err
		}
		return receive(pair[1])
	}
	fd, err := socket(unix.AF_UNIX, kind, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if kind == unix.SOCK_DGRAM {
		return "", unix.Sendto(fd, []byte(a.Data), 0, &unix.SockaddrUnix{Name: a.Path})
	}
	return "", unix.Connect(fd, &unix.SockaddrUnix{Name: a.Path})
}

// actRestored shows which address a program is told after its DNS traffic was redirected.
func actRestored(a action) (string, error) {
	family, to := sockaddr(a)
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var from unix.Sockaddr
	if strings.HasPrefix(a.Do, "peername") {
		if err := unix.Connect(fd, to); err != nil {
			return "", err
		}
		from, err = unix.Getpeername(fd)
	} else {
		q := new(dns.Msg)
		q.SetQuestion(dns.Fqdn(a.Path), dns.TypeA)
		var packed []byte
		if packed, err = q.Pack(); err != nil {
			return "", err
		}
		if err = unix.Sendto(fd, packed, 0, to); err != nil {
			return "", err
		}
		_, from, err = unix.Recvfrom(fd, make([]byte, 65536), 0)
	}
	if err != nil {
		return "", err
	}
	switch f := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(f.Addr), uint16(f.Port)).String(), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(f.Addr), uint16(f.Port)).String(), nil
	}
	return "", errors.New("no address")
}

// burst sends a datagram to each of 1000 ports, or 1000 to one (Data "same").
func burst(a action) (string, error) {
	family, _ := sockaddr(a)
	fd, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	for i := range 1000 {
		to := a.To
		if a.Data != "same" {
			to = netip.AddrPortFrom(to.Addr(), uint16(20000+i))
		}
		_, peer := sockaddr(action{To: to})
		if err := unix.Sendto(fd, []byte("x"), 0, peer); err != nil && !errors.Is(err, unix.EPERM) {
			return "", err
		}
	}
	return "", nil
}

// sendBatch sends with sendmmsg(2).
func sendBatch(a action) (string, error) {
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_, err = ipv4.NewPacketConn(c).WriteBatch([]ipv4.Message{{Buffers: [][]byte{[]byte(a.Data)}, Addr: net.UDPAddrFromAddrPort(a.To)}}, 0)
	if err != nil {
		return "", err
	}
	c.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 65536)
	n, err := c.Read(b)
	return string(b[:n]), err
}

// lookUp asks the server To for the addresses of the name Path.
func lookUp(a action) (string, error) {
	network := "udp"
	if a.Do == "lookup-tcp" {
		network = "tcp"
	}
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, a.To.String())
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	addrs, err := r.LookupNetIP(ctx, "ip4", a.Path+".")
	if err != nil {
		return "", err
	}
	return fmt.Sprint(addrs), nil
}

// raw opens a raw socket and sends whole packets (Data, in hex) with it.
func (s *probeState) raw(a action) (string, error) {
	var err error
	family, to := sockaddr(a)
	if a.Do == "raw-open" {
		if s.fd, err = socket(family, unix.SOCK_RAW, unix.IPPROTO_RAW); err == nil && family == unix.AF_INET6 {
			err = unix.SetsockoptInt(s.fd, unix.IPPROTO_IPV6, unix.IPV6_HDRINCL, 1)
		}
		return "", err
	}
	packet, err := hex.DecodeString(a.Data)
	if err != nil {
		return "", err
	}
	return "", unix.Sendto(s.fd, packet, 0, to)
}
