package lsm

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/parent/guard/lsm/probe"
	"github.com/raypher/raypher/parent/guard/ring"
)

// Guard is the loaded file guard.
type Guard struct {
	options Options
	maps    bpf.LsmguardMaps
	level   *ebpf.Variable // depth of the agents' cgroups
	depths  *ebpf.Variable // of attached cgroups, as bits
	forget  *ebpf.Program
	links   []link.Link
	notes   []string
	pinned  bool

	mu     sync.Mutex // serialises what writes agents and tables
	tables *tables
	rules  map[uint64]*ruling // of the agents armed by this process
	absent map[string]bool    // paths that are closed or sealed to every agent, and not there
	told   map[uint64]Counters
	drains ring.Drains
}

// Programs that are run and not attached.
var unattached = []string{bpf.LsmguardProgForgetVerdicts, bpf.LsmguardProgListAncestors}

// later are the hooks that came after Linux 6.1, with what is not held without them. Where a kernel lacks one, Notes says so.
var later = map[string]string{
	"bpf_lsm_file_ioctl_compat": "", // programs of 32 bits are ended by seccomp
	"bpf_lsm_inode_set_acl":     "", // before 6.2 an attribute like others
	"bpf_lsm_inode_remove_acl":  "",
}

// Probe says in words whether this kernel takes BPF LSM programs and calls them.
func Probe() error { return tried(nil) }

func tried(types *btf.Cache) error {
	const what = "file guard (lsm)"
	called, err := probe.Try(types)
	if err == nil && !called {
		return fmt.Errorf("%s: %w: add bpf to lsm= on its command line", what, ErrNotCalled)
	}
	return explain(what, err)
}

// Load attaches the guard, or takes over the state that is pinned in Options.PinDir. The programs that were there stay until
// the new ones are attached: there is no moment without.
func Load(o Options) (*Guard, error) {
	g := &Guard{options: o, rules: map[uint64]*ruling{}, absent: map[string]bool{}, told: map[uint64]Counters{}}
	if err := g.load(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Guard) load() error {
	types := btf.NewCache()
	if err := tried(types); err != nil {
		return err
	}
	spec, err := bpf.LoadLsmguard()
	if err != nil {
		return explain("file guard: reading the built-in programs", err)
	}
	if err := g.preparePins(); err != nil {
		return err
	}
	if err := g.fit(spec, types); err != nil {
		return err
	}
	options := ebpf.CollectionOptions{Cache: types}
	if g.pinned {
		options.Maps.PinPath = filepath.Join(g.options.PinDir, "maps")
		for name, m := range spec.Maps {
			if !strings.HasPrefix(name, ".") {
				m.Pinning = ebpf.PinByName
			}
		}
		if options.MapReplacements, err = g.pinnedVariables(); err != nil {
			return err
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, options)
	if err != nil {
		return explain("file guard: loading", err)
	}
	defer c.Close()
	if err := g.pinVariables(c, options.MapReplacements); err != nil {
		return err
	}
	programs := maps.Clone(c.Programs)
	if g.forget, err = c.Programs[bpf.LsmguardProgForgetVerdicts].Clone(); err != nil {
		return explain("file guard", err)
	}
	g.level, g.depths = c.Variables[bpf.LsmguardVarAgentsLevel], c.Variables[bpf.LsmguardVarAttachedDepths]
	if err := g.place(c); err != nil {
		return err
	}
	if err := assignMaps(c, &g.maps); err != nil {
		return err
	}
	if g.tables, err = newTables(g.maps.Tables, spec.Maps[bpf.LsmguardMapTables].InnerMap, g.maps.Agents); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		if slices.Contains(unattached, name) {
			continue
		}
		if err := g.attach(name, programs[name]); err != nil {
			return explain("file guard: attaching "+name, err)
		}
	}
	return nil
}

// assignMaps takes the maps out of the collection, but leaves those of variables.
func assignMaps(c *ebpf.Collection, to *bpf.LsmguardMaps) error {
	for name, at := range map[string]**ebpf.Map{
		bpf.LsmguardMapAgents: &to.Agents, bpf.LsmguardMapCounts: &to.Counts, bpf.LsmguardMapTables: &to.Tables, bpf.LsmguardMapObjects: &to.Objects,
		bpf.LsmguardMapHashes: &to.Hashes, bpf.LsmguardMapPermits: &to.Permits, bpf.LsmguardMapCache: &to.Cache, bpf.LsmguardMapRooms: &to.Rooms,
		bpf.LsmguardMapEvents: &to.Events,
	} {
		m, err := c.Maps[name].Clone()
		if err != nil {
			return explain("file guard: maps", err)
		}
		*at = m
	}
	return nil
}

// fit leaves out what this kernel does not have: hooks that came later, and the form of one that changed (bpf/lsmguard/paths.bpf.h).
func (g *Guard) fit(spec *ebpf.CollectionSpec, types *btf.Cache) error {
	kernel, err := types.Kernel()
	if err != nil {
		return fmt.Errorf("file guard: the kernel's types: it needs CONFIG_DEBUG_INFO_BTF, which /sys/kernel/btf/vmlinux shows: %w", err)
	}
	var setattr *btf.Func
	if err := kernel.TypeByName("bpf_lsm_inode_setattr", &setattr); err != nil {
		return fmt.Errorf("file guard: hook inode_setattr: %w", err)
	}
	drop := bpf.LsmguardProgOnInodeSetattrWithoutMap
	if proto, ok := setattr.Type.(*btf.FuncProto); ok && len(proto.Params) == 2 {
		drop = bpf.LsmguardProgOnInodeSetattr
	}
	delete(spec.Programs, drop)
	for name, p := range spec.Programs {
		if p.Type != ebpf.LSM {
			continue
		}
		var hook *btf.Func
		err := kernel.TypeByName("bpf_lsm_"+p.AttachTo, &hook)
		if err == nil {
			continue
		}
		without, optional := later["bpf_lsm_"+p.AttachTo]
		if !errors.Is(err, btf.ErrNotFound) || !optional {
			return fmt.Errorf("file guard: hook %s: %w: this kernel lacks it: use the broker", p.AttachTo, err)
		}
		delete(spec.Programs, name)
		if without != "" {
			g.notes = append(g.notes, without)
		}
	}
	return nil
}

// place tells the programs where the agents' cgroups are. Until then nobody is governed.
func (g *Guard) place(c *ebpf.Collection) error {
	parent, depth, root, err := locate(g.options.CgroupPath)
	if err != nil {
		return err
	}
	if _, err := c.Programs[bpf.LsmguardProgListAncestors].Run(&ebpf.RunOptions{}); err != nil {
		return explain("file guard: finding the depth of the cgroup hierarchy", err)
	}
	var ids [32]uint64
	if err := c.Variables[bpf.LsmguardVarAncestors].Get(&ids); err != nil {
		return explain("file guard: finding the depth of the cgroup hierarchy", err)
	}
	base := slices.Index(ids[:], root)
	if base < 0 {
		return errors.New("file guard: this process is not in the cgroup hierarchy that is mounted: start it in the host's cgroup namespace")
	}
	if err := c.Variables[bpf.LsmguardVarAgentsParent].Set(parent); err != nil {
		return explain("file guard: writing the state", err)
	}
	return explain("file guard: writing the state", g.level.Set(uint32(base+depth+1)))
}

// locate returns the id of a cgroup2 folder, its depth below the mount, and the id of the mount's root.
func locate(path string) (id uint64, depth int, root uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, 0, 0, fmt.Errorf("file guard: cgroup %s: %w", path, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, 0, 0, fmt.Errorf("file guard: cgroup %s: not in a cgroup2 file system: `raypher doctor` shows where one is mounted", path)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, 0, fmt.Errorf("file guard: cgroup %s: %w", path, err)
	}
	id, root = st.Ino, st.Ino // a cgroup's id is its inode number (kernfs)
	for dir := filepath.Clean(path); dir != "/"; {
		dir = filepath.Dir(dir)
		var up unix.Stat_t
		if err := unix.Stat(dir, &up); err != nil || up.Dev != st.Dev {
			break
		}
		depth++
		root = up.Ino
	}
	return id, depth, root, nil
}

// Close lets go of the guard; what is pinned stays in force.
func (g *Guard) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []error
	for _, l := range g.links {
		all = append(all, l.Close())
	}
	g.links = nil
	if g.forget != nil {
		all = append(all, g.forget.Close())
	}
	all = append(all, g.maps.Close())
	return errors.Join(all...)
}

// Notes says in words what this kernel or host could not provide.
func (g *Guard) Notes() []string { return g.notes }

// Pinned says whether the guard stays when this process ends.
func (g *Guard) Pinned() bool { return g.pinned }

// Unpin removes the pins, so that the guard ends with Close.
func (g *Guard) Unpin() error {
	if !g.pinned {
		return nil
	}
	g.pinned = false
	if err := os.RemoveAll(g.options.PinDir); err != nil {
		return fmt.Errorf("file guard: removing the pins: %w", err)
	}
	return nil
}
