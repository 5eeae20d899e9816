package daemon

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
)

// guardInterfaces puts the program for incoming packets at the interfaces that are named, and takes it from those that an earlier
// raypherd guarded and this one does not.
func (d *daemon) guardInterfaces(context.Context) error {
	left, _ := filepath.Glob(filepath.Join(d.options.Paths.Pins, "xdp", "at_*"))
	if len(d.options.XDP) == 0 && len(left) == 0 {
		return nil
	}
	block4, block6, err := d.wires.wires.Blocks()
	if err != nil {
		return err
	}
	g, err := d.wires.load(block4, block6)
	if err != nil {
		return err
	}
	for _, name := range g.Guarded() {
		if !slices.Contains(d.options.XDP, name) {
			if err := g.Release(name); err != nil {
				return err
			}
			d.log.Info("an interface is guarded no more", "interface", name)
		}
	}
	for _, name := range d.options.XDP {
		native, err := g.Guard(name)
		if err != nil {
			return fmt.Errorf("--xdp %s: %w", name, err)
		}
		if !native {
			d.notes = append(d.notes[:len(d.notes):len(d.notes)], "--xdp "+name+": generic: its driver runs no XDP, so the kernel does, after it has made a buffer of each packet")
		}
		d.log.Info("XDP guards an interface's incoming packets", "interface", name, "native", native)
		d.later(func() error { return g.Release(name) })
	}
	return nil
}
