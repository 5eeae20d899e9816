package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// mark is the attribute of a cgroup whose programs somebody attached: its value names the instance. Root alone can set and remove it
// (xattr(7), trusted attributes), and every raypherd of the host sees it, also one that knows nothing of the one that attached.
const mark = "trusted.raypher"

// Why a cgroup cannot be attached.
var (
	ErrRoot     = errors.New("it is the root of the hierarchy: everything on this host that is in no other cgroup would be held")
	ErrThreaded = errors.New("its threads may be in cgroups of their own (cgroup.type): programs are held as a whole only in cgroups of type domain")
	ErrEmpty    = errors.New("no process lives there")
	ErrGoverned = errors.New("it is under the guard already, lies in a cgroup that is, or holds one")
)

// Attach returns the group of a cgroup2 folder that somebody else made, or why it cannot be taken; with ErrEmpty both. It is not
// marked yet.
func (p *Parent) Attach(id, path string) (*Group, error) {
	path = filepath.Clean(path)
	below, err := filepath.Rel(p.mounts.Unified, path)
	if err != nil || !filepath.IsLocal(below) {
		return nil, fmt.Errorf("cgroup %s: it does not lie in %s, where cgroup2 is mounted", path, p.mounts.Unified)
	}
	if below == "." {
		return nil, fmt.Errorf("cgroup %s: %w", path, ErrRoot)
	}
	g := &Group{parent: p, id: id, path: path, below: filepath.Join(p.mounts.UnifiedRoot, below), foreign: true}
	if g.number, err = number(path); err != nil {
		return nil, err
	}
	kind, err := os.ReadFile(filepath.Join(path, "cgroup.type"))
	if err != nil {
		return nil, fmt.Errorf("cgroup %s: %w", path, err)
	}
	if strings.TrimSpace(string(kind)) != "domain" {
		return nil, fmt.Errorf("cgroup %s: %w: it says %q", path, ErrThreaded, strings.TrimSpace(string(kind)))
	}
	if !g.Populated() {
		return g, fmt.Errorf("cgroup %s: %w", path, ErrEmpty)
	}
	return g, nil
}

// Free says whether nothing in the group, below or above it is under the guard of any instance. It is of groups from Attach.
func (g *Group) Free() error {
	below := strings.TrimPrefix(g.below, g.parent.mounts.UnifiedRoot)
	if g.parent.governed(below) {
		return fmt.Errorf("cgroup %s: %w", g.path, ErrGoverned)
	}
	return filepath.WalkDir(g.path, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed meanwhile
		}
		if err != nil || !d.IsDir() {
			return err
		}
		if hasMark(path) {
			return fmt.Errorf("cgroup %s: %w: %s", g.path, ErrGoverned, path)
		}
		return nil
	})
}

// Name is the id that the group was made or found with.
func (g *Group) Name() string { return g.id }

// OwnedAbove says whether a user other than root may move processes out of the group: into a sibling, with the right to write into the
// cgroup above both (Documentation/admin-guide/cgroup-v2.rst, delegation containment).
func (g *Group) OwnedAbove() bool {
	var st unix.Stat_t
	err := unix.Stat(filepath.Join(filepath.Dir(g.path), "cgroup.procs"), &st)
	return err == nil && (st.Uid != 0 || st.Mode&0o022 != 0)
}

// Given says whether nobody but root and a user puts processes of others into the group: they lie right in it, where the kernel and
// systemd have no further cgroups, or the user was given it to make such there. What lies above cgroups of several users, or will, is
// neither.
func (g *Group) Given(uid uint32) bool {
	var st unix.Stat_t
	if unix.Stat(filepath.Join(g.path, "cgroup.procs"), &st) == nil && st.Uid == uid {
		return true
	}
	pids, err := processesIn(g.path)
	return err == nil && len(pids) > 0
}

// Replaced says whether another cgroup lies at the group's path by now, and its id: a unit that was started again has the same path.
func (g *Group) Replaced() (by uint64, replaced bool) {
	now, err := number(g.path)
	return now, err == nil && now != g.number
}

// Below is the group's cgroup2 path, as /proc/<pid>/cgroup spells it.
func (g *Group) Below() string { return g.below }

// Numbered finds the folder of a cgroup by its id; false: there is none.
func (p *Parent) Numbered(id uint64) (path string, found bool) {
	_ = filepath.WalkDir(p.mounts.Unified, func(at string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // what vanishes meanwhile is not it
		}
		if n, err := number(at); err == nil && n == id {
			path, found = at, true
			return fs.SkipAll
		}
		return nil
	})
	return path, found
}

// Mark tells every raypherd that what runs in a group from Attach is governed.
func (g *Group) Mark() error {
	if err := unix.Setxattr(g.path, mark, []byte(g.parent.name), 0); err != nil {
		return fmt.Errorf("marking cgroup %s: %w", g.path, err)
	}
	return nil
}

func (g *Group) unmark() error {
	err := unix.Removexattr(g.path, mark)
	if err != nil && err != unix.ENODATA && err != unix.ENOENT {
		return fmt.Errorf("cgroup %s: taking its mark away: %w", g.path, err)
	}
	return nil
}

// marked says whether a path below the mount, or a folder above it, has a mark.
func (p *Parent) marked(below string) bool {
	for below = filepath.Clean("/" + below); below != "/"; below = filepath.Dir(below) {
		if hasMark(filepath.Join(p.mounts.Unified, below)) {
			return true
		}
	}
	return false
}

func hasMark(path string) bool {
	_, err := unix.Getxattr(path, mark, nil)
	return err == nil
}

// Named finds the cgroup of a unit of systemd, which has the unit's name. There must be one; the managers of users may have units of
// the same name as the system's.
func (p *Parent) Named(unit string) (string, error) {
	if !strings.Contains(unit, ".") {
		unit += ".service"
	}
	var found []string
	err := filepath.WalkDir(p.mounts.Unified, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // what vanishes meanwhile is not it
		}
		if d.Name() == unit {
			found = append(found, path)
			return fs.SkipDir
		}
		return nil
	})
	switch {
	case err != nil:
		return "", fmt.Errorf("unit %s: %w", unit, err)
	case len(found) == 0:
		return "", fmt.Errorf("unit %s: no cgroup below %s has its name: is it running?", unit, p.mounts.Unified)
	case len(found) > 1:
		return "", fmt.Errorf("unit %s: %d cgroups have its name: name one with --cgroup: %s", unit, len(found), strings.Join(found, ", "))
	}
	return found[0], nil
}

// PathOf is the folder of the cgroup that a process is in. The caller holds it by a pidfd, as for Contains.
func (p *Parent) PathOf(pid int) (string, error) {
	path, err := Of(pid)
	if err != nil {
		return "", err
	}
	return p.folder(path)
}

// folder is that of a cgroup2 path, which may also be one below the mount or the folder itself.
func (p *Parent) folder(path string) (string, error) {
	if below, ok := strings.CutPrefix(path, p.mounts.UnifiedRoot); ok && p.mounts.UnifiedRoot != "/" {
		path = below
	}
	if !filepath.IsLocal(strings.TrimPrefix(filepath.Clean(path), "/")) && filepath.Clean(path) != "/" {
		return "", fmt.Errorf("cgroup %q: it does not lie in the hierarchy that is mounted at %s", path, p.mounts.Unified)
	}
	return filepath.Join(p.mounts.Unified, path), nil
}

// Folder is that of a cgroup as a person names it: the folder itself, or a path below the mount.
func (p *Parent) Folder(name string) (string, error) {
	if !filepath.IsAbs(name) {
		return "", fmt.Errorf("cgroup %q: name it by its folder, or as /proc/PID/cgroup does", name)
	}
	name = filepath.Clean(name)
	if name == p.mounts.Unified || strings.HasPrefix(name, p.mounts.Unified+"/") {
		return name, nil
	}
	return p.folder(name)
}

// Elsewhere counts the threads of the processes in the group that are in another cgroup, and the children of these processes that are:
// neither is held with the group.
func (g *Group) Elsewhere() (threads, children int, err error) {
	pids, err := g.Processes()
	if err != nil {
		return 0, 0, err
	}
	inside := make(map[string]bool, len(pids))
	for _, pid := range pids {
		inside[fmt.Sprint(pid)] = true
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)) // one that has ended has none
		for _, t := range tasks {
			if g.left(fmt.Sprintf("/proc/%d/task/%s/cgroup", pid, t.Name())) {
				threads++
			}
		}
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return threads, 0, err
	}
	for _, e := range all {
		if name := e.Name(); name[0] >= '1' && name[0] <= '9' && !inside[name] && inside[parentOf(name)] && g.left("/proc/"+name+"/cgroup") {
			children++
		}
	}
	return threads, children, nil
}

// left says whether a task, by its file of cgroups, is outside of the group. One that has ended is not.
func (g *Group) left(file string) bool {
	content, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	path, err := Parse(string(content))
	return err == nil && !g.Holds(path)
}

// parentOf is the pid of a process's parent; empty: it has ended.
func parentOf(pid string) string {
	f, err := os.Open("/proc/" + pid + "/status")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if parent, ok := strings.CutPrefix(lines.Text(), "PPid:"); ok {
			return strings.TrimSpace(parent)
		}
	}
	return ""
}
