package netguard

import (
	"reflect"

	"github.com/cilium/ebpf"
)

// Share lets the programs of spec judge by this guard's agents, rules and names, and report into its events: it sets the variables that
// they have in common, and returns the maps to load them with, which stay the guard's own.
func (g *Guard) Share(spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	parent, depth, _, err := place(g.options.CgroupPath)
	if err != nil {
		return nil, err
	}
	if err := g.tell(spec, uint32(g.base+depth+1), parent); err != nil {
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
