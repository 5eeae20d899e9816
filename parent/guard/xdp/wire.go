package xdpguard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/raypher/raypher/bpf"
)

// Wire is the wire of one isolated agent.
type Wire struct {
	CgroupID          uint64
	Agent4, Host4     netip.Addr
	Agent6, Host6     netip.Addr // not valid: this host has no IPv6
	AgentMAC, HostMAC net.HardwareAddr
}

// Attach puts the program at the host end of a wire, or in the place of an earlier raypherd's. From then on nothing but what the
// agent may send comes in there. native says whether the driver runs it; else the kernel does, after it has made a socket
// buffer of the frame.
func (g *Guard) Attach(link netlink.Link, w Wire) (native bool, err error) {
	if err := g.objects.Wires.Put(uint32(link.Attrs().Index), w.entry()); err != nil {
		return false, fmt.Errorf("xdp: a wire: %w", err)
	}
	native, err = attach(link, g.objects.RaypherWire, 0)
	if err != nil {
		return false, errors.Join(fmt.Errorf("xdp: %s: %w", link.Attrs().Name, err), g.Forget(link.Attrs().Index, w.CgroupID))
	}
	return native, nil
}

func (w Wire) entry() bpf.XdpguardWire {
	entry := bpf.XdpguardWire{
		Cgroup: w.CgroupID, Agent4: word4(w.Agent4), Host4: word4(w.Host4), Agent6: words6(w.Agent6), Host6: words6(w.Host6),
	}
	copy(entry.AgentMac[:], w.AgentMAC)
	copy(entry.HostMac[:], w.HostMAC)
	return entry
}

// Forget removes the state of a wire that is gone, by the index of its host end.
func (g *Guard) Forget(index int, cgroupID uint64) error {
	err := g.objects.Wires.Delete(uint32(index))
	if e := g.objects.Drops.Delete(cgroupID); !errors.Is(e, ebpf.ErrKeyNotExist) {
		err = errors.Join(err, e)
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("xdp: forgetting a wire: %w", err)
	}
	return nil
}

func word4(a netip.Addr) uint32 {
	if !a.IsValid() {
		return 0
	}
	b := a.As4()
	return binary.NativeEndian.Uint32(b[:])
}

func words6(a netip.Addr) (w [4]uint32) {
	if a.IsValid() {
		b := a.As16()
		for i := range w {
			w[i] = binary.NativeEndian.Uint32(b[4*i:])
		}
	}
	return w
}
