package netguard

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/bpf"
)

const (
	// maxNames bounds the addresses that names of one agent hold at a time, so that no agent takes all of the map.
	maxNames = 2048
	// nameKept is how long an expired address is kept, so that a flow which it opened survives a change of the rules.
	nameKept = time.Hour
)

// ErrNotGranted says that the agent's rules do not, or no longer, open an address by a name, or ask a person about it.
var ErrNotGranted = errors.New("the agent's rules do not grant it")

// GrantName opens new flows to an address for ttl, because the granted name resolved to it. Port 0 is every port. A name that an operator
// has cut opens nothing: the error is ErrCut. Neither does one that the rules of now do not grant (ErrNotGranted): they may have been
// narrowed while its server was asked.
func (g *Guard) GrantName(cgroupID uint64, name string, addr netip.Addr, port uint16, ttl time.Duration) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, err := g.entry(cgroupID); err != nil {
		return err
	}
	if !g.opensStill(cgroupID, name, addr.Unmap(), port) {
		return fmt.Errorf("network guard: %s at %v: %w", name, addr, ErrNotGranted)
	}
	return g.grantName(cgroupID, name, addr, port, uint64(bootTime()+ttl.Nanoseconds()), g.ruleOfName(cgroupID, name, port))
}

// grantName is GrantName until a time, by a rule. g.mu is held.
func (g *Guard) grantName(cgroupID uint64, name string, addr netip.Addr, port uint16, expires uint64, rule bpf.NetguardRuleId) error {
	words, family := addressWords(addr)
	key := bpf.NetguardNameKey{Cgroup: cgroupID, Addr: words, Port: networkOrder(port), Family: family}
	var grant, before bpf.NetguardNameGrant
	if len(name) >= len(grant.Name) {
		return fmt.Errorf("network guard: a name of %d bytes: at most %d", len(name), len(grant.Name)-1)
	}
	grant.Expires, grant.Rule, grant.Server = expires, uint32(rule), serverHash(name)
	for i := range len(name) {
		grant.Name[i] = int8(name[i])
	}
	err := g.maps.Names.Lookup(key, &before)
	cut := g.isCut(cgroupID, name)
	switch {
	case cut && err == nil && int64(before.Expires) > bootTime() && !g.isCut(cgroupID, text(before.Name[:])):
		return fmt.Errorf("network guard: %s: %w", name, ErrCut) // the address is another name's as well
	case err == nil:
		grant.Expires = max(grant.Expires, before.Expires)
	case !errors.Is(err, ebpf.ErrKeyNotExist):
		return explain("network guard: granting a name's address", err)
	case g.names[cgroupID] >= maxNames:
		if n, err := g.dropExpired(cgroupID, 0); err != nil || n == 0 {
			return errors.Join(fmt.Errorf("network guard: %w: %d addresses of names for one agent", ErrFull, maxNames), err)
		}
		fallthrough
	default:
		g.names[cgroupID]++
	}
	if err := g.grantServer(cgroupID, grant); err != nil {
		return err
	}
	err = explain("network guard: granting a name's address", g.maps.Names.Put(key, grant))
	if err == nil {
		g.noteOpened(cgroupID, addr.Unmap(), name)
	}
	if err == nil && cut { // from now on the address is known as one that is cut
		err = errors.Join(fmt.Errorf("network guard: %s: %w", name, ErrCut), g.cutNames(cgroupID))
	}
	return err
}

// grantServer lets the agent's TLS streams to addresses of names ask for this one.
func (g *Guard) grantServer(cgroupID uint64, grant bpf.NetguardNameGrant) error {
	key := bpf.NetguardServerKey{Cgroup: cgroupID, Name: grant.Name}
	var before uint64
	err := g.maps.Servers.Lookup(key, &before)
	switch {
	case errors.Is(err, ebpf.ErrKeyNotExist) && g.servers[cgroupID] >= maxNames:
		if err := g.dropExpiredServers(cgroupID, 0); err != nil {
			return err
		}
		if g.servers[cgroupID] >= maxNames {
			return fmt.Errorf("network guard: %w: %d names for one agent", ErrFull, maxNames)
		}
		g.servers[cgroupID]++
	case errors.Is(err, ebpf.ErrKeyNotExist):
		g.servers[cgroupID]++
	case err != nil:
		return explain("network guard: granting a name", err)
	}
	return explain("network guard: granting a name", g.maps.Servers.Put(key, max(before, grant.Expires)))
}

// dropNames removes an agent's names, and their addresses, that keep does not want, and says how many addresses that were.
func (g *Guard) dropNames(cgroupID uint64, keep keepName) (int, error) {
	if g.servers[cgroupID] > 0 {
		if err := g.dropServers(func(k bpf.NetguardServerKey, expires uint64) bool {
			return k.Cgroup == cgroupID && !keep(text(k.Name[:]), netip.Addr{}, 0, expires)
		}); err != nil {
			return 0, err
		}
	}
	if g.names[cgroupID] == 0 {
		return 0, nil
	}
	return g.dropWhere(func(k bpf.NetguardNameKey, v bpf.NetguardNameGrant) bool {
		return k.Cgroup == cgroupID && !keep(text(v.Name[:]), addressOf(k.Addr, k.Family), networkOrder(k.Port), v.Expires)
	})
}

// dropExpired removes what expired longer than kept ago; cgroupID 0 is every agent.
func (g *Guard) dropExpired(cgroupID uint64, kept time.Duration) (int, error) {
	now := bootTime()
	if err := g.dropExpiredServers(cgroupID, kept); err != nil {
		return 0, err
	}
	return g.dropWhere(func(k bpf.NetguardNameKey, v bpf.NetguardNameGrant) bool {
		return (cgroupID == 0 || k.Cgroup == cgroupID) && int64(v.Expires)+kept.Nanoseconds() < now
	})
}

func (g *Guard) dropWhere(drop func(bpf.NetguardNameKey, bpf.NetguardNameGrant) bool) (int, error) {
	var k bpf.NetguardNameKey
	var v bpf.NetguardNameGrant
	var old []bpf.NetguardNameKey
	it := g.maps.Names.Iterate()
	for it.Next(&k, &v) {
		if drop(k, v) {
			old = append(old, k)
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return 0, explain("network guard: reading the addresses of names", err)
	}
	for _, k := range old {
		if err := g.maps.Names.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return 0, explain("network guard: removing the address of a name", err)
		}
		delete(g.opened[k.Cgroup], addressOf(k.Addr, k.Family))
		if g.names[k.Cgroup]--; g.names[k.Cgroup] <= 0 {
			delete(g.names, k.Cgroup)
			delete(g.opened, k.Cgroup)
		}
	}
	return len(old), nil
}

// dropExpiredServers is dropExpired for the names themselves.
func (g *Guard) dropExpiredServers(cgroupID uint64, kept time.Duration) error {
	now := bootTime()
	return g.dropServers(func(k bpf.NetguardServerKey, expires uint64) bool {
		return (cgroupID == 0 || k.Cgroup == cgroupID) && int64(expires)+kept.Nanoseconds() < now
	})
}

// dropServers is dropWhere for the names themselves.
func (g *Guard) dropServers(drop func(k bpf.NetguardServerKey, expires uint64) bool) error {
	var k bpf.NetguardServerKey
	var expires uint64
	var old []bpf.NetguardServerKey
	it := g.maps.Servers.Iterate()
	for it.Next(&k, &expires) {
		if drop(k, expires) {
			old = append(old, k)
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return explain("network guard: reading names", err)
	}
	for _, k := range old {
		if err := g.maps.Servers.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return explain("network guard: removing a name", err)
		}
		if g.servers[k.Cgroup]--; g.servers[k.Cgroup] <= 0 {
			delete(g.servers, k.Cgroup)
		}
	}
	return nil
}

// countNames finds the names that an earlier raypherd left in the pinned map.
func (g *Guard) countNames() error {
	if err := g.dropServers(func(k bpf.NetguardServerKey, _ uint64) bool {
		g.servers[k.Cgroup]++
		return false
	}); err != nil {
		return err
	}
	_, err := g.dropWhere(func(k bpf.NetguardNameKey, v bpf.NetguardNameGrant) bool {
		g.names[k.Cgroup]++
		g.noteOpened(k.Cgroup, addressOf(k.Addr, k.Family), text(v.Name[:]))
		return false
	})
	return err
}

// noteOpened keeps by which name an address was opened. As many are kept as addresses of names are. g.mu is held, or the guard is loading.
func (g *Guard) noteOpened(cgroupID uint64, addr netip.Addr, name string) {
	if g.opened[cgroupID] == nil {
		g.opened[cgroupID] = map[netip.Addr]string{}
	}
	g.opened[cgroupID][addr] = name
}

// nameOf is the name by which an address was opened to an agent; empty: none.
func (g *Guard) nameOf(cgroupID uint64, addr netip.Addr) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opened[cgroupID][addr]
}

// background keeps empty tries ready, follows the hosts file and forgets old addresses, until Close.
func (g *Guard) background() {
	refill, forget, follow := time.NewTicker(50*time.Millisecond), time.NewTicker(time.Minute), time.NewTicker(time.Second)
	defer follow.Stop()
	defer refill.Stop()
	defer forget.Stop()
	for {
		select {
		case <-g.stop:
			return
		case <-refill.C:
			g.mu.Lock()
			if len(g.slots.ready) < slotsLow {
				_ = g.slots.refill() // said by the Arm that finds none
			}
			g.mu.Unlock()
		case <-follow.C:
			g.followHosts()
		case <-forget.C:
			g.mu.Lock()
			_, _ = g.dropExpired(0, nameKept) // tried again in a minute; an expired address opens nothing
			g.mu.Unlock()
		}
	}
}

// bootTime is CLOCK_BOOTTIME in nanoseconds, the clock of every deadline in the kernel.
func bootTime() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // the clock has existed since 2.6.39
	}
	return t.Nano()
}

// text reads a C string.
func text(c []int8) string {
	b := make([]byte, len(c))
	for i := range c {
		b[i] = byte(c[i])
	}
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
