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
	if err := g.lay(link.Attrs().Index, w); err != nil {
		return false, fmt.Errorf("xdp: a wire: %w", err)
	}
	native, err = attach(link, g.objects.RaypherWire, 0)
	if err != nil {
		return false, errors.Join(fmt.Errorf("xdp: %s: %w", link.Attrs().Name, err), g.Forget(link.Attrs().Index, w.CgroupID))
	}
	return native, nil
}

// lay writes a wire for every CPU. One that an earlier raypherd wrote stays as it is, with what was dropped there.
func (g *Guard) lay(index int, w Wire) error {
	var there []bpf.XdpguardLane
	err := g.objects.Wires.Lookup(uint32(index), &there)
	if err == nil && there[0].Wire == w.entry() {
		return nil
	}
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return err
	}
	lanes := make([]bpf.XdpguardLane, cpus)
	for i := range lanes {
		lanes[i].Wire = w.entry()
	}
	return g.objects.Wires.Put(uint32(index), lanes)
}

func (w Wire) entry() bpf.XdpguardWire {
	entry := bpf.XdpguardWire{
		Cgroup: w.CgroupID, Agent4: word4(w.Agent4), Host4: word4(w.Host4), Agent6: words6(w.Agent6), Host6: words6(w.Host6),
	}
	copy(entry.AgentMac[:], w.AgentMAC)
	copy(entry.HostMac[:], w.HostMAC)
	return entry
}

// Forget removes the state of a wire that is gone, by the index of its host end. What was dropped there stays in the total.
func (g *Guard) Forget(index int, cgroupID uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	err := g.retire(uint32(index))
	if e := g.objects.Drops.Delete(cgroupID); !errors.Is(e, ebpf.ErrKeyNotExist) {
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("xdp: forgetting a wire: %w", err)
	}
	return nil
}

// retire adds what was dropped at a wire to the total of those that are gone. g.mu is held.
func (g *Guard) retire(index uint32) error {
	var lanes []bpf.XdpguardLane
	if err := g.objects.Wires.Lookup(index, &lanes); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		return err
	}
	gone := make([]bpf.XdpguardDropped, len(lanes))
	if err := g.objects.Drops.Lookup(uint64(wireTotal), &gone); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	for i, lane := range lanes {
		gone[i].Packets += lane.Dropped.Packets
		gone[i].Bytes += lane.Dropped.Bytes
	}
	if err := g.objects.Drops.Put(uint64(wireTotal), gone); err != nil {
		return err
	}
	return g.objects.Wires.Delete(index)
}

// atWires adds up what was dropped at the wires that are there, of one agent; 0: of all.
func (g *Guard) atWires(cgroupID uint64) (Dropped, error) {
	var all Dropped
	var index uint32
	var lanes []bpf.XdpguardLane
	it := g.objects.Wires.Iterate()
	for it.Next(&index, &lanes) {
		for _, lane := range lanes {
			if cgroupID == 0 || lane.Wire.Cgroup == cgroupID {
				all.Packets += lane.Dropped.Packets
				all.Bytes += lane.Dropped.Bytes
			}
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return Dropped{}, fmt.Errorf("xdp: reading counters: %w", err)
	}
	return all, nil
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
