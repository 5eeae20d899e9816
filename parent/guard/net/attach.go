package netguard

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/raypher/raypher/bpf"
)

// attachedPrefix begins the folders of pins of attached cgroups; the cgroup's id follows.
const attachedPrefix = "attached_"

// Attach puts the guard's programs at a cgroup that does not lie in Options.CgroupPath, or new ones into the links that an earlier
// raypherd pinned there. Arm it before: from then on a cgroup without an entry gets nothing. The programs are those of all agents, told
// where this cgroup lies, on the same state, but for the hooks of unix sockets: these leave the granted ones to a warden, which
// an attached cgroup does not have.
//
// It costs the kernel another verification of the programs, a few hundred milliseconds.
func (g *Guard) Attach(cgroupPath string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	id, _, _, err := place(cgroupPath)
	if err != nil {
		return err
	}
	_, err = os.Stat(g.attachedPins(id))
	held := g.pinned && err == nil // by what an earlier raypherd attached, which stays
	if err := g.attachAt(cgroupPath); err != nil {
		err = fmt.Errorf("attaching to %s: %w", cgroupPath, err)
		if !held {
			err = errors.Join(err, g.detach(id))
		}
		return err
	}
	return nil
}

// attachAt may leave some of the links behind when it fails; g.mu is held.
func (g *Guard) attachAt(cgroupPath string) error {
	id, depth, root, err := place(cgroupPath)
	if err != nil {
		return err
	}
	if id == root {
		return errors.New("network guard: it is the root of the hierarchy")
	}
	above, _, _, err := place(filepath.Dir(filepath.Clean(cgroupPath)))
	if err != nil {
		return err
	}
	spec, err := bpf.LoadNetguard()
	if err != nil {
		return explain("network guard: reading the built-in programs", err)
	}
	if err := g.tell(spec, uint32(g.base+depth), above); err != nil {
		return err
	}
	maps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
		return name == bpf.NetguardProgListAncestors || slices.Contains(optional, name)
	})
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: g.shared})
	if err != nil {
		return explain("network guard: loading", err)
	}
	defer c.Close()
	pins := ""
	if g.pinned {
		pins = g.attachedPins(id)
		if err := os.Mkdir(pins, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("network guard: folder for pins: %w", err)
		}
	}
	for _, name := range coreOrder(c) {
		l, err := linkAt(cgroupPath, id, pins, name, c.Programs[name], spec.Programs[name].AttachType)
		if err != nil {
			return explain("network guard: attaching "+name, err)
		}
		g.attached[id] = append(g.attached[id], l)
	}
	return nil
}

// linkAt puts a program at a cgroup, or into the link to that cgroup that is pinned in a folder; empty: nothing is pinned.
func linkAt(cgroupPath string, id uint64, pins, name string, program *ebpf.Program, as ebpf.AttachType) (link.Link, error) {
	pin := filepath.Join(pins, "link_"+name)
	if pins != "" {
		l, err := link.LoadPinnedLink(pin, nil)
		switch {
		case err == nil && linkedTo(l, id):
			if err := l.Update(program); err != nil {
				l.Close()
				return nil, err
			}
			return l, nil
		case err == nil: // its cgroup is gone
			l.Close()
			if err := os.Remove(pin); err != nil {
				return nil, err
			}
		case !errors.Is(err, os.ErrNotExist):
			return nil, err
		}
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroupPath, Attach: as, Program: program})
	if err != nil || pins == "" {
		return l, err
	}
	if err := l.Pin(pin); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// linkedTo says whether a link is still attached to the cgroup of that id.
func linkedTo(l link.Link, id uint64) bool {
	info, err := l.Info()
	return err == nil && info.Cgroup() != nil && info.Cgroup().CgroupId == id
}

// Detach takes the programs from an attached cgroup; what runs there is then held no more. One that is not attached is no error.
func (g *Guard) Detach(cgroupID uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.detach(cgroupID)
}

func (g *Guard) detach(id uint64) error {
	var all []error
	if g.pinned {
		all = append(all, os.RemoveAll(g.attachedPins(id)))
	}
	for _, l := range g.attached[id] {
		all = append(all, l.Close())
	}
	delete(g.attached, id)
	return explain("network guard: detaching", errors.Join(all...))
}

// Attached lists the ids of the cgroups that programs are attached to, including those that an earlier raypherd pinned.
func (g *Guard) Attached() []uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := slices.Collect(maps.Keys(g.attached))
	if !g.pinned {
		return all
	}
	entries, err := os.ReadDir(g.options.PinDir)
	if err != nil {
		return all
	}
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), attachedPrefix)
		if id, err := strconv.ParseUint(number, 10, 64); ok && err == nil && !slices.Contains(all, id) {
			all = append(all, id)
		}
	}
	slices.Sort(all)
	return all
}

func (g *Guard) attachedPins(id uint64) string {
	return filepath.Join(g.options.PinDir, attachedPrefix+strconv.FormatUint(id, 10))
}
