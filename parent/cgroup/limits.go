package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// Limits bound one agent as a whole; 0 means no limit.
type Limits struct {
	MemoryBytes uint64
	Tasks       uint64 // processes and threads
}

// where says in which hierarchy a controller was found.
type where int

const (
	nowhere where = iota
	v1
	v2
)

// limiter is one controller as this host has it.
type limiter struct {
	kind where
	top  string // v1: folder of all agents in that controller's own hierarchy
}

func findLimiter(controller string, unified bool, v1Mount, name string) limiter {
	if unified {
		return limiter{kind: v2}
	}
	if v1Mount == "" {
		return limiter{}
	}
	// A v1 hierarchy may be mounted read-only in a container; then it is as good as missing.
	top := filepath.Join(v1Mount, name)
	if err := os.Mkdir(top, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return limiter{}
	}
	if controller == "memory" {
		// Before 5.11 a child's memory counted for its parent only when this was set (Documentation/admin-guide/cgroup-v1/memory.rst).
		_ = write(filepath.Join(top, "memory.use_hierarchy"), "1")
	}
	return limiter{kind: v1, top: top}
}

// set is one file of the kernel and the value for it. An optional one may be missing.
type set struct {
	file     string
	value    uint64
	optional bool
}

// settings returns what must be written where for the limits, and the v1 folders that the processes must join.
func (g *Group) settings(l Limits) (sets []set, folders []string) {
	add := func(c limiter, v2Files, v1Files []set) {
		folder, files := g.path, v2Files
		if c.kind == v1 {
			folder, files = filepath.Join(c.top, g.id), v1Files
			folders = append(folders, folder)
		}
		for _, s := range files {
			s.file = filepath.Join(folder, s.file)
			sets = append(sets, s)
		}
	}
	if l.MemoryBytes != 0 && g.parent.memory.kind != nowhere {
		// Swap is part of the limit: in v1 memsw is memory plus swap, in v2 swap is counted alone.
		add(g.parent.memory,
			[]set{{"memory.max", l.MemoryBytes, false}, {"memory.swap.max", 0, true}},
			[]set{{"memory.limit_in_bytes", l.MemoryBytes, false}, {"memory.memsw.limit_in_bytes", l.MemoryBytes, true}})
	}
	if l.Tasks != 0 && g.parent.pids.kind != nowhere {
		add(g.parent.pids, []set{{"pids.max", l.Tasks, false}}, []set{{"pids.max", l.Tasks, false}})
	}
	return sets, folders
}

// Limit bounds the group, of which pid is the only process so far; what it starts later is bound with it.
func (g *Group) Limit(l Limits, pid int) error {
	sets, folders := g.settings(l)
	for _, folder := range folders {
		g.folders = append(g.folders, folder)
		if err := os.Mkdir(folder, mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("limits of agent %s: %w", g.id, err)
		}
	}
	for _, s := range sets {
		err := write(s.file, strconv.FormatUint(s.value, 10))
		if err != nil && !(s.optional && errors.Is(err, fs.ErrNotExist)) {
			return fmt.Errorf("limits of agent %s: writing %d: %w", g.id, s.value, err)
		}
	}
	for _, folder := range folders {
		if err := write(filepath.Join(folder, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("limits of agent %s: moving process %d: %w", g.id, pid, err)
		}
	}
	return nil
}
