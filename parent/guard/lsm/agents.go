package lsm

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/policy"
)

// ruling is what this process knows of an armed agent: its events are put into words with it.
type ruling struct {
	permit *policy.Policy
	files  *policy.Rules
}

// Arm gives an agent its rules, or replaces those it had. Its cgroup may hold processes only after this: before, they get
// nothing.
func (g *Guard) Arm(a Agent) error {
	if a.CgroupID == 0 || a.Permit == nil { // 0: what the kernel says of a process directly in the parent's folder
		return errors.New("file guard: arming an agent: it has no cgroup, or no permit")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	before, err := g.entry(a.CgroupID)
	if err != nil && !errors.Is(err, ErrUnknownAgent) {
		return err
	}
	entry := bpf.LsmguardAgent{Deadline: uint64(max(a.Deadline, 0)), Capabilities: a.Capabilities, Number: before.Number, Level: a.Level, Version: before.Version}
	if entry.Number == 0 {
		if entry.Number, err = g.freeNumber(); err != nil {
			return err
		}
	}
	if entry.Level == 0 {
		if err := g.level.Get(&entry.Level); err != nil {
			return explain("file guard: reading the state", err)
		}
	}
	if err := g.mark(a, entry.Number); err != nil {
		return err
	}
	return g.put(a.CgroupID, entry, a.Permit)
}

// Reload puts the rules of another permit in force at once, also for files that were opened under the old ones before: each
// call is judged by all of the old rules or all of the new ones.
func (g *Guard) Reload(cgroupID uint64, permit *policy.Policy) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	entry, err := g.entry(cgroupID)
	if err != nil {
		return err
	}
	return g.put(cgroupID, entry, permit)
}

// Extend moves the deadline of an armed agent.
func (g *Guard) Extend(cgroupID uint64, deadline int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	entry, err := g.entry(cgroupID)
	if err != nil {
		return err
	}
	earlier := uint64(max(deadline, 0)) < entry.Deadline
	entry.Deadline = uint64(max(deadline, 0))
	if err := g.maps.Agents.Update(cgroupID, entry, ebpf.UpdateExist); err != nil {
		return explain("file guard: extending an agent", err)
	}
	if earlier {
		return g.forgetVerdicts()
	}
	return nil
}

// Disarm removes an agent's entry: what still runs in its cgroup gets nothing.
func (g *Guard) Disarm(cgroupID uint64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	entry, err := g.entry(cgroupID)
	if errors.Is(err, ErrUnknownAgent) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := g.maps.Agents.Delete(cgroupID); err != nil {
		return explain("file guard: disarming an agent", err)
	}
	err = g.forgetVerdicts()
	g.tables.release(entry.Files)
	g.tables.release(entry.Sockets)
	err = errors.Join(err, remove(g.maps.Objects, func(k bpf.LsmguardObjectKey) bool { return k.Number == entry.Number }),
		remove(g.maps.Hashes, func(k bpf.LsmguardHashKey) bool { return k.Number == entry.Number }),
		remove(g.maps.Permits, func(k bpf.LsmguardPermitKey) bool { return k.Cgroup == cgroupID }))
	if e := g.maps.Counts.Delete(cgroupID); e != nil && !errors.Is(e, ebpf.ErrKeyNotExist) {
		err = errors.Join(err, explain("file guard: counters of an agent", e))
	}
	delete(g.rules, cgroupID)
	delete(g.told, cgroupID)
	return errors.Join(err, g.setAttached())
}

// Agents lists the armed cgroups, including those found in pinned maps.
func (g *Guard) Agents() []uint64 {
	var all []uint64
	var id uint64
	var a bpf.LsmguardAgent
	for it := g.maps.Agents.Iterate(); it.Next(&id, &a); {
		all = append(all, id)
	}
	slices.Sort(all)
	return all
}

// Counters returns the totals of one agent.
func (g *Guard) Counters(cgroupID uint64) (Counters, error) {
	var c bpf.LsmguardCounters
	if err := g.maps.Counts.Lookup(cgroupID, &c); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return Counters{}, fmt.Errorf("file guard: cgroup %d: %w", cgroupID, ErrUnknownAgent)
		}
		return Counters{}, explain("file guard: counters of an agent", err)
	}
	return Counters{Refused: c.Refused, WouldBlock: c.WouldBlock, Reported: c.Reported, Suppressed: c.Suppressed, Lost: c.Lost}, nil
}

// Permit lets an agent do what its rules ask a person about. It is in force when Permit returns.
func (g *Guard) Permit(grant Grant) error {
	if len(grant.Path) == 0 || len(grant.Path) > maxPath {
		return fmt.Errorf("file guard: permit for %q: a path has 1 to %d bytes", grant.Path, maxPath)
	}
	value := bpf.LsmguardPermit{Until: uint64(max(grant.Until, 0)), Thread: grant.Thread, Access: uint32(grant.Access), Length: uint32(len(grant.Path))}
	if grant.Once {
		value.Once = 1
	}
	for i := range len(grant.Path) {
		value.Path[i] = int8(grant.Path[i])
	}
	key := bpf.LsmguardPermitKey{Cgroup: grant.CgroupID, Path: pathSum(grant.Path)}
	err := g.maps.Permits.Put(key, value)
	if errors.Is(err, unix.E2BIG) {
		now := uint64(bootTime())
		err = errors.Join(remove(g.maps.Permits, func(k bpf.LsmguardPermitKey) bool {
			var p bpf.LsmguardPermit
			return g.maps.Permits.Lookup(k, &p) == nil && p.Until <= now
		}), g.maps.Permits.Put(key, value))
	}
	return explain("file guard: permit", err)
}

// Revoke takes a permit back. There need not be one.
func (g *Guard) Revoke(cgroupID uint64, path string) error {
	err := g.maps.Permits.Delete(bpf.LsmguardPermitKey{Cgroup: cgroupID, Path: pathSum(path)})
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return explain("file guard: permit", err)
}

// maxPath is PATH_BYTES of bpf/lsmguard/state.h.
const maxPath = 4096

// pathSum is path_sum of bpf/lsmguard/judge.h.
func pathSum(path string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(path)) // it never fails
	return h.Sum64()
}

func (g *Guard) entry(cgroupID uint64) (bpf.LsmguardAgent, error) {
	var a bpf.LsmguardAgent
	err := g.maps.Agents.Lookup(cgroupID, &a)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return a, fmt.Errorf("file guard: cgroup %d: %w", cgroupID, ErrUnknownAgent)
	}
	return a, explain("file guard: reading an agent", err)
}

// freeNumber is one that no agent has. It is taken at random, so that what an earlier agent left cannot be met again.
func (g *Guard) freeNumber() (uint32, error) {
	used := map[uint32]bool{0: true}
	var id uint64
	var a bpf.LsmguardAgent
	it := g.maps.Agents.Iterate()
	for it.Next(&id, &a) {
		used[a.Number] = true
	}
	if err := it.Err(); err != nil {
		return 0, explain("file guard: reading the agents", err)
	}
	for {
		if n := rand.Uint32(); !used[n] {
			return n, nil
		}
	}
}

// put lays out the tables, and then writes the entry that points there, which is the switch. Old verdicts end with it.
func (g *Guard) put(cgroupID uint64, entry bpf.LsmguardAgent, permit *policy.Policy) (err error) {
	old := entry
	if current, e := g.entry(cgroupID); e == nil {
		old = current
	} else {
		old.Files, old.Sockets = 0, 0
	}
	entry.Files, entry.Sockets, entry.Governed, entry.Kill, entry.Hashes = 0, 0, 0, 0, 0
	permit = permit.Denying(slices.Sorted(maps.Keys(g.absent)))
	defer func() {
		if err != nil {
			g.tables.release(entry.Files)
			g.tables.release(entry.Sockets)
		}
	}()
	if err = g.compile(&entry, permit); err != nil {
		return err
	}
	if err = g.maps.Counts.Update(cgroupID, bpf.LsmguardCounters{}, ebpf.UpdateNoExist); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return explain("file guard: arming an agent", err)
	}
	entry.Version = old.Version + 1
	if err = g.putHashes(&entry, permit); err != nil {
		return err
	}
	entry.Mode = modeNumber(permit.Mode)
	if permit.OnViolation == policy.Kill {
		entry.Kill = 1
	}
	g.rules[cgroupID] = &ruling{permit: permit, files: permit.FileRules()}
	if err = g.maps.Agents.Put(cgroupID, entry); err != nil {
		return explain("file guard: arming an agent", err)
	}
	if err := errors.Join(g.setAttached(), g.forgetVerdicts()); err != nil {
		return err
	}
	g.tables.release(old.Files)
	g.tables.release(old.Sockets)
	return remove(g.maps.Hashes, func(k bpf.LsmguardHashKey) bool { return k.Number == entry.Number && k.Version != entry.Version })
}

// compile lays out the tables of a permit.
func (g *Guard) compile(entry *bpf.LsmguardAgent, permit *policy.Policy) error {
	if permit.Filesystem != nil {
		table, err := permit.FileTable()
		if err != nil {
			return fmt.Errorf("file guard: %w", err)
		}
		if entry.Files, err = g.tables.put(table); err != nil {
			return err
		}
		entry.Governed = 1
	}
	if permit.Network == nil || len(permit.Network.Unix) == 0 {
		return nil
	}
	sockets := policy.Policy{Filesystem: &policy.Filesystem{Read: permit.Network.Unix}}
	table, err := sockets.FileTable()
	if err != nil {
		return fmt.Errorf("file guard: unix sockets: %w", err)
	}
	entry.Sockets, err = g.tables.put(table)
	return err
}

// putHashes writes the programs that the permit knows by content, under the entry's version.
func (g *Guard) putHashes(entry *bpf.LsmguardAgent, permit *policy.Policy) error {
	programs := permit.Filesystem.HashedPrograms()
	for _, path := range slices.Sorted(maps.Keys(programs)) {
		key := bpf.LsmguardHashKey{Number: entry.Number, Version: entry.Version, Path: pathSum(path)}
		if err := g.maps.Hashes.Put(key, bpf.LsmguardHash{Sha256: programs[path]}); err != nil {
			return explain("file guard: programs known by content", err)
		}
		entry.Hashes = 1
	}
	return nil
}

// setAttached tells the programs at which depths there are agents outside of Options.CgroupPath.
func (g *Guard) setAttached() error {
	var level, depths uint32
	if err := g.level.Get(&level); err != nil {
		return explain("file guard: reading the state", err)
	}
	var id uint64
	var a bpf.LsmguardAgent
	it := g.maps.Agents.Iterate()
	for it.Next(&id, &a) {
		if a.Level != level {
			depths |= 1 << a.Level
		}
	}
	if err := it.Err(); err != nil {
		return explain("file guard: reading the agents", err)
	}
	return explain("file guard: writing the state", g.depths.Set(depths))
}

// forgetVerdicts makes each verdict that inodes keep be decided again.
func (g *Guard) forgetVerdicts() error {
	_, err := g.forget.Run(&ebpf.RunOptions{})
	return explain("file guard: forgetting verdicts", err)
}

// remove deletes the entries of a map whose keys match.
func remove[K any](m *ebpf.Map, matches func(K) bool) error {
	var key, next K
	var old []K
	var at any
	for {
		if err := m.NextKey(at, &next); errors.Is(err, ebpf.ErrKeyNotExist) {
			break
		} else if err != nil {
			return explain("file guard: tidying up", err)
		}
		key = next
		if matches(key) {
			old = append(old, key)
		}
		at = key
	}
	for _, key := range old {
		if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return explain("file guard: tidying up", err)
		}
	}
	return nil
}

func modeNumber(m policy.Mode) bpf.LsmguardMode {
	switch m {
	case policy.Audit:
		return bpf.LsmguardModeMODE_AUDIT
	case policy.Permissive:
		return bpf.LsmguardModeMODE_PERMISSIVE
	}
	return bpf.LsmguardModeMODE_ENFORCE // also for what is unknown
}

// bootTime is CLOCK_BOOTTIME in nanoseconds.
func bootTime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 1<<63 - 1 // everything has expired
	}
	return ts.Nano()
}
