// Package cgroup holds the agents of one raypherd in cgroups: one folder for all of them, at which the network guard's
// programs are attached, and below it one per agent, which is the agent's identity for the kernel. An agent is ended,
// frozen and limited through its cgroup and nothing else.
//
// Identity and ending need cgroup2. Limits on memory and tasks use its controllers where the host has them there, else the
// v1 hierarchies, else they are not held, and the caller is told in words.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mode of every folder: everyone may look, root alone may change.
const mode = 0o755

// Parent is the folder of all agents of one raypherd. Its methods may be called from several goroutines.
type Parent struct {
	name    string
	mounts  Mounts
	path    string
	wardens string // the folder of the wardens, beside that of the agents
	memory  limiter
	pids    limiter
	watcher *watcher
}

// Open makes the folder `name` at the top of the cgroup2 hierarchy, or takes it over when it is there already. It needs
// root. Close it in the end.
func Open(name string) (*Parent, error) {
	mounts, err := FindMounts()
	if err != nil {
		return nil, err
	}
	p := &Parent{
		name: name, mounts: mounts, path: filepath.Join(mounts.Unified, name), wardens: filepath.Join(mounts.Unified, name+ofWardens),
	}
	for _, folder := range []string{p.path, p.wardens} {
		if err := os.Mkdir(folder, mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("making the cgroup of all agents: %w", err)
		}
	}
	available := delegate(mounts.Unified, p.path)
	p.memory = findLimiter("memory", slices.Contains(available, "memory"), mounts.Memory, name)
	p.pids = findLimiter("pids", slices.Contains(available, "pids"), mounts.Pids, name)
	if p.watcher, err = newWatcher(); err != nil {
		return nil, err
	}
	return p, nil
}

// delegate turns the controllers on for the agents' folders and returns those that are on. That a controller is missing is
// no error: findLimiter looks further.
func delegate(top, path string) []string {
	for _, folder := range []string{top, path} {
		for _, controller := range []string{"+memory", "+pids"} {
			_ = write(filepath.Join(folder, "cgroup.subtree_control"), controller)
		}
	}
	on, _ := os.ReadFile(filepath.Join(path, "cgroup.subtree_control"))
	return strings.Fields(string(on))
}

// Path is the absolute path of the folder in the file system; eBPF programs are attached here.
func (p *Parent) Path() string { return p.path }

// Close ends the watching. The folder and the agents in it stay.
func (p *Parent) Close() error { return p.watcher.close() }

// Contains says whether a process is inside an agent of this raypherd, and of which. The caller holds the process by a
// pidfd and checks after the call that it still lives.
func (p *Parent) Contains(pid int) (agent string, inside bool, err error) {
	path, err := Of(pid)
	if err != nil {
		return "", false, err
	}
	rest, ok := strings.CutPrefix(path, filepath.Join(p.mounts.UnifiedRoot, p.name)+"/")
	if !ok {
		return "", false, nil
	}
	agent, _, _ = strings.Cut(rest, "/")
	return agent, true, nil
}

// Governed says whether a process is inside an agent of any instance on this host, or the warden of one: all of them name their
// folder `raypher` or `raypher-` and more, and that of their wardens the same with `.wardens`, and mark what they attach to.
func (p *Parent) Governed(pid int) (bool, error) {
	path, err := Of(pid)
	if err != nil {
		return false, err
	}
	return p.governed(strings.TrimPrefix(path, p.mounts.UnifiedRoot)), nil
}

// governed is Governed of a path below the mount.
func (p *Parent) governed(below string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(below, "/"), "/")
	first = strings.TrimSuffix(first, ofWardens)
	return first == "raypher" || strings.HasPrefix(first, "raypher-") || p.marked(below)
}

// Agents lists the names of the folders of agents, also of those that an earlier raypherd left.
func (p *Parent) Agents() ([]string, error) {
	entries, err := os.ReadDir(p.path)
	if err != nil {
		return nil, fmt.Errorf("listing agents: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Bounds says whether this host has what bounds the memory and the tasks of an agent as a whole.
func (p *Parent) Bounds() (memory, tasks bool) {
	return p.memory.kind != nowhere, p.pids.kind != nowhere
}

// Notes says in words which limits this host cannot hold.
func (p *Parent) Notes(l Limits) []string {
	var notes []string
	if l.MemoryBytes != 0 && p.memory.kind == nowhere {
		notes = append(notes, "max_memory_mb is not held: this host has no memory controller, neither in cgroup2 nor in v1")
	}
	if l.Tasks != 0 && p.pids.kind == nowhere {
		notes = append(notes, "max_processes is not held: this host has no pids controller, neither in cgroup2 nor in v1")
	}
	return notes
}

// Remove removes the folders and everything in them. No agent may live any more. Wardens that are not gone by then are waited
// for, and killed after a while: without an agent they guard nothing, and outside of their cgroup nobody would know them.
func (p *Parent) Remove() error {
	errs := []error{removeTree(p.path), p.removeWardens()}
	for _, l := range []limiter{p.memory, p.pids} {
		if l.kind == v1 {
			errs = append(errs, removeTree(l.top))
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup folder and those below it, deepest first; the files in them cannot and need not be removed.
// A folder that is gone is no error. The kernel refuses while a process is still dying, so it is tried for a moment.
func removeTree(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing cgroup: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(path, e.Name())); err != nil {
				return err
			}
		}
	}
	for range 100 {
		err = unix.Rmdir(path)
		if err != unix.EBUSY {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil && err != unix.ENOENT {
		return fmt.Errorf("removing cgroup %s: %w", path, err)
	}
	return nil
}

// write writes one value into a file of the kernel, in one call and without creating it.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return err
	}
	return nil
}
