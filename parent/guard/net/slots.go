package netguard

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/raypher/raypher/bpf"
)

// slots are the tries of rules, one for each agent, in an array of maps. Putting a map there waits until no program runs on
// the old one (synchronize_rcu, some 8 ms), which is why a few empty tries always lie ready, and why a used one is replaced
// rather than emptied: no packet ever sees rules of two agents.
//
// Not safe for concurrent use; Guard.mu guards it.
type slots struct {
	array  *ebpf.Map
	trie   *ebpf.MapSpec
	ready  []slot
	unused []uint32 // what lies there is old, or nothing
}

type slot struct {
	index uint32
	rules *ebpf.Map
}

const (
	slotsReady = 16 // made at a time
	slotsLow   = 8  // below that, more are made in the background
)

func newSlots(array *ebpf.Map, trie *ebpf.MapSpec, agents *ebpf.Map) (*slots, error) {
	s := &slots{array: array, trie: trie}
	used := map[uint32]bool{0: true} // 0 in an agent's entry says that it has no rules
	var id uint64
	var a bpf.NetguardAgentEntry
	for it := agents.Iterate(); it.Next(&id, &a); {
		used[a.Agent.Slot] = true
	}
	for i := array.MaxEntries(); i > 0; i-- {
		if !used[i-1] {
			s.unused = append(s.unused, i-1)
		}
	}
	return s, s.refill()
}

// refill lays out empty tries, all in one wait.
func (s *slots) refill() error {
	var indexes, fds []uint32
	var fresh []slot
	for len(fresh) < slotsReady && len(s.unused) > 0 {
		m, err := ebpf.NewMap(s.trie)
		if err != nil {
			return explain("network guard: making a map of rules", err)
		}
		index := s.unused[len(s.unused)-1]
		s.unused = s.unused[:len(s.unused)-1]
		fresh = append(fresh, slot{index, m})
		indexes, fds = append(indexes, index), append(fds, uint32(m.FD()))
	}
	if len(fresh) == 0 {
		return nil
	}
	if _, err := s.array.BatchUpdate(indexes, fds, nil); err != nil {
		for _, f := range fresh {
			f.rules.Close()
			s.unused = append(s.unused, f.index)
		}
		return explain("network guard: laying out maps of rules", err)
	}
	s.ready = append(s.ready, fresh...)
	return nil
}

func (s *slots) take() (slot, error) {
	if len(s.ready) == 0 {
		if err := s.refill(); err != nil {
			return slot{}, err
		}
	}
	if len(s.ready) == 0 {
		return slot{}, fmt.Errorf("network guard: %w: %d agents", ErrFull, s.array.MaxEntries())
	}
	got := s.ready[len(s.ready)-1]
	s.ready = s.ready[:len(s.ready)-1]
	return got, nil
}

// release gives a slot back; its trie stays where it is until another takes its place.
func (s *slots) release(index uint32) {
	if index != 0 {
		s.unused = append([]uint32{index}, s.unused...)
	}
}

func (s *slots) close() error {
	var all []error
	for _, r := range s.ready {
		all = append(all, r.rules.Close())
	}
	s.ready = nil
	return errors.Join(all...)
}
