package lsm

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/policy"
)

// tables are the compiled rules of agents, each in a map of its own. A used one is replaced and never written again, so that no
// path is judged by parts of two. Not safe for concurrent use; Guard.mu guards it.
type tables struct {
	array  *ebpf.Map
	spec   *ebpf.MapSpec
	unused []uint32
}

// newTables finds the places that no agent uses. 0 stands for no table.
func newTables(array *ebpf.Map, spec *ebpf.MapSpec, agents *ebpf.Map) (*tables, error) {
	used := map[uint32]bool{0: true}
	var id uint64
	var a bpf.LsmguardAgent
	it := agents.Iterate()
	for it.Next(&id, &a) {
		used[a.Files], used[a.Sockets] = true, true
	}
	if err := it.Err(); err != nil {
		return nil, explain("file guard: reading the agents", err)
	}
	t := &tables{array: array, spec: spec}
	for i := array.MaxEntries(); i > 0; i-- {
		if !used[i-1] {
			t.unused = append(t.unused, i-1)
		}
	}
	return t, nil
}

// put lays out a table and returns its place. No table is place 0.
func (t *tables) put(table *policy.Table) (uint32, error) {
	if table == nil {
		return 0, nil
	}
	if len(t.unused) == 0 {
		return 0, fmt.Errorf("file guard: tables of rules: %w", ErrFull)
	}
	spec := t.spec.Copy()
	spec.MaxEntries = uint32(len(table.Cells))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return 0, explain("file guard: making a table of rules", err)
	}
	defer m.Close()
	keys := make([]uint32, len(table.Cells))
	for i := range keys {
		keys[i] = uint32(i)
	}
	if _, err := m.BatchUpdate(keys, table.Cells, nil); err != nil {
		return 0, explain("file guard: writing a table of rules", err)
	}
	place := t.unused[len(t.unused)-1]
	if err := t.array.Put(place, m); err != nil {
		return 0, explain("file guard: laying out a table of rules", err)
	}
	t.unused = t.unused[:len(t.unused)-1]
	return place, nil
}

// release gives a place back, and its memory.
func (t *tables) release(place uint32) {
	if place == 0 {
		return
	}
	_ = t.array.Delete(place) // it goes with the next one that is laid there
	t.unused = append([]uint32{place}, t.unused...)
}
