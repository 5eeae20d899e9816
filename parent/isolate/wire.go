package isolate

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/xdp"
)

// Wires are the wires of the isolated agents of one raypherd. Its methods may be called from several goroutines, on threads of the
// host's network namespace.
type Wires struct {
	// Folder is what all raypherds of this host share; only root may write it.
	Folder string
	// Owner is this raypherd, by its run folder: what it left is known by that.
	Owner string
	// Guard loads the program for host ends when the first wire needs it.
	Guard func(block4, block6 netip.Prefix) (*xdpguard.Guard, error)
	Log   *slog.Logger
}

// agentEnd is the name of the interface that an agent sees.
const agentEnd = "eth0"

// ErrNotOwn says that an agent's network namespace is not one of its own.
var ErrNotOwn = errors.New("the agent has no network namespace of its own")

// Connect makes the wire of an agent that is in ns, which nothing but its loopback may be in. What it could not provide is told in notes.
// On an error nothing is left.
func (w *Wires) Connect(id string, cgroupID uint64, ns *os.File) (notes []string, err error) {
	if err := checkOwn(ns); err != nil {
		return nil, err
	}
	h, err := openHost(w.Folder)
	if err != nil {
		return nil, err
	}
	defer h.close()
	block, err := h.prepare(w.Log)
	if err != nil {
		return nil, fmt.Errorf("the host's side of an isolated agent: %w", err)
	}
	c := &connecting{id: id, block: block, ns: ns}
	if err := c.make(w.Owner); err != nil {
		return nil, errors.Join(err, c.undo(), h.release())
	}
	notes, err = w.hold(c, cgroupID)
	if err == nil {
		err = c.up()
	}
	if err != nil {
		return nil, errors.Join(err, c.undo(), h.release())
	}
	return notes, nil
}

// Again puts this raypherd's program at the wire of an agent that an earlier one connected.
func (w *Wires) Again(id string, cgroupID uint64) error {
	h, err := openHost(w.Folder)
	if err != nil {
		return err
	}
	defer h.close()
	link, err := netlink.LinkByName(wirePrefix + id)
	if err != nil {
		return fmt.Errorf("the wire of agent %s: %w", id, err)
	}
	block, err := h.prepare(w.Log)
	if err != nil {
		return err
	}
	neighbours, err := netlink.NeighList(link.Attrs().Index, unix.AF_INET)
	if err != nil || len(neighbours) != 1 {
		return fmt.Errorf("the wire of agent %s: who is at its other end is not known: %w", id, err)
	}
	c := &connecting{id: id, block: block, link: link, hostMAC: link.Attrs().HardwareAddr, agentMAC: neighbours[0].HardwareAddr}
	c.address()
	_, err = w.hold(c, cgroupID)
	return err
}

// Disconnect forgets the wire of an agent that has ended. The kernel has taken it away with the namespace, unless a process that is no
// agent's is still there.
func (w *Wires) Disconnect(id string, cgroupID uint64) error {
	h, err := openHost(w.Folder)
	if err != nil {
		return err
	}
	defer h.close()
	if link, e := netlink.LinkByName(wirePrefix + id); e == nil {
		if e := netlink.LinkDel(link); e != nil && !errors.Is(e, unix.ENODEV) {
			err = fmt.Errorf("the wire of agent %s: %w", id, e)
		}
	}
	return errors.Join(err, h.release())
}

// Clean removes the wires of this raypherd's earlier runs but those of agents that go on, and what is left of the host's changes where
// nobody has a wire any more.
func (w *Wires) Clean(goesOn func(id string) bool) error {
	folder, err := folderOf(w.Folder)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(folder, stateFile)); errors.Is(err, os.ErrNotExist) {
		return nil // nobody was ever isolated here
	}
	h, err := openHost(w.Folder)
	if err != nil {
		return err
	}
	defer h.close()
	left, err := wires()
	if err != nil {
		return err
	}
	var all []error
	for index, id := range left {
		link, err := netlink.LinkByIndex(index)
		if err != nil || link.Attrs().Alias != w.alias() || goesOn(id) {
			continue
		}
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			all = append(all, fmt.Errorf("the wire of agent %s: %w", id, err))
		}
	}
	return errors.Join(append(all, h.release())...)
}

func (w *Wires) alias() string { return alias(w.Owner) }

func alias(owner string) string { return "raypherd " + owner }

// hold puts the program at the host end.
func (w *Wires) hold(c *connecting, cgroupID uint64) (notes []string, err error) {
	g, err := w.Guard(c.block, block6)
	if err != nil {
		return nil, err
	}
	native, err := g.Attach(c.link, xdpguard.Wire{
		CgroupID: cgroupID, Agent4: c.v4.agent, Host4: c.v4.host, Agent6: c.v6.agent, Host6: c.v6.host,
		AgentMAC: c.agentMAC, HostMAC: c.hostMAC,
	})
	if err == nil && !native {
		notes = append(notes, "the wire of this agent is held by generic XDP: this kernel's veth has none of its own")
	}
	return notes, err
}

// connecting is one wire.
type connecting struct {
	id                string
	block             netip.Prefix
	ns                *os.File
	link              netlink.Link // host end
	hostMAC, agentMAC net.HardwareAddr
	v4, v6            pair // v6 is not valid where the host has none
}

func (c *connecting) address() {
	c.v4 = pairIn(c.block, c.link.Attrs().Index)
	if hasIPv6() {
		c.v6 = pairIn(block6, c.link.Attrs().Index)
	}
}

func randomMAC() net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = mac[0]&^1 | 2 // one station's, locally administered (IEEE 802 section 8.4)
	return mac
}

// make makes both ends, down and without addresses.
func (c *connecting) make(owner string) error {
	c.hostMAC, c.agentMAC = randomMAC(), randomMAC()
	name := wirePrefix + c.id
	err := netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: c.hostMAC, NumTxQueues: 1, NumRxQueues: 1}, // XDP sees no queue that this end lacks
		PeerName:  agentEnd, PeerHardwareAddr: c.agentMAC, PeerNamespace: netlink.NsFd(int(c.ns.Fd())),
	})
	if err == nil {
		c.link, err = netlink.LinkByName(name)
	}
	if err == nil {
		err = netlink.LinkSetAlias(c.link, alias(owner))
	}
	if err != nil {
		return fmt.Errorf("the wire of agent %s: %w", c.id, err)
	}
	c.address()
	return nil
}

func (c *connecting) undo() error {
	if c.link == nil {
		return nil
	}
	if err := netlink.LinkDel(c.link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("taking back the wire of agent %s: %w", c.id, err)
	}
	return nil
}

// up gives both ends their addresses and routes and brings them up: the agent's last, so that nothing is sent before the other end
// is held.
func (c *connecting) up() error {
	quiet(wirePrefix + c.id)
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer host.Close()
	if err := c.end(host, c.link, true); err != nil {
		return fmt.Errorf("the wire of agent %s: its host end: %w", c.id, err)
	}
	err = inside(c.ns, func() error {
		quiet(agentEnd)
		own, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer own.Close()
		for _, name := range []string{"lo", agentEnd} {
			link, err := own.LinkByName(name)
			if err == nil && name == "lo" {
				err = own.LinkSetUp(link)
			} else if err == nil {
				err = c.end(own, link, false)
			}
			if err != nil {
				return err
			}
		}
		return ready(own, agentEnd)
	})
	if err == nil {
		err = ready(host, wirePrefix+c.id)
	}
	if err != nil {
		return fmt.Errorf("the wire of agent %s: its end inside: %w", c.id, err)
	}
	return nil
}

// readyWait bounds how long the kernel may take to open the queues of both ends, which it does a little after they came up. What is sent
// before is lost, and a stream's first segment is sent again a second later only.
const readyWait = time.Second

func ready(h *netlink.Handle, name string) error {
	for end := time.Now().Add(readyWait); ; time.Sleep(time.Millisecond) {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp || time.Now().After(end) {
			return nil // or it is late: what is lost is sent again
		}
	}
}

// end configures one end. Who is at the other one is told to the kernel, which then never has to ask.
func (c *connecting) end(h *netlink.Handle, link netlink.Link, isHost bool) error {
	for _, p := range []pair{c.v4, c.v6} {
		if !p.agent.IsValid() {
			continue
		}
		own, other, mac := p.agent, p.host, c.hostMAC
		if isHost {
			own, other, mac = p.host, p.agent, c.agentMAC
		}
		if err := h.AddrAdd(link, &netlink.Addr{IPNet: prefix(own), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("address %v: %w", own, err)
		}
		err := h.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: other.AsSlice(), HardwareAddr: mac})
		if err != nil {
			return fmt.Errorf("neighbour %v: %w", other, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return err
	}
	if isHost {
		return nil
	}
	for _, p := range []pair{c.v4, c.v6} {
		if !p.agent.IsValid() {
			continue
		}
		all := &net.IPNet{IP: make(net.IP, p.host.BitLen()/8), Mask: net.CIDRMask(0, p.host.BitLen())}
		if err := h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all, Gw: p.host.AsSlice()}); err != nil {
			return fmt.Errorf("route by %v: %w", p.host, err)
		}
	}
	return nil
}

// quiet keeps an interface of this namespace from making addresses and routes by itself. Where a kernel lacks a setting, what it does is
// dropped at the wire.
func quiet(name string) {
	for setting, value := range map[string]string{"addr_gen_mode": "1", "accept_ra": "0", "accept_dad": "0", "router_solicitations": "0"} {
		_ = os.WriteFile(filepath.Join(sysctls, "ipv6/conf", name, setting), []byte(value), 0)
	}
}

// inside does something in a network namespace, and comes back. A thread that could not come back would be of no use elsewhere.
func inside(ns *os.File, do func() error) error {
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer before.Close()
	if err := netns.Set(netns.NsHandle(ns.Fd())); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter the agent's network namespace: %w", err)
	}
	err = do()
	if back := netns.Set(before); back != nil {
		return errors.Join(err, fmt.Errorf("leave the agent's network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

// checkOwn says whether ns is a network namespace with nothing but its loopback, and not this process's.
func checkOwn(ns *os.File) error {
	here, err := netns.Get()
	if err != nil {
		return err
	}
	defer here.Close()
	if here.Equal(netns.NsHandle(ns.Fd())) {
		return ErrNotOwn
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("the agent's network namespace: %w", err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("the agent's network namespace: %w", err)
	}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			return fmt.Errorf("%w: interface %s is in it already", ErrNotOwn, l.Attrs().Name)
		}
	}
	return nil
}
