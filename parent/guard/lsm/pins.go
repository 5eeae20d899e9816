package lsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// preparePins makes the folder of pins, or notes why nothing will be pinned.
func (g *Guard) preparePins() error {
	dir := g.options.PinDir
	if dir == "" {
		g.notes = append(g.notes, "the file guard is not pinned: it ends with raypherd")
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("file guard: folder for pins: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(dir), &fs); err != nil {
		return fmt.Errorf("file guard: folder for pins: %w", err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		g.notes = append(g.notes, fmt.Sprintf("the file guard is not pinned and ends with raypherd: %s is in no bpffs: `mount -t bpf bpf /sys/fs/bpf`", dir))
		return nil
	}
	for _, folder := range []string{dir, filepath.Join(dir, "maps")} {
		if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("file guard: folder for pins: %w", err)
		}
	}
	g.pinned = true
	return nil
}

// sharedSection is the map of the variables that outlive this process. A bpffs takes no name with a dot, so it has another pin.
const (
	sharedSection = ".data.shared"
	sharedPin     = "variables"
)

// pinnedVariables is the map of the variables of the guard that is there already; nil: there is none.
func (g *Guard) pinnedVariables() (map[string]*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(g.options.PinDir, "maps", sharedPin), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, explain("file guard: pinned variables", err)
	}
	return map[string]*ebpf.Map{sharedSection: m}, nil
}

// pinVariables pins the map of the variables, unless it was taken over.
func (g *Guard) pinVariables(c *ebpf.Collection, taken map[string]*ebpf.Map) error {
	if m := taken[sharedSection]; m != nil {
		return m.Close()
	}
	if !g.pinned {
		return nil
	}
	return explain("file guard: pinning the variables", c.Maps[sharedSection].Pin(filepath.Join(g.options.PinDir, "maps", sharedPin)))
}

// attach attaches a program, and puts it in the place of the pinned one of the same name, which goes only then: while both run,
// what either refuses is refused.
func (g *Guard) attach(name string, program *ebpf.Program) error {
	var l link.Link
	var err error
	if program.Type() == ebpf.LSM {
		l, err = link.AttachLSM(link.LSMOptions{Program: program})
	} else {
		l, err = link.AttachTracing(link.TracingOptions{Program: program})
	}
	if err != nil {
		return err
	}
	g.links = append(g.links, l)
	if !g.pinned {
		return nil
	}
	pin, fresh := filepath.Join(g.options.PinDir, "link_"+name), filepath.Join(g.options.PinDir, "new_"+name)
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := l.Pin(fresh); err != nil {
		return err
	}
	return os.Rename(fresh, pin)
}
