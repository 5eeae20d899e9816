package isolate

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the one table of nftables, of family inet, which holds everything that is Raypher's there.
const tableName = "raypher"

func table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamilyINet}
}

// end is an address of a packet.
type end struct{ offset4, offset6 uint32 }

// Offsets in the headers of RFC 791 and RFC 8200.
var (
	source      = end{12, 8}
	destination = end{16, 24}
)

// in matches packets whose end lies in a block.
func in(block netip.Prefix, e end) []expr.Any {
	family, offset := byte(unix.NFPROTO_IPV4), e.offset4
	if block.Addr().Is6() {
		family, offset = unix.NFPROTO_IPV6, e.offset6
	}
	address := block.Addr().AsSlice()
	size := uint32(len(address))
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: net.CIDRMask(block.Bits(), 8*int(size)), Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: address},
	}
}

// answered matches packets of flows that the other end answers.
func answered() []expr.Any {
	known := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: known, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// What one agent can take of the host's connection tracking, which has room for 65,536 flows on small hosts, over each address family.
const (
	maxFlows   = 4096 // at once; closed ones do not count (net/netfilter/nf_conncount.c)
	newFlows   = 500  // a second: the kernel looks through all of an agent's flows to count them for a new one
	burstFlows = 2048 // at once
)

// crowded matches, of a block's packets, those that begin a flow whose sender has more than its share by one measure, which is kept for each
// sender in a set.
func crowded(c *nftables.Conn, t *nftables.Table, block netip.Prefix, name string, measure expr.Any) ([]expr.Any, error) {
	set := &nftables.Set{Table: t, Name: name + "4", KeyType: nftables.TypeIPAddr, Dynamic: true, Size: 65536}
	offset := source.offset4
	if block.Addr().Is6() {
		set.Name, set.KeyType, offset = name+"6", nftables.TypeIP6Addr, source.offset6
	}
	if err := c.AddSet(set, nil); err != nil {
		return nil, fmt.Errorf("nftables: set %s: %w", set.Name, err)
	}
	return append(in(block, source),
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: set.KeyType.Bytes},
		&expr.Dynset{SrcRegKey: 1, SetID: set.ID, SetName: set.Name, Operation: unix.NFT_DYNSET_OP_ADD, Exprs: []expr.Any{measure}},
	), nil
}

// measures are those of a share, by the name of their sets.
var measures = []struct {
	name string
	over expr.Any
}{
	{"new", &expr.Limit{Type: expr.LimitTypePkts, Rate: newFlows, Unit: expr.LimitTimeSecond, Burst: burstFlows, Over: true}},
	{"flows", &expr.Connlimit{Count: maxFlows, Flags: expr.NFT_CONNLIMIT_F_INV}},
}

func verdict(kind expr.VerdictKind) expr.Any { return &expr.Verdict{Kind: kind} }

// putTable makes the table, in the place of one that is there: agents reach neither one another nor are they reached from outside,
// and what they send leaves with the host's address. Where this host did not forward before (routed false), nothing between the
// interfaces that it has now is forwarded either. Where the kernel counts no connections (CONFIG_NFT_CONNLIMIT) they are not bounded, and bounded
// is false.
func putTable(block netip.Prefix, routed bool) (bounded bool, err error) {
	if err := tryTable(block, routed, true); err == nil {
		return true, nil
	}
	return false, tryTable(block, routed, false)
}

func tryTable(block netip.Prefix, routed, bounded bool) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	t := table()
	c.AddTable(t)
	c.DelTable(t) // an old one; together with what follows, or not at all
	c.AddTable(t)
	accept := nftables.ChainPolicyAccept
	forward := c.AddChain(&nftables.Chain{
		Name: "forward", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
		Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	leave := c.AddChain(&nftables.Chain{
		Name: "leave", Table: t, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting,
		Priority: nftables.ChainPriorityNATSource, Policy: &accept,
	})
	rule := func(chain *nftables.Chain, parts ...[]expr.Any) {
		r := &nftables.Rule{Table: t, Chain: chain}
		for _, p := range parts {
			r.Exprs = append(r.Exprs, p...)
		}
		c.AddRule(r)
	}
	drop, pass := []expr.Any{verdict(expr.VerdictDrop)}, []expr.Any{verdict(expr.VerdictAccept)}
	for _, b := range []netip.Prefix{block, block6} {
		rule(forward, in(b, source), in(b, destination), drop)
		rule(forward, in(b, destination), answered(), pass)
		rule(forward, in(b, destination), drop)
		for _, m := range measures {
			if !bounded {
				break
			}
			full, err := crowded(c, t, b, m.name, m.over)
			if err != nil {
				return err
			}
			rule(forward, full, drop)
		}
		rule(forward, in(b, source), pass)
		rule(leave, in(b, source), []expr.Any{&expr.Masq{}})
	}
	if !routed {
		if err := keepApart(c, t, forward); err != nil {
			return err
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: table inet %s: %w: isolated agents need the kernel's nf_tables with NAT", tableName, err)
	}
	return nil
}

// keepApart drops what would be forwarded between the interfaces that this host has now: it did not do so before. Interfaces that come
// later, as those of containers, are for whoever makes them.
func keepApart(c *nftables.Conn, t *nftables.Table, forward *nftables.Chain) error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	set := &nftables.Set{Table: t, Name: "apart", KeyType: nftables.TypeIFName}
	var elements []nftables.SetElement
	for _, i := range interfaces {
		name := make([]byte, unix.IFNAMSIZ)
		copy(name, i.Name)
		elements = append(elements, nftables.SetElement{Key: name})
	}
	if err := c.AddSet(set, elements); err != nil {
		return fmt.Errorf("nftables: interfaces: %w", err)
	}
	c.AddRule(&nftables.Rule{Table: t, Chain: forward, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
		verdict(expr.VerdictDrop),
	}})
	return nil
}

// dropTable removes the table, if there is one.
func dropTable() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	c.DelTable(table())
	if err := c.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("nftables: table inet %s: %w", tableName, err)
	}
	return nil
}
