package stage

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// The addresses and names of the hosts. They exist only inside the demonstration's namespaces.
const (
	GrantedName  = "granted.test"
	AttackerName = "attacker.test" // and everything below it

	granted4, granted6   = "10.66.1.2/24", "fd66:1::2/64"
	attacker4, attacker6 = "10.66.2.2/24", "fd66:2::2/64"
	metadata4            = "169.254.169.254/24" // where clouds tell a machine's credentials; here the attacker's host answers
)

// hostPlan is what a host is told about itself, one JSON line on its standard input.
type hostPlan struct {
	Name      string         `json:"name"`
	Interface string         `json:"interface"`
	Addresses []netip.Prefix `json:"addresses"`
	Gateways  []netip.Addr   `json:"gateways"`
}

// Arrival is something that reached a host.
type Arrival struct {
	Host    string `json:"host"`
	Network string `json:"network"` // tcp, udp, dns: what a listener read; packet: what crossed the interface
	Text    string `json:"text"`
}

// Hosts are the other machines: one that the policy grants, which is the resolver too, and the attacker's.
type Hosts struct {
	links    []string
	children []*hostChild

	mu       sync.Mutex
	arrivals []Arrival
}

type hostChild struct {
	cmd   *exec.Cmd
	stdin io.Closer
	read  chan struct{} // closed when its output has ended
}

// OpenHosts starts both hosts, joins them to this namespace, and makes the granted one the resolver of this namespace.
func OpenHosts() (*Hosts, error) {
	hosts := new(Hosts)
	plans := []hostPlan{
		{Name: "granted", Interface: "granted0", Addresses: prefixes(granted4, granted6)},
		{Name: "attacker", Interface: "attacker0", Addresses: prefixes(attacker4, attacker6, metadata4)},
	}
	for _, plan := range plans {
		if err := hosts.add(plan); err != nil {
			hosts.Close()
			return nil, fmt.Errorf("host %s: %w", plan.Name, err)
		}
	}
	return hosts, nil
}

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// add starts one host and waits until it listens. This end of its link gets the first address of each network.
func (h *Hosts) add(plan hostPlan) error {
	near := plan.Name + "-gw"
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: near}, PeerName: plan.Interface}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make a link: %w", err)
	}
	h.links = append(h.links, near)
	for _, address := range plan.Addresses {
		gateway := address.Masked().Addr().Next()
		if !gateway.IsLinkLocalUnicast() {
			plan.Gateways = append(plan.Gateways, gateway)
		}
		if err := addAddress(near, netip.PrefixFrom(gateway, address.Bits())); err != nil {
			return err
		}
	}
	child, ready, err := h.start(plan)
	if err != nil {
		return err
	}
	peer, err := netlink.LinkByName(plan.Interface)
	if err != nil {
		return fmt.Errorf("the link's other end: %w", err)
	}
	if err := netlink.LinkSetNsPid(peer, child.cmd.Process.Pid); err != nil {
		return fmt.Errorf("hand the link over: %w", err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return fmt.Errorf("link up: %w", err)
	}
	select {
	case <-ready:
		return nil
	case <-child.read:
		return fmt.Errorf("it ended before it listened")
	case <-time.After(20 * time.Second):
		return fmt.Errorf("it does not listen after 20 s")
	}
}

// start runs the host's process. ready is closed when it listens.
func (h *Hosts) start(plan hostPlan) (child *hostChild, ready chan struct{}, err error) {
	cmd := again([]string{roleHost}, syscall.CLONE_NEWNET)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	child = &hostChild{cmd: cmd, stdin: stdin, read: make(chan struct{})}
	h.children = append(h.children, child)
	ready = make(chan struct{})
	go h.collect(stdout, child.read, ready)
	return child, ready, json.NewEncoder(stdin).Encode(plan)
}

// collect reads what a host records. Its first line says that it listens.
func (h *Hosts) collect(from io.Reader, done, ready chan struct{}) {
	defer close(done)
	lines := bufio.NewScanner(from)
	if !lines.Scan() {
		return
	}
	close(ready)
	for lines.Scan() {
		var arrival Arrival
		if json.Unmarshal(lines.Bytes(), &arrival) == nil {
			h.mu.Lock()
			h.arrivals = append(h.arrivals, arrival)
			h.mu.Unlock()
		}
	}
}

// At returns what has arrived at a host so far.
func (h *Hosts) At(host string) []Arrival {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []Arrival
	for _, arrival := range h.arrivals {
		if arrival.Host == host {
			list = append(list, arrival)
		}
	}
	return list
}

// Close ends the hosts, after they have written down what was still on its way, and removes their links.
func (h *Hosts) Close() {
	for _, child := range h.children {
		child.stdin.Close()
		<-child.read
		// The exit status says nothing that its output has not said.
		_ = child.cmd.Wait()
	}
	h.children = nil
	for _, name := range h.links {
		if link, err := netlink.LinkByName(name); err == nil {
			_ = netlink.LinkDel(link) // gone already when its other end was
		}
	}
	h.links = nil
}

// addAddress gives an interface an address that is usable at once (no duplicate address detection).
func addAddress(name string, prefix netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	address, err := netlink.ParseAddr(prefix.String())
	if err != nil {
		return err
	}
	if prefix.Addr().Is6() {
		address.Flags = syscall.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(link, address); err != nil {
		return fmt.Errorf("address %s on %s: %w", prefix, name, err)
	}
	return nil
}

// resolverFile is what the C library and Go read.
const resolverFile = "/etc/resolv.conf"

// UseResolver makes this mount namespace use the granted host as its resolver, until dropResolver.
func UseResolver(scratch string) error {
	file := filepath.Join(scratch, "resolv.conf")
	address, _, _ := strings.Cut(granted4, "/")
	if err := os.WriteFile(file, []byte("nameserver "+address+"\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		return err
	}
	if err := syscall.Mount(file, resolverFile, "", syscall.MS_BIND, ""); err != nil {
		return fmt.Errorf("put the demonstration's resolver in place: %w", err)
	}
	return nil
}

func dropResolver() error {
	if err := syscall.Unmount(resolverFile, syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("take the demonstration's resolver away: %w", err)
	}
	return nil
}
