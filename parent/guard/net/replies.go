package netguard

import (
	"errors"

	"github.com/cilium/ebpf"

	"github.com/raypher/raypher/policy"
)

// keepReplies gives a slot room for the datagrams that its agent may answer: that of the slot before, so that what came in is answered under
// new rules too, or new room. Agents that may not listen have none. g.mu is held.
func (g *Guard) keepReplies(before, slot uint32, n *policy.Network) error {
	const what = "network guard: room for answers"
	if n == nil || len(n.ListenEndpoints())+len(n.IngressEndpoints()) == 0 {
		return nil
	}
	var room *ebpf.Map
	err := g.maps.Replies.Lookup(before, &room)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		room, err = ebpf.NewMap(g.reply)
	}
	if err != nil {
		return explain(what, err)
	}
	defer room.Close()
	return explain(what, g.maps.Replies.Put(slot, uint32(room.FD())))
}

// dropReplies takes the room from a slot. Where that fails it is taken with the next agent that listens there: nobody answers by it
// who may not listen. g.mu is held.
func (g *Guard) dropReplies(slot uint32) {
	var room *ebpf.Map
	if slot == 0 || g.maps.Replies.Lookup(slot, &room) != nil {
		return
	}
	room.Close()
	_ = g.maps.Replies.Delete(slot)
}
