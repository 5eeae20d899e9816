// Package farhost gives a test a host at the other end of a wire: a network namespace with addresses of its own, in which every frame that
// arrives is seen, and whatever answers is started by the test. Everything in it needs root, and goes with the test.
package farhost

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Must ends the test where something of its surroundings failed.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Namespace makes a network namespace, without entering it.
func Namespace(t testing.TB) netns.NsHandle {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	Must(t, err)
	defer home.Close()
	ns, err := netns.New()
	Must(t, err)
	t.Cleanup(func() { ns.Close() })
	Must(t, netns.Set(home))
	return ns
}

// In runs f on a thread in a namespace; what it starts and opens stays there.
func In(t testing.TB, ns netns.NsHandle, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := netns.Get()
	Must(t, err)
	defer before.Close()
	Must(t, netns.Set(ns))
	defer func() { Must(t, netns.Set(before)) }()
	f()
}

// Connect lays a wire between two namespaces; its ends have the same name in both, and go with either. The test is skipped where the kernel has none.
func Connect(t testing.TB, near, far netns.NsHandle, name string) {
	t.Helper()
	In(t, near, func() {
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name, PeerNamespace: netlink.NsFd(far)})
		if errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip("this kernel has no veth: no wire to a far host")
		}
		Must(t, err)
	})
}

// Up gives an interface of a namespace its addresses, and sets it and the loopback up. None is looked for by others first.
func Up(t testing.TB, ns netns.NsHandle, name string, addresses ...string) {
	t.Helper()
	In(t, ns, func() {
		for _, one := range []string{"lo", name} {
			l, err := netlink.LinkByName(one)
			Must(t, err)
			Must(t, netlink.LinkSetUp(l))
		}
		l, err := netlink.LinkByName(name)
		Must(t, err)
		for _, text := range addresses {
			p := netip.MustParsePrefix(text)
			Must(t, netlink.AddrAdd(l, &netlink.Addr{
				IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Flags: unix.IFA_F_NODAD,
			}))
		}
	})
}

// Capture sees what comes in at one interface.
type Capture struct{ fd int }

// Watch opens a capture of all protocols at an interface of a namespace.
func Watch(t testing.TB, ns netns.NsHandle, name string) *Capture {
	t.Helper()
	c := &Capture{}
	In(t, ns, func() {
		l, err := netlink.LinkByName(name)
		Must(t, err)
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in the network's order
		c.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, all)
		Must(t, err)
		Must(t, unix.Bind(c.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}))
	})
	t.Cleanup(func() { unix.Close(c.fd) })
	return c
}

// Came returns the frames that have come in since the last call, with their Ethernet headers.
func (c *Capture) Came() (frames [][]byte) {
	b := make([]byte, 65536)
	for {
		n, from, err := unix.Recvfrom(c.fd, b, 0)
		if err != nil {
			return frames
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype != unix.PACKET_OUTGOING {
			frames = append(frames, append([]byte(nil), b[:n]...))
		}
	}
}
