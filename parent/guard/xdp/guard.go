package xdpguard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/parent/guard/net"
)

// Options say where the state is kept and which addresses are those of wires.
type Options struct {
	// PinDir is a folder in a bpffs, whose parent exists. Empty: nothing is pinned.
	PinDir string
	// Block4 and Block6 (a /64) hold the addresses of all wires of this host, which are nobody's destination.
	Block4, Block6 netip.Prefix
}

// Guard is the loaded programs.
type Guard struct {
	options Options
	objects bpf.XdpguardObjects
	mu      sync.Mutex // serialises what adds a wire that is gone to the total
}

// Load loads the programs on the maps of the network guard.
func Load(g *netguard.Guard, o Options) (*Guard, error) {
	spec, err := bpf.LoadXdpguard()
	if err != nil {
		return nil, fmt.Errorf("xdp: reading the built-in programs: %w", err)
	}
	shared, err := g.Share(spec)
	if err != nil {
		return nil, err
	}
	block4, mask := o.Block4.Addr().As4(), net.CIDRMask(o.Block4.Bits(), 32)
	block6 := o.Block6.Addr().As16()
	for name, value := range map[string]any{
		bpf.XdpguardVarBlock4:     binary.NativeEndian.Uint32(block4[:]),
		bpf.XdpguardVarBlock4Mask: binary.NativeEndian.Uint32(mask),
		bpf.XdpguardVarBlock6:     [2]uint32{binary.NativeEndian.Uint32(block6[:]), binary.NativeEndian.Uint32(block6[4:])},
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("xdp: setting %s: %w", name, err)
		}
	}
	options := ebpf.CollectionOptions{MapReplacements: shared}
	if o.PinDir != "" && g.Pinned() {
		if err := os.Mkdir(o.PinDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return nil, fmt.Errorf("xdp: folder for pins: %w", err)
		}
		options.Maps.PinPath = o.PinDir
		for name, m := range spec.Maps {
			if shared[name] == nil && !strings.HasPrefix(name, ".") {
				m.Pinning = ebpf.PinByName
			}
		}
	}
	own := &Guard{options: o}
	if err := spec.LoadAndAssign(&own.objects, &options); err != nil {
		return nil, fmt.Errorf("xdp: loading: %w", err)
	}
	return own, nil
}

// Close lets go of the programs; those that are attached stay in force.
func (g *Guard) Close() error { return g.objects.Close() }

// Dropped is what an interface's program dropped.
type Dropped struct {
	Packets uint64
	Bytes   uint64 // with Ethernet headers
}

// Of is what was dropped of one agent: frames that it sent over its wire, and packets that came in for it at an interface.
func (g *Guard) Of(cgroupID uint64) (Dropped, error) {
	wire, err := g.atWires(cgroupID)
	if err != nil {
		return wire, err
	}
	at, err := g.dropped(cgroupID)
	return Dropped{wire.Packets + at.Packets, wire.Bytes + at.Bytes}, err
}

// Total is what was dropped of all agents, also of those that are gone: at wires and at interfaces.
func (g *Guard) Total() (wires, interfaces Dropped, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gone, err := g.dropped(wireTotal)
	if err != nil {
		return wires, interfaces, err
	}
	if wires, err = g.atWires(0); err != nil {
		return wires, interfaces, err
	}
	wires.Packets, wires.Bytes = wires.Packets+gone.Packets, wires.Bytes+gone.Bytes
	interfaces, err = g.dropped(guardTotal)
	return wires, interfaces, err
}

// The keys of totals (WIRE_TOTAL, GUARD_TOTAL).
const (
	wireTotal  = 1
	guardTotal = 2
)

func (g *Guard) dropped(key uint64) (Dropped, error) {
	var each []bpf.XdpguardDropped
	err := g.objects.Drops.Lookup(key, &each)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Dropped{}, nil
	}
	if err != nil {
		return Dropped{}, fmt.Errorf("xdp: reading counters: %w", err)
	}
	var all Dropped
	for _, one := range each {
		all.Packets += one.Packets
		all.Bytes += one.Bytes
	}
	return all, nil
}
