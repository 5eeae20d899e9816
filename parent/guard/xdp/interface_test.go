package xdpguard

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/test/farhost"
)

var (
	must         = farhost.Must
	newNamespace = farhost.Namespace
	within       = farhost.In
)

// TestMain makes this program the agent's too: it opens a datagram socket on every address, says its port, and then what comes.
func TestMain(m *testing.M) {
	if os.Getenv("XDPGUARD_TEST_AGENT") == "" {
		os.Exit(m.Run())
	}
	u, err := net.ListenUDP("udp4", nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(u.LocalAddr().(*net.UDPAddr).Port)
	b := make([]byte, 100)
	for {
		n, _, err := u.ReadFromUDP(b)
		if err != nil {
			os.Exit(1)
		}
		fmt.Println(string(b[:n]))
	}
}

var (
	near, granted, stranger = netip.MustParseAddr("10.78.0.1"), netip.MustParseAddr("10.78.0.2"), netip.MustParseAddr("10.78.0.3")
	blocks                  = Options{Block4: netip.MustParsePrefix("198.18.0.0/16"), Block6: netip.MustParsePrefix("fd5e:a16b:9c02:7a70::/64")}
)

// host is a namespace whose interface "up" leads to another one, with the network guard and one agent in it.
type host struct {
	ns, far netns.NsHandle
	guard   *netguard.Guard
	pins    string
	cgroup  uint64
	port    uint16
	said    *bufio.Scanner
}

func newHost(t testing.TB) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("makes network namespaces and loads BPF programs: needs root")
	}
	h := &host{ns: newNamespace(t), far: newNamespace(t)}
	farhost.Connect(t, h.ns, h.far, "up")
	farhost.Up(t, h.ns, "up", near.String()+"/24")
	farhost.Up(t, h.far, "up", granted.String()+"/24", stranger.String()+"/24")
	m, err := cgroup.FindMounts()
	if err != nil {
		t.Skip(err)
	}
	var b [6]byte
	rand.Read(b[:])
	parent := filepath.Join(m.Unified, "raypher-xdp-test-"+hex.EncodeToString(b[:]))
	dir := filepath.Join(parent, "agent")
	must(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { os.Remove(parent) })
	bpffs := t.TempDir()
	must(t, unix.Mount("bpf", bpffs, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(bpffs, 0)) })
	h.pins = filepath.Join(bpffs, "guard")
	within(t, h.ns, func() {
		h.guard, err = netguard.Load(netguard.Options{CgroupPath: parent, PinDir: h.pins})
		must(t, err)
	})
	t.Cleanup(func() { h.guard.Unpin(); h.guard.Close() })
	var st unix.Stat_t
	must(t, unix.Stat(dir, &st))
	h.cgroup = st.Ino
	h.arm(t, policy.Enforce)
	h.start(t, dir)
	return h
}

func (h *host) arm(t testing.TB, mode policy.Mode) {
	t.Helper()
	n := &policy.Network{Egress: []string{granted.String()}}
	must(t, h.guard.Arm(netguard.Agent{CgroupID: h.cgroup, Network: n, Mode: mode, Deadline: 1 << 62}))
}

// start starts the agent.
func (h *host) start(t testing.TB, dir string) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(fd)
	c := exec.Command("/proc/self/exe")
	c.Env = []string{"XDPGUARD_TEST_AGENT=1"}
	c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	out, err := c.StdoutPipe()
	must(t, err)
	within(t, h.ns, func() { must(t, c.Start()) })
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
		for range 100 {
			if os.Remove(dir) == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	h.said = bufio.NewScanner(out)
	if !h.said.Scan() {
		t.Fatal("the agent says no port")
	}
	_, err = fmt.Sscan(h.said.Text(), &h.port)
	must(t, err)
}

func (h *host) load(t testing.TB) *Guard {
	t.Helper()
	o := blocks
	o.PinDir = filepath.Join(h.pins, "xdp")
	var g *Guard
	within(t, h.ns, func() {
		var err error
		g, err = Load(h.guard, o)
		must(t, err)
	})
	t.Cleanup(func() { g.Close() })
	return g
}

// send sends a datagram from the far end.
func (h *host) send(t testing.TB, from netip.Addr, port uint16, words string) {
	t.Helper()
	within(t, h.far, func() {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(near, port)))
		must(t, err)
		defer c.Close()
		_, err = c.Write([]byte(words))
		must(t, err)
	})
}

func (h *host) attached(t testing.TB) (at *netlink.LinkXdp) {
	t.Helper()
	within(t, h.ns, func() {
		l, err := netlink.LinkByName("up")
		must(t, err)
		at = l.Attrs().Xdp
	})
	return at
}

// TestInterface: what comes in for an agent's socket from whom it may not speak to is dropped at the interface and counted; what it
// asked for, and whatever is for somebody else on the host, comes through.
func TestInterface(t *testing.T) {
	h := newHost(t)
	g := h.load(t)
	var own *net.UDPConn
	var services net.Listener
	within(t, h.ns, func() {
		native, err := g.Guard("up")
		must(t, err)
		if !native {
			t.Error("generic on a veth, whose driver has XDP")
		}
		own, err = net.ListenUDP("udp4", nil)
		must(t, err)
		services, err = net.Listen("tcp4", ":0")
		must(t, err)
	})
	defer own.Close()
	defer services.Close()
	if at := h.attached(t); at == nil || !at.Attached {
		t.Error("`ip link` shows no program")
	}
	dropped := func() uint64 {
		_, d, err := g.Total()
		must(t, err)
		return d.Packets
	}
	for i, from := range []netip.Addr{stranger, granted, stranger} {
		h.send(t, from, h.port, fmt.Sprintf("%v %d", from, i))
	}
	h.said.Scan() // in order, so the first stranger's would be here
	if h.said.Text() != granted.String()+" 1" {
		t.Errorf("the agent heard %q", h.said.Text())
	}
	for end := time.Now().Add(5 * time.Second); dropped() < 2 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if n := dropped(); n != 2 {
		t.Errorf("%d packets counted", n)
	}
	c, err := h.guard.Counters(h.cgroup)
	must(t, err)
	if c.Incoming != 0 {
		t.Errorf("%d of them came as far as the socket", c.Incoming)
	}
	h.send(t, stranger, uint16(own.LocalAddr().(*net.UDPAddr).Port), "for the host")
	b := make([]byte, 100)
	own.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, _, err := own.ReadFrom(b); err != nil || string(b[:n]) != "for the host" {
		t.Errorf("a service of the host: %q, %v", b[:n], err)
	}
	within(t, h.far, func() {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(near, uint16(services.Addr().(*net.TCPAddr).Port)).String(), 5*time.Second)
		must(t, err)
		c.Close()
		if _, err := net.DialTimeout("tcp", netip.AddrPortFrom(near, 1).String(), 5*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("a port that nobody has: %v", err) // the host answers for itself
		}
	})
	h.arm(t, policy.Audit)
	h.send(t, stranger, h.port, "watched only")
	if h.said.Scan(); h.said.Text() != "watched only" {
		t.Errorf("mode audit: %q", h.said.Text())
	}
}

// TestInterfaceIsTakenOver: another's program stays; our own stays when raypherd is killed, and the next one takes its place or takes
// it away.
func TestInterfaceIsTakenOver(t *testing.T) {
	h := newHost(t)
	first := h.load(t)
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
	must(t, err)
	defer other.Close()
	within(t, h.ns, func() {
		l, err := netlink.LinkByName("up")
		must(t, err)
		must(t, netlink.LinkSetXdpFd(l, other.FD()))
		if _, err := first.Guard("up"); !errors.Is(err, ErrTaken) || !strings.Contains(err.Error(), "xdp off") {
			t.Errorf("where another program sits: %v", err)
		}
		must(t, first.Release("up"))
	})
	if at := h.attached(t); at == nil || !at.Attached {
		t.Fatal("another's program was taken away")
	}
	within(t, h.ns, func() {
		l, err := netlink.LinkByName("up")
		must(t, err)
		must(t, netlink.LinkSetXdpFd(l, -1))
		_, err = first.Guard("up")
		must(t, err)
	})
	was := h.attached(t).ProgId
	must(t, first.Close()) // as a kill does
	if at := h.attached(t); !at.Attached {
		t.Fatal("the program went with raypherd")
	}
	second := h.load(t)
	within(t, h.ns, func() {
		if got := second.Guarded(); len(got) != 1 || got[0] != "up" {
			t.Errorf("guarded: %v", got)
		}
		_, err := second.Guard("up")
		must(t, err)
	})
	if at := h.attached(t); !at.Attached || at.ProgId == was {
		t.Errorf("not taken over: %+v", at)
	}
	within(t, h.ns, func() { must(t, second.Release("up")) })
	if at := h.attached(t); at != nil && at.Attached {
		t.Error("not taken away")
	}
	if got := second.Guarded(); len(got) != 0 {
		t.Errorf("guarded after the release: %v", got)
	}
}
