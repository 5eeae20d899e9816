package netguard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/bpf"
)

// Numbers of include/uapi/linux/inet_diag.h and sock_diag.h.
const (
	sockDestroy     = 21 // SOCK_DESTROY, Linux 4.5
	diagBytecode    = 1  // INET_DIAG_REQ_BYTECODE
	diagCgroupCond  = 13 // INET_DIAG_BC_CGROUP_COND, Linux 5.9
	diagRequestSize = 56 // struct inet_diag_req_v2
	diagMessageSize = 72 // struct inet_diag_msg
	// Those of net/tcp_states.h with an other end.
	connectedStates = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11
)

// rejected says which remote ends of an agent's streams are to be reset; nil: none. g.mu is held.
func (g *Guard) rejected(cgroupID uint64) (func(netip.Addr) bool, error) {
	var prefixes []netip.Prefix
	var all bool
	named := map[netip.Addr]bool{}
	for _, c := range g.cuts[cgroupID] {
		switch {
		case !c.Reject:
		case c.Everything():
			all = true
		case c.Name == "":
			prefixes = append(prefixes, c.Address)
		default:
			var k bpf.NetguardNameKey
			var v bpf.NetguardNameGrant
			it := g.maps.Names.Iterate()
			for it.Next(&k, &v) {
				if k.Cgroup == cgroupID && c.covers(text(v.Name[:])) {
					named[addressOf(k.Addr, k.Family)] = true
				}
			}
			if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
				return nil, explain("network guard: reading the addresses of names", err)
			}
		}
	}
	if !all && len(prefixes) == 0 && len(named) == 0 {
		return nil, nil
	}
	return func(a netip.Addr) bool {
		return all || named[a] || slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	}, nil
}

// abort ends the streams of a cgroup to some remote ends, as the kernel's SOCK_DESTROY does: both ends see a reset. nil: none. A kernel
// that cannot do it (CONFIG_INET_DIAG_DESTROY) leaves them in silence.
func abort(cgroupID uint64, ends func(netip.Addr) bool) error {
	if ends == nil {
		return nil
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		streams, err := streamsOf(cgroupID, family)
		if err != nil {
			return fmt.Errorf("network guard: listing the streams of an agent: %w", err)
		}
		for _, m := range streams {
			if !ends(remoteOf(m)) {
				continue
			}
			r := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
			r.AddRawData(diagRequest(family, m[4:52])) // struct inet_diag_sockid of the answer
			_, err := r.Execute(unix.NETLINK_INET_DIAG, 0)
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
				return fmt.Errorf("network guard: ending a stream of an agent: %w", err)
			}
		}
	}
	return nil
}

// streamsOf lists the streams of one family whose sockets are in a cgroup, each a struct inet_diag_msg.
func streamsOf(cgroupID uint64, family uint8) ([][]byte, error) {
	code := make([]byte, 12) // struct inet_diag_bc_op, and the id; beyond its end: not this one
	code[0], code[1] = diagCgroupCond, 12
	binary.NativeEndian.PutUint16(code[2:], 16)
	binary.NativeEndian.PutUint64(code[4:], cgroupID)
	r := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	r.AddRawData(append(diagRequest(family, nil), nl.NewRtAttr(diagBytecode, code).Serialize()...))
	all, err := r.Execute(unix.NETLINK_INET_DIAG, 0)
	return slices.DeleteFunc(all, func(m []byte) bool { return len(m) < diagMessageSize }), err
}

func diagRequest(family uint8, id []byte) []byte {
	b := make([]byte, diagRequestSize)
	b[0], b[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], connectedStates)
	copy(b[8:], id)
	return b
}

// remoteOf reads the other end of a struct inet_diag_msg.
func remoteOf(m []byte) netip.Addr {
	to := m[4+4+16:] // behind the family, the ports and the source
	if m[0] == unix.AF_INET {
		return netip.AddrFrom4([4]byte(to[:4]))
	}
	return netip.AddrFrom16([16]byte(to[:16])).Unmap()
}
