package netguard

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
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
	"github.com/raypher/raypher/parent/dns/hosts"
	"github.com/raypher/raypher/parent/guard/ring"
	"github.com/raypher/raypher/policy"
)

// Guard is the loaded network guard.
type Guard struct {
	options Options
	maps    bpf.NetguardMaps
	links   []link.Link
	notes   []string
	pinned  bool
	netns   uint64               // cookie of the namespace in which raypherd listens
	base    int                  // depth of the mount's root in the hierarchy
	shared  map[string]*ebpf.Map // g.maps by name

	mu    sync.Mutex // serialises what writes agents, slots and names
	slots *slots
	reply *ebpf.MapSpec  // of the answers that one agent may give
	last  uint64         // generation given
	names map[uint64]int // addresses of names held by each agent
	// opened are the names by which each agent's addresses were opened, for events: the last of several.
	opened map[uint64]map[netip.Addr]string
	lent   map[uint64]loans
	cuts   map[uint64][]Cut
	// networks are the rules that agents were given last, as far as this process gave them or was told.
	networks map[uint64]*policy.Network
	hosts    *hosts.File
	// indexed are the rules of networks that name hosts.
	indexed map[uint64]hostRules
	// hostsVersion is that of the hosts file which is in force for every agent.
	hostsVersion uint64
	// servers are the names of each agent that its TLS hellos may ask for.
	servers map[uint64]int
	// attached are the links to cgroups outside of Options.CgroupPath, by the cgroup's id.
	attached map[uint64][]link.Link

	stop     chan struct{}
	stopOnce sync.Once
	done     sync.WaitGroup
	drains   ring.Drains
}

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// optional are the programs that a kernel may lack. Both came with Linux 6.7.
var optional = []string{bpf.NetguardProgOnConnectUnix, bpf.NetguardProgOnSendmsgUnix}

// Load attaches the guard, or takes over the one that is pinned in Options.PinDir. The calling thread must be in the network
// namespace in which raypherd listens.
func Load(o Options) (*Guard, error) {
	if len(o.Own) > MaxOwnPorts {
		return nil, fmt.Errorf("network guard: %d own ports: at most %d", len(o.Own), MaxOwnPorts)
	}
	for _, own := range o.Own {
		if a := own.Addr().Unmap(); a != loopback4 && a != netip.IPv6Loopback() { // the programs know no other
			return nil, fmt.Errorf("network guard: raypherd listens at %v: agents reach it at 127.0.0.1 and ::1 alone", own)
		}
	}
	g := &Guard{options: o, hosts: hosts.Open(cmp.Or(o.Hosts, hosts.Path)), names: map[uint64]int{}, opened: map[uint64]map[netip.Addr]string{}, lent: map[uint64]loans{}, cuts: map[uint64][]Cut{}, networks: map[uint64]*policy.Network{}, indexed: map[uint64]hostRules{}, servers: map[uint64]int{}, attached: map[uint64][]link.Link{}, stop: make(chan struct{})}
	if err := g.load(); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Guard) load() error {
	spec, err := bpf.LoadNetguard()
	if err != nil {
		return explain("network guard: reading the built-in programs", err)
	}
	// The optional programs need the kernel's types, which take longest to read: that goes on meanwhile.
	types := btf.NewCache()
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = types.Kernel() }) // where it fails, loadOptional says so
	defer reading.Wait()
	if err := g.configure(spec); err != nil {
		return err
	}
	if err := g.preparePins(); err != nil {
		return err
	}
	core, err := g.loadCore(spec)
	if err != nil {
		return err
	}
	defer core.Close()
	g.shared = maps.Clone(core.Maps) // Assign takes them out
	maps.DeleteFunc(g.shared, func(name string, _ *ebpf.Map) bool { return strings.HasPrefix(name, ".") })
	if err := core.Assign(&g.maps); err != nil {
		return explain("network guard: maps", err)
	}
	if g.slots, err = newSlots(g.maps.Slots, spec.Maps[bpf.NetguardMapSlots].InnerMap, g.maps.Agents); err != nil {
		return err
	}
	g.reply = spec.Maps[bpf.NetguardMapReplies].InnerMap
	if err := g.setTerms(); err != nil {
		return err
	}
	for _, name := range coreOrder(core) {
		if err := g.attach(name, core.Programs[name], spec.Programs[name].AttachType); err != nil {
			return explain("network guard: attaching "+name, err)
		}
	}
	reading.Wait()
	g.loadOptional(spec, g.shared, types)
	if err := g.countNames(); err != nil {
		return err
	}
	g.done.Go(g.background)
	return nil
}

// configure sets what the programs must know: how deep the agents' cgroups lie, and what of raypherd they may reach.
func (g *Guard) configure(spec *ebpf.CollectionSpec) error {
	parent, depth, root, err := place(g.options.CgroupPath)
	if err != nil {
		return err
	}
	if g.base, err = depthOf(spec, root); err != nil {
		return err
	}
	if g.netns, err = netnsCookie(); err != nil {
		return err
	}
	return g.tell(spec, uint32(g.base+depth+1), parent)
}

// tell sets how deep the cgroups lie that the programs are for, and the id of the one above them.
func (g *Guard) tell(spec *ebpf.CollectionSpec, level uint32, above uint64) error {
	ports, families := [MaxOwnPorts]uint16{}, [MaxOwnPorts]uint8{}
	for i, own := range g.options.Own {
		ports[i], families[i] = own.Port(), 6
		if own.Addr().Unmap().Is4() {
			families[i] = 4
		}
	}
	for name, value := range map[string]any{
		bpf.NetguardVarAgentLevel:  level,
		bpf.NetguardVarParentId:    above,
		bpf.NetguardVarOwnNetns:    g.netns,
		bpf.NetguardVarDnsPort:     g.options.DNSPort,
		bpf.NetguardVarGatewayPort: g.options.GatewayPort,
		bpf.NetguardVarOwnPorts:    ports,
		bpf.NetguardVarOwnFamilies: families,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("network guard: setting %s: %w", name, err)
		}
	}
	return nil
}

// place returns the id of a cgroup2 folder, its depth below the mount, and the id of the mount's root.
func place(path string) (id uint64, depth int, root uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, 0, 0, fmt.Errorf("network guard: cgroup %s: %w", path, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return 0, 0, 0, fmt.Errorf("network guard: cgroup %s: not in a cgroup2 file system: `raypher doctor` shows where one is mounted", path)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, 0, fmt.Errorf("network guard: cgroup %s: %w", path, err)
	}
	id, root = st.Ino, st.Ino // a cgroup's id is its inode number (kernfs)
	for dir := filepath.Dir(filepath.Clean(path)); ; dir = filepath.Dir(dir) {
		var up unix.Stat_t
		if err := unix.Stat(dir, &up); err != nil || up.Dev != st.Dev {
			return id, depth, root, nil
		}
		depth++
		root = up.Ino
		if dir == "/" {
			return id, depth, root, nil
		}
	}
}

// depthOf asks the kernel how deep the root of the mounted hierarchy lies. That is 0 but in a cgroup namespace.
func depthOf(spec *ebpf.CollectionSpec, root uint64) (int, error) {
	const what = "network guard: finding the depth of the cgroup hierarchy"
	own := spec.Copy()
	for name := range own.Programs {
		if name != bpf.NetguardProgListAncestors {
			delete(own.Programs, name)
		}
	}
	for name := range own.Maps {
		if !strings.HasPrefix(name, ".") {
			delete(own.Maps, name)
		}
	}
	c, err := ebpf.NewCollection(own)
	if err != nil {
		return 0, explain(what, err)
	}
	defer c.Close()
	if _, err := c.Programs[bpf.NetguardProgListAncestors].Run(&ebpf.RunOptions{}); err != nil {
		return 0, explain(what, err)
	}
	var ids [32]uint64
	if err := c.Variables[bpf.NetguardVarAncestors].Get(&ids); err != nil {
		return 0, explain(what, err)
	}
	for depth, id := range ids {
		if id == root {
			return depth, nil
		}
	}
	return 0, fmt.Errorf("%s: this process is not in the hierarchy that is mounted: start it in the host's cgroup namespace", what)
}

// netnsCookie identifies the network namespace of the calling thread (SO_NETNS_COOKIE, Linux 5.14).
func netnsCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("network guard: finding the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("network guard: finding the network namespace: %w", err)
	}
	return cookie, nil
}

// loadCore loads all but the optional programs, on pinned maps where there are some.
func (g *Guard) loadCore(spec *ebpf.CollectionSpec) (*ebpf.Collection, error) {
	own := spec.Copy()
	delete(own.Programs, bpf.NetguardProgListAncestors)
	for _, name := range optional {
		delete(own.Programs, name)
	}
	options := ebpf.CollectionOptions{}
	if g.pinned {
		options.Maps.PinPath = g.options.PinDir
		for name, m := range own.Maps {
			if !strings.HasPrefix(name, ".") {
				m.Pinning = ebpf.PinByName
			}
		}
	}
	c, err := ebpf.NewCollectionWithOptions(own, options)
	return c, explain("network guard: loading", err)
}

// loadOptional loads and attaches the programs that a kernel may lack; what is missing becomes a note.
func (g *Guard) loadOptional(spec *ebpf.CollectionSpec, shared map[string]*ebpf.Map, types *btf.Cache) {
	own := spec.Copy()
	maps.DeleteFunc(own.Programs, func(name string, _ *ebpf.ProgramSpec) bool { return !slices.Contains(optional, name) })
	c, err := ebpf.NewCollectionWithOptions(own, ebpf.CollectionOptions{MapReplacements: shared, Cache: types})
	if err == nil {
		defer c.Close()
		for _, name := range optional {
			if err == nil {
				err = g.attach(name, c.Programs[name], spec.Programs[name].AttachType)
			}
		}
	}
	if err != nil {
		g.notes = append(g.notes, fmt.Sprintf("unix sockets are held by the broker alone: the network guard's hooks for them need Linux 6.7 with BTF: %v", firstLine(err)))
	}
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// Close lets go of the guard; what is pinned stays in force.
func (g *Guard) Close() error {
	g.stopOnce.Do(func() { close(g.stop) })
	g.done.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []error
	for _, l := range g.links {
		all = append(all, l.Close())
	}
	g.links = nil
	for _, links := range g.attached {
		for _, l := range links {
			all = append(all, l.Close())
		}
	}
	clear(g.attached)
	if g.slots != nil {
		g.slots.close()
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
		return fmt.Errorf("network guard: removing the pins: %w", err)
	}
	return nil
}
