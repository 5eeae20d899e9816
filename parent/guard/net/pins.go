package netguard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/bpf"
)

// preparePins makes the folder of pins, or notes why nothing will be pinned.
func (g *Guard) preparePins() error {
	dir := g.options.PinDir
	if dir == "" {
		g.notes = append(g.notes, "the network guard is not pinned: it ends with raypherd")
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("network guard: folder for pins: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(dir), &fs); err != nil {
		return fmt.Errorf("network guard: folder for pins: %w", err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		g.notes = append(g.notes, fmt.Sprintf("the network guard is not pinned and ends with raypherd: %s is in no bpffs: `mount -t bpf bpf /sys/fs/bpf`", dir))
		return nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("network guard: folder for pins: %w", err)
	}
	g.pinned = true
	return nil
}

// coreOrder puts the packet hooks first: there is no moment in which a call is judged and its packets are not.
func coreOrder(c *ebpf.Collection) []string {
	order := []string{bpf.NetguardProgOnSocket, bpf.NetguardProgOnEgress, bpf.NetguardProgOnIngress}
	for name := range c.Programs {
		if !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	slices.Sort(order[3:])
	return order
}

// attach puts a program at the parent cgroup, or into the pinned link that is there already: the change of program is
// atomic, so a restart leaves no gap.
func (g *Guard) attach(name string, program *ebpf.Program, as ebpf.AttachType) error {
	pin := filepath.Join(g.options.PinDir, "link_"+name)
	if g.pinned {
		l, err := link.LoadPinnedLink(pin, nil)
		switch {
		case err == nil && g.holds(l):
			g.links = append(g.links, l)
			return l.Update(program)
		case err == nil: // its cgroup is gone
			l.Close()
			if err := os.Remove(pin); err != nil {
				return err
			}
		case !errors.Is(err, os.ErrNotExist):
			return err
		}
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: g.options.CgroupPath, Attach: as, Program: program})
	if err != nil {
		return err
	}
	g.links = append(g.links, l)
	if g.pinned {
		return l.Pin(pin)
	}
	return nil
}

// holds says whether a link found pinned is still attached to our cgroup.
func (g *Guard) holds(l link.Link) bool {
	info, err := l.Info()
	if err != nil || info.Cgroup() == nil {
		return false
	}
	id, _, _, err := place(g.options.CgroupPath)
	return err == nil && info.Cgroup().CgroupId == id
}
