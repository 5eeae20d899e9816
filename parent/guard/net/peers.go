package netguard

import (
	"net/netip"
	"time"

	"github.com/raypher/raypher/bpf"
)

// peerClosed is how long after a socket was closed its last message still counts as the agent's: enough for what lies in a
// queue of raypherd, short against the reuse of a port by somebody else.
const peerClosed = 2 * time.Second

// Peer says which agent sent from remote to raypherd's own port at local. proto is 6 or 17. False: no agent did, or it
// cannot be told, which a caller must treat alike.
func (g *Guard) Peer(proto uint8, local, remote netip.AddrPort) (cgroupID uint64, ok bool) {
	if !local.Addr().Unmap().IsLoopback() {
		return 0, false
	}
	words, family := addressWords(remote.Addr())
	key := bpf.NetguardPeerKey{Netns: g.netns, Addr: words, Port: networkOrder(remote.Port()), Proto: proto, Family: family}
	var p bpf.NetguardPeer
	if err := g.maps.Peers.Lookup(key, &p); err != nil {
		return 0, false
	}
	if p.Closed != 0 && bootTime()-int64(p.Closed) > peerClosed.Nanoseconds() {
		return 0, false
	}
	if _, err := g.entry(p.Cgroup); err != nil {
		return 0, false
	}
	return p.Cgroup, true
}
