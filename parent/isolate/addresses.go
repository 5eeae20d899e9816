package isolate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"golang.org/x/sys/unix"
)

// blocks are the networks that wires may lie in, the first that no route of the host overlaps: those of benchmarks (RFC 2544), which
// nobody routes, then the end of what providers share with their customers (RFC 6598), then of private ones (RFC 1918).
var blocks = []netip.Prefix{
	netip.MustParsePrefix("198.18.0.0/16"), netip.MustParsePrefix("198.19.0.0/16"),
	netip.MustParsePrefix("100.127.0.0/16"), netip.MustParsePrefix("10.254.0.0/16"), netip.MustParsePrefix("172.31.0.0/16"),
}

// block6 is a network of unique local addresses (RFC 4193), its global identifier made by chance once. Each wire has a /126 in it.
var block6 = netip.MustParsePrefix("fd5e:a16b:9c02:7a70::/64")

// slots is how many wires fit into a block: a /30 each.
const slots = 1 << 14

// pair is the addresses of one wire.
type pair struct{ agent, host netip.Addr }

// pairIn is the wire's addresses within a block, by the index of its host end: the kernel gives each interface of a namespace an index
// of its own, so no two raypherds take the same.
func pairIn(block netip.Prefix, index int) pair {
	b := block.Addr().AsSlice()
	low := b[len(b)-4:]
	offset := uint32(index%slots) * 4
	at := func(n uint32) netip.Addr {
		binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(block.Addr().AsSlice()[len(b)-4:])+offset+n)
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	return pair{host: at(1), agent: at(2)}
}

func prefix(a netip.Addr) *net.IPNet {
	bits := 30
	if a.Is6() {
		bits = 126
	}
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}

// Blocks are where the wires of this host lie, or will.
func (w *Wires) Blocks() (block4, block6Own netip.Prefix, err error) {
	h, err := openHost(w.Folder)
	if err != nil {
		return netip.Prefix{}, netip.Prefix{}, err
	}
	defer h.close()
	if h.state != nil {
		return h.state.Block, block6, nil
	}
	block4, err = chooseBlock()
	return block4, block6, err
}

// chooseBlock finds a block that nothing on this host leads to, but wires.
func chooseBlock() (netip.Prefix, error) {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return netip.Prefix{}, fmt.Errorf("routes of this host: %w", err)
	}
	own, err := wires()
	if err != nil {
		return netip.Prefix{}, err
	}
	taken := func(block netip.Prefix) bool {
		for _, r := range routes {
			if r.Dst == nil || own[r.LinkIndex] != "" {
				continue
			}
			addr, ok := netip.AddrFromSlice(r.Dst.IP)
			ones, _ := r.Dst.Mask.Size()
			if ok && ones > 0 && netip.PrefixFrom(addr.Unmap(), ones).Overlaps(block) {
				return true
			}
		}
		return false
	}
	for _, block := range blocks {
		if !taken(block) {
			return block, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("each of %v overlaps a route of this host: free one of them for the wires of isolated agents", blocks)
}
