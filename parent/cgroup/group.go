package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Group is the cgroup of one agent. Its methods may be called from several goroutines.
type Group struct {
	parent  *Parent
	id      string
	path    string
	below   string // the cgroup2 path, as /proc/<pid>/cgroup spells it
	number  uint64
	folders []string // v1 folders that hold limits
	foreign bool     // somebody else made it: see Attach
}

// Create makes the cgroup of a new agent; Limit bounds it. The warden, which runs as uid, may freeze and thaw it; nothing
// else in it belongs to that user. On an error nothing is left behind.
func (p *Parent) Create(id string, uid int) (*Group, error) {
	g := p.group(id)
	if err := os.Mkdir(g.path, mode); err != nil {
		return nil, fmt.Errorf("making the cgroup of agent %s: %w", id, err)
	}
	err := os.Chown(filepath.Join(g.path, "cgroup.freeze"), uid, -1)
	if err == nil {
		g.number, err = number(g.path)
	}
	if err != nil {
		return nil, errors.Join(err, g.Remove())
	}
	return g, nil
}

// Find returns the cgroup of an agent that an earlier raypherd made. The error wraps fs.ErrNotExist when there is none.
func (p *Parent) Find(id string) (*Group, error) {
	g := p.group(id)
	var err error
	if g.number, err = number(g.path); err != nil {
		return nil, err
	}
	for _, l := range []limiter{p.memory, p.pids} {
		if l.kind != v1 {
			continue
		}
		folder := filepath.Join(l.top, id)
		if _, err := os.Stat(folder); err == nil {
			g.folders = append(g.folders, folder)
		}
	}
	return g, nil
}

func (p *Parent) group(id string) *Group {
	return &Group{parent: p, id: id, path: filepath.Join(p.path, id), below: filepath.Join(p.mounts.UnifiedRoot, p.name, id)}
}

// number is the cgroup id that eBPF sees: in cgroup2 it is the inode number of the folder (kernfs, include/linux/kernfs.h).
func number(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// Path is the absolute path of the cgroup2 folder.
func (g *Group) Path() string { return g.path }

// ID is the cgroup id by which eBPF programs know the agent.
func (g *Group) ID() uint64 { return g.number }

// Holds says whether a cgroup2 path, as Of and Parse return it, is the group's or lies below it.
func (g *Group) Holds(path string) bool {
	return path == g.below || strings.HasPrefix(path, g.below+"/")
}

// Add moves a process with all its threads into the group. Its children stay where they are. The kernel waits for a grace
// period of RCU (some 10 ms) unless another move has just waited for one.
func (g *Group) Add(pid int) error {
	if err := write(filepath.Join(g.path, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
		return fmt.Errorf("moving process %d into agent %s: %w", pid, g.id, err)
	}
	return nil
}

// Evict moves every process of the group out of it, to the cgroup2 path that Of returned for it before.
func (g *Group) Evict(to string) error {
	below, err := filepath.Rel(g.parent.mounts.UnifiedRoot, to)
	if err != nil {
		return fmt.Errorf("moving processes out of agent %s: %w", g.id, err)
	}
	pids, err := g.Processes()
	for _, pid := range pids {
		moved := write(filepath.Join(g.parent.mounts.Unified, below, "cgroup.procs"), strconv.Itoa(pid))
		if moved != nil && !errors.Is(moved, unix.ESRCH) {
			err = errors.Join(err, fmt.Errorf("moving process %d out of agent %s: %w", pid, g.id, moved))
		}
	}
	return err
}

// Processes lists the pids in the group and below it. What lies beside a cgroup that is removed meanwhile is listed all the same: who may
// make cgroups there could else hide it.
func (g *Group) Processes() ([]int, error) {
	var pids []int
	err := filepath.WalkDir(g.path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			var in []int
			in, err = processesIn(path)
			pids = append(pids, in...)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil // removed before, or after it was opened
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("processes of agent %s: %w", g.id, err)
	}
	return pids, nil
}

// processesIn lists the pids right in a cgroup.
func processesIn(path string) (pids []int, err error) {
	content, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	for _, field := range strings.Fields(string(content)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Freeze stops every process of the group, or lets them go on.
func (g *Group) Freeze(on bool) error {
	value := "0"
	if on {
		value = "1"
	}
	if err := write(filepath.Join(g.path, "cgroup.freeze"), value); err != nil {
		return fmt.Errorf("freezing agent %s: %w", g.id, err)
	}
	return nil
}

// Frozen says whether the group is frozen.
func (g *Group) Frozen() bool { return g.event("frozen") }

// Populated says whether a process lives in the group or below it.
func (g *Group) Populated() bool { return g.event("populated") }

// event reads one key of cgroup.events (Documentation/admin-guide/cgroup-v2.rst).
func (g *Group) event(key string) bool {
	content, err := os.ReadFile(filepath.Join(g.path, "cgroup.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(content)) {
		if strings.TrimSpace(line) == key+" 1" {
			return true
		}
	}
	return false
}

// Kill kills every process of the group and below it; forks cannot outrun it (cgroup.kill, Linux 5.14). It works on a
// frozen group too. A group that is gone is no error.
func (g *Group) Kill() error {
	err := write(filepath.Join(g.path, "cgroup.kill"), "1")
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("killing agent %s: %w", g.id, err)
	}
	return nil
}

// Empty returns a channel that is closed once no process lives in the group any more. Call it after Add, once.
func (g *Group) Empty() (<-chan struct{}, error) { return g.parent.watcher.watch(g) }

// Remove removes the group. No process may live in it any more. One that somebody else made stays, with what runs in it, and is only
// no longer marked.
func (g *Group) Remove() error {
	if g.foreign {
		return g.unmark()
	}
	errs := []error{removeTree(g.path)}
	for _, folder := range g.folders {
		errs = append(errs, removeTree(folder))
	}
	return errors.Join(errs...)
}
