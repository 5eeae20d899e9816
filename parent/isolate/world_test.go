package isolate

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/parent/guard/xdp"
	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/test/farhost"
)

var (
	must         = farhost.Must
	newNamespace = farhost.Namespace
	within       = farhost.In
)

// A world is a host, which is a network namespace, and far hosts at the other end of its wire, in another one. Agents get
// namespaces of their own from the package.
type world struct {
	t         *testing.T
	host, far netns.NsHandle
	cgroups   string
	guard     *netguard.Guard
	xdp       *xdpguard.Guard
	wires     *Wires

	mu      sync.Mutex
	arrived []string // "tcp 10.77.0.2:80 from 10.77.0.1 data", in order
}

var (
	near4, far4, other4 = netip.MustParseAddr("10.77.0.1"), netip.MustParseAddr("10.77.0.2"), netip.MustParseAddr("10.77.0.3")
	near6, far6, other6 = netip.MustParseAddr("fd77::1"), netip.MustParseAddr("fd77::2"), netip.MustParseAddr("fd77::3")
)

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("makes network namespaces and loads BPF programs: needs root")
	}
	w := &world{t: t, host: newNamespace(t), far: newNamespace(t)}
	farhost.Connect(t, w.host, w.far, "uplink")
	farhost.Up(t, w.host, "uplink", near4.String()+"/24", near6.String()+"/64")
	farhost.Up(t, w.far, "uplink", far4.String()+"/24", other4.String()+"/24", far6.String()+"/64", other6.String()+"/64")
	w.makeCgroup()
	within(t, w.host, func() {
		var err error
		w.guard, err = netguard.Load(netguard.Options{CgroupPath: w.cgroups})
		must(t, err)
	})
	t.Cleanup(func() { w.guard.Close() })
	w.wires = w.newWires(t.TempDir())
	return w
}

// newWires is a raypherd's.
func (w *world) newWires(folder string) *Wires {
	return &Wires{
		Folder: folder, Owner: folder, Log: slog.New(slog.DiscardHandler),
		Guard: func(block4, block6 netip.Prefix) (*xdpguard.Guard, error) {
			if w.xdp != nil {
				return w.xdp, nil
			}
			var err error
			w.xdp, err = xdpguard.Load(w.guard, xdpguard.Options{Block4: block4, Block6: block6})
			if err == nil {
				own := w.xdp
				w.t.Cleanup(func() { own.Close() })
			}
			return w.xdp, err
		},
	}
}

func (w *world) makeCgroup() {
	m, err := cgroup.FindMounts()
	if err != nil {
		w.t.Skip(err)
	}
	var b [6]byte
	rand.Read(b[:])
	w.cgroups = filepath.Join(m.Unified, "raypher-isolate-test-"+hex.EncodeToString(b[:]))
	must(w.t, os.Mkdir(w.cgroups, 0o755))
	w.t.Cleanup(func() { os.Remove(w.cgroups) })
}

// guest is an isolated agent: what is sent from its namespace here comes from no process of its cgroup, so only the wire holds it.
type guest struct {
	id     string
	cgroup uint64
	ns     netns.NsHandle
}

// newGuest makes one that may do what n says.
func (w *world) newGuest(n *policy.Network) guest {
	w.t.Helper()
	var b [6]byte
	rand.Read(b[:])
	g := guest{id: hex.EncodeToString(b[:]), ns: newNamespace(w.t)}
	dir := filepath.Join(w.cgroups, g.id)
	must(w.t, os.Mkdir(dir, 0o755))
	w.t.Cleanup(func() { os.Remove(dir) })
	var st unix.Stat_t
	must(w.t, unix.Stat(dir, &st))
	g.cgroup = st.Ino
	w.arm(g, n, policy.Enforce)
	within(w.t, w.host, func() {
		ns := os.NewFile(dup(w.t, g.ns), "netns")
		defer ns.Close()
		notes, err := w.wires.Connect(g.id, g.cgroup, ns)
		must(w.t, err)
		if len(notes) > 0 {
			w.t.Log(notes)
		}
	})
	return g
}

func dup(t testing.TB, ns netns.NsHandle) uintptr {
	fd, err := unix.Dup(int(ns))
	must(t, err)
	return uintptr(fd)
}

func (w *world) arm(g guest, n *policy.Network, mode policy.Mode) {
	w.t.Helper()
	must(w.t, w.guard.Arm(netguard.Agent{CgroupID: g.cgroup, Network: n, Mode: mode, Deadline: bootTime() + time.Hour.Nanoseconds()}))
}

func bootTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Nano()
}

// serve answers on a TCP and a UDP port of an address, and notes what came.
func (w *world) serve(ns netns.NsHandle, at netip.AddrPort) {
	w.t.Helper()
	var l *net.TCPListener
	var u *net.UDPConn
	within(w.t, ns, func() {
		var err error
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		must(w.t, err)
		u, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		must(w.t, err)
	})
	w.t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.note("tcp %v from %v", at, c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap())
			go func() {
				defer c.Close()
				b := make([]byte, 4096)
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					c.Write(b[:n])
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
			w.note("udp %v from %v %d", at, from.Addr().Unmap(), n)
			u.WriteToUDPAddrPort(b[:n], from)
		}
	}()
}

func (w *world) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.arrived = append(w.arrived, fmt.Sprintf(format, args...))
}

// heard says whether something that begins so has arrived, and forgets all.
func (w *world) heard(begin string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	ok := slices.ContainsFunc(w.arrived, func(s string) bool { return strings.HasPrefix(s, begin) })
	w.arrived = nil
	return ok
}

// talk connects over TCP or UDP from the guest and reports whether an answer came.
func (g guest) talk(t testing.TB, network string, to netip.AddrPort, bytes int) error {
	t.Helper()
	var err error
	within(t, g.ns, func() {
		var c net.Conn
		if c, err = (&net.Dialer{Timeout: 700 * time.Millisecond}).Dial(network, to.String()); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(700 * time.Millisecond))
		if _, err = c.Write(make([]byte, bytes)); err != nil {
			return
		}
		_, err = c.Read(make([]byte, bytes))
	})
	return err
}

// stack watches what the host's stack gets of a guest: a capture behind XDP at the host end of its wire, of all protocols.
func (w *world) stack(g guest) sniffer {
	w.t.Helper()
	return sniffer{farhost.Watch(w.t, w.host, wirePrefix+g.id)}
}

type sniffer struct{ *farhost.Capture }

// came returns what has come in since the last call, in hex.
func (s sniffer) came() (frames []string) {
	for _, f := range s.Came() {
		frames = append(frames, hex.EncodeToString(f))
	}
	return frames
}
