package xdpguard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrTaken says that another XDP program sits at an interface, which has room for one.
var ErrTaken = errors.New("another XDP program sits there")

// attach puts a program at an interface: in the driver where it can run one, else behind it. Without XDP_FLAGS_UPDATE_IF_NOEXIST it
// takes the place of whatever is there.
func attach(link netlink.Link, p *ebpf.Program, flags int) (native bool, err error) {
	err = netlink.LinkSetXdpFdWithFlags(link, p.FD(), flags|nl.XDP_FLAGS_DRV_MODE)
	if err == nil {
		return true, nil
	}
	if errors.Is(err, unix.EBUSY) {
		return false, ErrTaken
	}
	// A driver without XDP says EOPNOTSUPP; one that has it may refuse this interface as it is (EINVAL: its MTU, its queues).
	if generic := netlink.LinkSetXdpFdWithFlags(link, p.FD(), flags|nl.XDP_FLAGS_SKB_MODE); generic != nil {
		if errors.Is(generic, unix.EBUSY) {
			return false, ErrTaken
		}
		return false, errors.Join(err, generic)
	}
	return false, nil
}

// pinOf is where the program of an interface is pinned: by it the next raypherd knows what it finds there for ours.
func (g *Guard) pinOf(name string) string { return filepath.Join(g.options.PinDir, "at_"+name) }

// Guard puts the program for incoming packets at an interface of the host, or in the place of that which an earlier raypherd of this
// instance left. It refuses where another program sits (ErrTaken). Release takes it away.
func (g *Guard) Guard(name string) (native bool, err error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return false, fmt.Errorf("xdp: interface %s: %w: `ip link` names those of this host", name, err)
	}
	flags := nl.XDP_FLAGS_UPDATE_IF_NOEXIST
	if at := link.Attrs().Xdp; at != nil && at.Attached {
		if !g.ours(name, at.ProgId) {
			return false, fmt.Errorf("xdp: interface %s: %w (program %d): `ip link set dev %s xdp off` removes it", name, ErrTaken, at.ProgId, name)
		}
		flags = 0
	}
	if native, err = attach(link, g.objects.RaypherGuard, flags); err != nil {
		return false, fmt.Errorf("xdp: interface %s: %w", name, err)
	}
	if g.options.PinDir == "" {
		return native, nil
	}
	pin := g.pinOf(name)
	if err := os.Remove(pin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return native, fmt.Errorf("xdp: interface %s: %w", name, err)
	}
	if err := g.objects.RaypherGuard.Pin(pin); err != nil {
		return native, fmt.Errorf("xdp: interface %s: pinning its program: %w", name, err)
	}
	return native, nil
}

// ours says whether a program is the one that this instance pinned for an interface.
func (g *Guard) ours(name string, id uint32) bool {
	if g.options.PinDir == "" {
		return false
	}
	p, err := ebpf.LoadPinnedProgram(g.pinOf(name), nil)
	if err != nil {
		return false
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return false
	}
	own, ok := info.ID()
	return ok && uint32(own) == id
}

// Release takes the program of this instance from an interface, and leaves any other where it is.
func (g *Guard) Release(name string) error {
	defer os.Remove(g.pinOf(name))
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil // and its program is gone with it
	}
	at := link.Attrs().Xdp
	if at == nil || !at.Attached {
		return nil
	}
	info, err := g.objects.RaypherGuard.Info()
	if err != nil {
		return fmt.Errorf("xdp: interface %s: %w", name, err)
	}
	if own, ok := info.ID(); (!ok || uint32(own) != at.ProgId) && !g.ours(name, at.ProgId) {
		return nil
	}
	if err := netlink.LinkSetXdpFdWithFlags(link, -1, 0); err != nil {
		return fmt.Errorf("xdp: interface %s: detaching: %w", name, err)
	}
	return nil
}

// Guarded lists the interfaces at which this instance pinned a program, also those of an earlier raypherd.
func (g *Guard) Guarded() []string {
	found, _ := filepath.Glob(g.pinOf("*"))
	for i := range found {
		found[i] = filepath.Base(found[i])[len("at_"):]
	}
	return found
}
