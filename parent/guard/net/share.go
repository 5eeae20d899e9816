package netguard

import (
	"reflect"

	"github.com/cilium/ebpf"
)

// Share lets the programs of spec judge by this guard's agents, rules and names, and report into its events: it sets the variables that
// they have in common, and returns the maps to load them with, which stay the guard's own.
func (g *Guard) Share(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	level, above, err := g.Place()
	if err != nil {
		return nil, err
	}
	if err := g.tell(spec, level, above); err != nil {
		return nil, err
	}
	shared := map[string]*ebpf.Map{}
	maps := reflect.ValueOf(g.maps)
	for i := range maps.NumField() {
		name := maps.Type().Field(i).Tag.Get("ebpf")
		if _, wanted := spec.Maps[name]; wanted {
			shared[name] = maps.Field(i).Interface().(*ebpf.Map)
		}
	}
	return shared, nil
}

// Place says how deep the agents' cgroups lie in the hierarchy, the root being 0, and the id of the one above them.
func (g *Guard) Place() (level uint32, above uint64, err error) {
	above, depth, _, err := place(g.options.CgroupPath)
	return uint32(g.base + depth + 1), above, err
}
