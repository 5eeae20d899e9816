package isolate

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// TestPieces: a datagram longer than the wire carries at once arrives where it may, over both families.
func TestPieces(t *testing.T) {
	w := newWorld(t)
	for _, a := range []netip.Addr{far4, far6} {
		w.serve(w.far, netip.AddrPortFrom(a, 80))
		w.serve(w.far, netip.AddrPortFrom(a, 81))
	}
	g := w.newGuest(&policy.Network{Egress: []string{far4.String() + ":80", "[" + far6.String() + "]:80"}})
	stack := w.stack(g)
	for _, a := range []netip.Addr{far4, far6} {
		if err := g.talk(t, "udp", netip.AddrPortFrom(a, 80), 5000); err != nil {
			t.Errorf("%v: %v", a, err)
		}
		stack.came()
		if err := g.talk(t, "udp", netip.AddrPortFrom(a, 81), 5000); err == nil {
			t.Errorf("%v: the other port answers", a)
		}
		if frames := stack.came(); len(frames) > 0 {
			t.Errorf("%v: pieces for the other port reached the stack: %v", a, frames)
		}
	}
}

// TestNames: the address of a name is open for new flows as long as the answer lives, and for open ones after that.
func TestNames(t *testing.T) {
	w := newWorld(t)
	at := netip.AddrPortFrom(far4, 80)
	w.serve(w.far, at)
	g := w.newGuest(&policy.Network{Egress: []string{"private a.example.com:80"}})
	if err := g.talk(t, "tcp", at, 1); err == nil {
		t.Fatal("open before the name was resolved")
	}
	must(t, w.guard.GrantName(g.cgroup, "a.example.com", far4, 80, 2*time.Second))
	var c net.Conn
	within(t, g.ns, func() {
		var err error
		c, err = net.DialTimeout("tcp", at.String(), time.Second)
		must(t, err)
	})
	defer c.Close()
	for end := time.Now().Add(5 * time.Second); g.talk(t, "tcp", at, 1) == nil && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if g.talk(t, "tcp", at, 1) == nil {
		t.Error("the answer has ended and new flows are still let by")
	}
	c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Errorf("a flow that was open: %v", err)
	}
}

// TestCloses: other rules count for open flows at once, and at the end of a visa everything does, without raypherd.
func TestCloses(t *testing.T) {
	w := newWorld(t)
	at, other := netip.AddrPortFrom(far4, 80), netip.AddrPortFrom(other4, 80)
	w.serve(w.far, at)
	w.serve(w.far, other)
	g := w.newGuest(&policy.Network{Egress: []string{at.String(), other.String()}})
	flow := func(to netip.AddrPort) (talks func() error) {
		var c net.Conn
		within(t, g.ns, func() {
			var err error
			c, err = net.DialTimeout("tcp", to.String(), time.Second)
			must(t, err)
		})
		t.Cleanup(func() { c.Close() })
		return func() error {
			c.SetDeadline(time.Now().Add(700 * time.Millisecond))
			if _, err := c.Write([]byte("x")); err != nil {
				return err
			}
			_, err := c.Read(make([]byte, 1))
			return err
		}
	}
	kept, lost := flow(at), flow(other)
	if err := errors.Join(kept(), lost()); err != nil {
		t.Fatal(err)
	}
	must(t, w.guard.Replace(g.cgroup, &policy.Network{Egress: []string{at.String()}}))
	if err := kept(); err != nil {
		t.Errorf("what is still granted: %v", err)
	}
	if lost() == nil {
		t.Error("an open flow outlives the rule that granted it")
	}
	must(t, w.guard.Renew(g.cgroup, bootTime()))
	if kept() == nil {
		t.Error("an open flow outlives the visa")
	}
}

// TestManyAtOnce: wires are made at the same time, each agent has its own rules, and none reaches another.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	const many = 16
	for i := range many {
		w.serve(w.far, netip.AddrPortFrom(far4, uint16(1000+i)))
	}
	guests := make([]guest, many)
	var making sync.WaitGroup
	for i := range many {
		n := &policy.Network{Egress: []string{fmt.Sprintf("%v:%d", far4, 1000+i), "0.0.0.0/0:9"}}
		making.Go(func() { guests[i] = w.newGuest(n) })
	}
	making.Wait()
	var addrs [many]netip.Addr
	for i, g := range guests {
		within(t, g.ns, func() {
			l, err := netlink.LinkByName(agentEnd)
			must(t, err)
			a, err := netlink.AddrList(l, netlink.FAMILY_V4)
			must(t, err)
			addrs[i], _ = netip.AddrFromSlice(a[0].IP.To4())
		})
		w.serve(g.ns, netip.AddrPortFrom(addrs[i], 9))
	}
	for i, g := range guests {
		if err := g.talk(t, "tcp", netip.AddrPortFrom(far4, uint16(1000+i)), 1); err != nil {
			t.Errorf("agent %d: %v", i, err)
		}
	}
	for _, i := range []int{0, 7} {
		if guests[i].talk(t, "tcp", netip.AddrPortFrom(far4, uint16(1000+i+1)), 1) == nil {
			t.Errorf("agent %d reaches what another was granted", i)
		}
		if guests[i].talk(t, "udp", netip.AddrPortFrom(addrs[i+1], 9), 1) == nil {
			t.Errorf("agent %d reaches another, by a rule for everything", i)
		}
	}
}

// hostNow is what can be seen of the host's network.
func (w *world) hostNow() (words []string) {
	w.t.Helper()
	within(w.t, w.host, func() {
		links, err := netlink.LinkList()
		must(w.t, err)
		for _, l := range links {
			words = append(words, "link "+l.Attrs().Name)
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		must(w.t, err)
		for _, r := range routes {
			if !strings.HasPrefix(fmt.Sprint(r.Dst), "fe80::") { // the kernel's own, which come when a link is ready
				words = append(words, fmt.Sprint("route ", r.Dst))
			}
		}
		for _, pattern := range append(settings, "ipv4/conf/*/forwarding", "ipv6/conf/*/forwarding") {
			names, _ := filepath.Glob(filepath.Join(sysctls, pattern))
			for _, name := range names {
				value, _ := os.ReadFile(name)
				words = append(words, name+"="+string(value))
			}
		}
		c, err := nftables.New()
		must(w.t, err)
		tables, err := c.ListTables()
		must(w.t, err)
		for _, one := range tables {
			words = append(words, "table "+one.Name)
		}
	})
	return words
}

// TestNothingIsLeft: after the last wire the host is as it was, whether its agent was disconnected, or everybody was killed and the next
// raypherd cleans up. What others have is left alone.
func TestNothingIsLeft(t *testing.T) {
	for _, tt := range []struct {
		name string
		ends func(w *world, g guest) error
	}{
		{"disconnected", func(w *world, g guest) error { return w.wires.Disconnect(g.id, g.cgroup) }},
		{"raypherd killed, its agents gone", func(w *world, g guest) error {
			return w.newWires(w.wires.Folder).Clean(func(string) bool { return false })
		}},
		{"the namespace gone", func(w *world, g guest) error {
			must(t, unix.Dup3(int(w.far), int(g.ns), unix.O_CLOEXEC)) // which closes the last descriptor of it
			gone := func() bool { return !strings.Contains(fmt.Sprint(w.hostNow()), wirePrefix+g.id) }
			for end := time.Now().Add(30 * time.Second); !gone() && time.Now().Before(end); {
				time.Sleep(50 * time.Millisecond) // one namespace after the other, of the whole machine
			}
			if !gone() {
				t.Error("the kernel leaves the wire of a namespace that is gone")
			}
			return w.newWires(w.wires.Folder).Clean(func(string) bool { return false })
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			within(t, w.host, func() { // a host that learns its routes from routers
				must(t, os.WriteFile(sysctls+"/ipv6/conf/uplink/accept_ra", []byte("1"), 0))
				must(t, os.WriteFile(sysctls+"/ipv4/conf/all/accept_redirects", []byte("1"), 0))
				must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ry-others"}, PeerName: "others"})) // no wire, for all its name
				c, err := nftables.New()
				must(t, err)
				c.AddTable(&nftables.Table{Name: "others", Family: nftables.TableFamilyINet})
				must(t, c.Flush())
			})
			before := w.hostNow()
			g := w.newGuest(&policy.Network{})
			if during := w.hostNow(); fmt.Sprint(during) == fmt.Sprint(before) {
				t.Fatal("a wire changes nothing: there is nothing to see here")
			}
			within(t, w.host, func() { must(t, w.wires.Clean(func(id string) bool { return id == g.id })) })
			within(t, w.host, func() {
				if _, err := netlink.LinkByName(wirePrefix + g.id); err != nil {
					t.Error("the wire of an agent that goes on was removed: ", err)
				}
				must(t, tt.ends(w, g))
			})
			if after := w.hostNow(); fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
			}
		})
	}
}

// TestTakenOver: the next raypherd's program takes the place of the last one's, without a moment in which nothing is held.
func TestTakenOver(t *testing.T) {
	w := newWorld(t)
	at := netip.AddrPortFrom(far4, 80)
	w.serve(w.far, at)
	w.serve(w.far, netip.AddrPortFrom(far4, 81))
	g := w.newGuest(&policy.Network{Egress: []string{at.String()}})
	first := w.xdp
	w.xdp = nil
	within(t, w.host, func() { must(t, w.newWires(w.wires.Folder).Again(g.id, g.cgroup)) })
	if w.xdp == first {
		t.Fatal("no new program was loaded")
	}
	if err := g.talk(t, "tcp", at, 1); err != nil {
		t.Error(err)
	}
	if g.talk(t, "udp", netip.AddrPortFrom(far4, 81), 1) == nil {
		t.Error("not held any more")
	}
	if d, err := w.xdp.Of(g.cgroup); err != nil || d.Packets == 0 {
		t.Errorf("the new program dropped %+v, %v", d, err)
	}
}

// TestNotItsOwn: an agent that shares a namespace, or brings one with something in it, gets no wire.
func TestNotItsOwn(t *testing.T) {
	w := newWorld(t)
	with := newNamespace(t)
	within(t, with, func() {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "way-out"}, PeerName: "out", PeerNamespace: netlink.NsFd(w.far)}))
	})
	for name, ns := range map[string]int{"the host's": int(w.host), "one with a way out": int(with)} {
		before := w.hostNow()
		within(t, w.host, func() {
			fd, err := unix.Dup(ns)
			must(t, err)
			if _, err := w.wires.Connect("0123456789ab", 5, os.NewFile(uintptr(fd), "netns")); !errors.Is(err, ErrNotOwn) {
				t.Errorf("%s: %v", name, err)
			}
		})
		if after := w.hostNow(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("%s: something is left: %v", name, after)
		}
	}
}
