package netguard

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/test/farhost"
)

// A world is two network namespaces with a wire between them: near, where the guard and the agents are, and far, with a
// server on every address that listens on all ports that a test names and notes everything that reached it.
type world struct {
	near, far  netns.NsHandle
	cgroupPath string
	resolvConf string // that the forwarder reads; empty: the machine's

	mu      sync.Mutex
	arrived []string // "tcp 10.77.0.2:80 data", in order
	packets []string // every IP packet from near that the far end's interface saw
	resets  int      // streams that the near end reset
}

var (
	near4   = netip.MustParseAddr("10.77.0.1")
	far4    = netip.MustParseAddr("10.77.0.2")
	second4 = netip.MustParseAddr("10.77.1.2")
	near6   = netip.MustParseAddr("fd77::1")
	far6    = netip.MustParseAddr("fd77::2")
	lo4     = netip.MustParseAddr("127.0.0.1")
)

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

var (
	must         = farhost.Must
	newNamespace = farhost.Namespace
)

// newWorld makes both namespaces. Whoever acts in one does so through world.in.
func newWorld(t testing.TB) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("makes network namespaces and loads BPF programs: needs root")
	}
	w := &world{}
	w.far, w.near = newNamespace(t), newNamespace(t)
	farhost.Connect(t, w.near, w.far, "wire")
	farhost.Up(t, w.near, "wire", near4.String()+"/24", near6.String()+"/64")
	farhost.Up(t, w.far, "wire", far4.String()+"/24", second4.String()+"/24", far6.String()+"/64")
	w.in(t, w.near, func() {
		must(t, netlink.RouteAdd(&netlink.Route{
			Dst: &net.IPNet{IP: net.IP{10, 77, 1, 0}, Mask: net.CIDRMask(24, 32)}, Gw: net.IP(far4.AsSlice()),
		}))
		must(t, os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0)) // ping sockets for all
	})
	w.makeCgroup(t)
	return w
}

// in runs f on a thread in another namespace; what it starts and opens stays there.
func (w *world) in(t testing.TB, ns netns.NsHandle, f func()) {
	t.Helper()
	farhost.In(t, ns, f)
}

func (w *world) makeCgroup(t testing.TB) {
	t.Helper()
	m, err := cgroup.FindMounts()
	if err != nil {
		t.Skip(err)
	}
	var b [6]byte
	rand.Read(b[:])
	w.cgroupPath = filepath.Join(m.Unified, "raypher-netguard-test-"+hex.EncodeToString(b[:]))
	must(t, os.Mkdir(w.cgroupPath, 0o755))
	t.Cleanup(func() { os.Remove(w.cgroupPath) })
}

// agent is one agent's cgroup.
type agent struct {
	id  uint64
	fd  int
	dir string
}

func (w *world) newAgent(t testing.TB, name string) agent {
	t.Helper()
	dir := filepath.Join(w.cgroupPath, name)
	must(t, os.Mkdir(dir, 0o755))
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	t.Cleanup(func() {
		unix.Close(fd)
		for range 100 { // until the last process is reaped
			if os.Remove(dir) == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	return agent{st.Ino, fd, dir}
}

func (w *world) load(t testing.TB, o Options) *Guard {
	t.Helper()
	o.CgroupPath = w.cgroupPath
	var g *Guard
	w.in(t, w.near, func() {
		var err error
		g, err = Load(o)
		must(t, err)
	})
	t.Cleanup(func() { g.Close() })
	return g
}

// serve answers on a TCP and a UDP port of an address, with "you said " in front.
func (w *world) serve(t testing.TB, ns netns.NsHandle, a netip.AddrPort) {
	t.Helper()
	var l *net.TCPListener
	var u *net.UDPConn
	w.in(t, ns, func() {
		var err error
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
		must(t, err)
		u, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
		must(t, err)
	})
	t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 4096)
				w.note("tcp %v connected", a)
				for {
					n, err := c.Read(b)
					if err != nil {
						if errors.Is(err, unix.ECONNRESET) {
							w.mu.Lock()
							w.resets++
							w.mu.Unlock()
						}
						return
					}
					w.note("tcp %v %s", a, b[:n])
					fmt.Fprintf(c, "you said %s", b[:n])
				}
			}()
		}
	}()
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := u.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			w.note("udp %v %s", a, b[:n])
			u.WriteToUDPAddrPort(append([]byte("you said "), b[:n]...), from)
		}
	}()
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arrived = append(w.arrived, fmt.Sprintf(format, args...))
}

// capture notes every IP packet that comes over the wire to the far end, but for neighbour discovery.
func (w *world) capture(t testing.TB) {
	t.Helper()
	var fd int
	w.in(t, w.far, func() {
		l, err := netlink.LinkByName("wire")
		must(t, err)
		all := int(networkOrder(unix.ETH_P_ALL))
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		must(t, err)
		must(t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: l.Attrs().Index}))
	})
	f := os.NewFile(uintptr(fd), "capture")
	t.Cleanup(func() { f.Close() })
	raw, err := f.SyscallConn()
	must(t, err)
	go func() {
		b := make([]byte, 2048)
		raw.Read(func(fd uintptr) bool {
			for {
				n, from, err := unix.Recvfrom(int(fd), b, 0)
				if err == unix.EAGAIN {
					return false
				}
				if err != nil {
					return true
				}
				if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
					w.notePacket(b[:n])
				}
			}
		})
	}()
}

func (w *world) notePacket(p []byte) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
	case len(p) >= 48 && p[0]>>4 == 6 && p[6] != 58 && p[6] != 0: // ICMPv6, and multicast reports behind hop-by-hop options
	default:
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.packets = append(w.packets, hex.EncodeToString(p))
}

// sees waits for a packet at the far end that ends as this one does.
func (w *world) sees(packet []byte) bool {
	for range 100 {
		w.mu.Lock()
		found := slices.ContainsFunc(w.packets, func(p string) bool { return strings.HasSuffix(p, hex.EncodeToString(packet[len(packet)-8:])) })
		w.mu.Unlock()
		if found {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// settle waits until what is under way has arrived, and forgets it: for what comes before the case. Of the case itself, rest.
func (w *world) settle() { w.rest() }

// rest waits until what is under way has arrived, and returns all that came since the last forgetting.
func (w *world) rest() (arrived, packets []string) {
	for {
		time.Sleep(100 * time.Millisecond)
		a, p := w.forget()
		arrived, packets = append(arrived, a...), append(packets, p...)
		if len(a)+len(p) == 0 {
			return arrived, packets
		}
	}
}

// forget empties what was noted and returns it.
func (w *world) forget() (arrived, packets []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	arrived, packets = w.arrived, w.packets
	w.arrived, w.packets = nil, nil
	return arrived, packets
}

// recorder collects a guard's events.
type recorder struct {
	mu     sync.Mutex
	events []Event
	when   []time.Time
}

func record(t testing.TB, g *Guard) *recorder {
	t.Helper()
	r := &recorder{}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- g.Run(ctx, func(e Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.events = append(r.events, e)
			r.when = append(r.when, time.Now())
		})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("reading events: %v", err)
		}
	})
	return r
}

// wait returns the first event that matches.
func (r *recorder) wait(t testing.TB, what string, match func(Event) bool) Event {
	t.Helper()
	for range 300 {
		r.mu.Lock()
		i := slices.IndexFunc(r.events, match)
		if i >= 0 {
			e := r.events[i]
			r.mu.Unlock()
			return e
		}
		r.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Fatalf("no event %s among %+v", what, r.events)
	return Event{}
}

// of returns the events of one agent so far.
func (r *recorder) of(a agent) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var own []Event
	for _, e := range r.events {
		if e.CgroupID == a.id {
			own = append(own, e)
		}
	}
	return own
}

func (r *recorder) forget() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.events
	r.events, r.when = nil, nil
	return e
}

// later is a deadline in the far future.
func later() int64 { return bootTime() + time.Hour.Nanoseconds() }

func arm(t testing.TB, g *Guard, a agent, n *policy.Network, m policy.Mode) {
	t.Helper()
	must(t, g.Arm(Agent{CgroupID: a.id, Network: n, Mode: m, Deadline: later()}))
}

// ownEnds are those of a raypherd in tests.
var ownEnds = []netip.AddrPort{mustAddr("127.0.0.1:50051")}

func mustAddr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// listeningPort finds the port on which a process listens for TCP over IPv4 in the near namespace.
func listeningPort(t testing.TB, pid int) uint16 {
	t.Helper()
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	must(t, err)
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, line := range strings.Split(string(table), "\n") {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != "0A" { // TCP_LISTEN
			continue
		}
		for _, fd := range fds {
			if link, _ := os.Readlink(fd); link == "socket:["+f[9]+"]" {
				_, hexPort, _ := strings.Cut(f[1], ":")
				port, err := strconv.ParseUint(hexPort, 16, 16)
				must(t, err)
				return uint16(port)
			}
		}
	}
	t.Fatal("the probe listens nowhere")
	return 0
}
