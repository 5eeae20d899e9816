package isolate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hostState is what was changed of the host for its wires, in a file that all raypherds share.
type hostState struct {
	Block    netip.Prefix
	Settings []setting // in the order in which they were changed
}

// setting is a value below /proc/sys/net as it was.
type setting struct{ Name, Was string }

// settings are the only names that a state file may put back: * is an interface.
var settings = []string{"ipv4/conf/all/accept_redirects", "ipv4/ip_forward", "ipv6/conf/*/accept_ra", "ipv6/conf/all/forwarding"}

const sysctls = "/proc/sys/net"

// change sets a value and notes what it was.
func (s *hostState) change(name, value string) error {
	path := filepath.Join(sysctls, name)
	was, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("net/%s: %w", name, err)
	}
	if strings.TrimSpace(string(was)) == value {
		return nil
	}
	s.Settings = append(s.Settings, setting{name, strings.TrimSpace(string(was))})
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("net/%s: %w", name, err)
	}
	return nil
}

// forward lets this host pass on what comes from wires and what is answered. An interface that learns its IPv6 routes from routers would
// forget them when the host becomes one itself, unless it is told not to (accept_ra 2, networking/ip-sysctl).
func (s *hostState) forward() error {
	note := func(name string) error { // changed along with ip_forward by the kernel (net/ipv4/devinet.c)
		was, err := os.ReadFile(filepath.Join(sysctls, name))
		if err == nil {
			s.Settings = append(s.Settings, setting{name, strings.TrimSpace(string(was))})
		}
		return err
	}
	if !isOn("ipv4/ip_forward") {
		if err := errors.Join(note("ipv4/conf/all/accept_redirects"), s.change("ipv4/ip_forward", "1")); err != nil {
			return err
		}
	}
	if !hasIPv6() || isOn("ipv6/conf/all/forwarding") {
		return nil
	}
	interfaces, err := os.ReadDir(filepath.Join(sysctls, "ipv6/conf"))
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		name := "ipv6/conf/" + i.Name() + "/accept_ra"
		if value, err := os.ReadFile(filepath.Join(sysctls, name)); err == nil && strings.TrimSpace(string(value)) == "1" {
			if err := s.change(name, "2"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return s.change("ipv6/conf/all/forwarding", "1")
}

func isOn(name string) bool {
	value, err := os.ReadFile(filepath.Join(sysctls, name))
	return err == nil && strings.TrimSpace(string(value)) != "0"
}

func hasIPv6() bool {
	_, err := os.Stat(filepath.Join(sysctls, "ipv6/conf/all/forwarding"))
	return err == nil && !isOn("ipv6/conf/all/disable_ipv6")
}

// restore puts back what was changed, the last first. An interface that is gone has nothing to put back.
func (s *hostState) restore() error {
	var all []error
	for i := len(s.Settings) - 1; i >= 0; i-- {
		one := s.Settings[i]
		if !known(one.Name) || len(one.Was) > 8 {
			all = append(all, fmt.Errorf("net/%.80q is nothing that was changed", one.Name))
			continue
		}
		err := os.WriteFile(filepath.Join(sysctls, one.Name), []byte(one.Was), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			all = append(all, fmt.Errorf("net/%s: %w", one.Name, err))
		}
	}
	return errors.Join(all...)
}

func known(name string) bool {
	for _, pattern := range settings {
		if ok, _ := filepath.Match(pattern, name); ok && !strings.Contains(name, "..") {
			return true
		}
	}
	return false
}

// host holds the lock on what all raypherds of a host share.
type host struct {
	folder string
	lock   *os.File
	state  *hostState // nil: nothing is changed
}

const (
	stateFile = "host.json"
	lockFile  = "lock"
)

// openHost waits for the lock. Close the result.
func openHost(folder string) (*host, error) {
	folder, err := folderOf(folder)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("folder of what isolated agents share: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(folder, lockFile), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	h := &host{folder: folder, lock: lock}
	for {
		if err = unix.Flock(int(lock.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		err = h.read()
	}
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s: %w", lock.Name(), err)
	}
	return h, nil
}

// folderOf is the part of a folder for this network namespace, by its cookie, which no other one of this boot has (socket(7),
// SO_NETNS_COOKIE).
func folderOf(folder string) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("finding the network namespace: %w", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return "", fmt.Errorf("finding the network namespace: %w", err)
	}
	return filepath.Join(folder, strconv.FormatUint(cookie, 10)), nil
}

func (h *host) close() { h.lock.Close() }

func (h *host) read() error {
	content, err := os.ReadFile(filepath.Join(h.folder, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	h.state = &hostState{}
	return json.Unmarshal(content, h.state)
}

func (h *host) write() error {
	content, err := json.Marshal(h.state)
	if err != nil {
		return err
	}
	temporary := filepath.Join(h.folder, stateFile+".new")
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(h.folder, stateFile))
}

// prepare makes the host ready for wires. What was is written down before anything is changed, so that a kill in between loses nothing.
func (h *host) prepare(log *slog.Logger) (netip.Prefix, error) {
	if h.state != nil {
		return h.state.Block, nil
	}
	block, err := chooseBlock()
	if err != nil {
		return block, err
	}
	h.state = &hostState{Block: block}
	planned := &hostState{Block: block}
	for _, name := range settings {
		paths, _ := filepath.Glob(filepath.Join(sysctls, name))
		for _, path := range paths {
			if was, err := os.ReadFile(path); err == nil {
				planned.Settings = append(planned.Settings, setting{path[len(sysctls)+1:], strings.TrimSpace(string(was))})
			}
		}
	}
	changed := h.state
	h.state = planned
	err = h.write()
	h.state = changed
	routed := isOn("ipv4/ip_forward") || isOn("ipv6/conf/all/forwarding")
	if err == nil {
		var bounded bool
		if bounded, err = putTable(block, routed); err == nil && !bounded {
			log.Warn("this kernel does not count connections for nftables (nft_connlimit): one isolated agent can fill the host's table of them")
		}
	}
	if err == nil {
		err = h.state.forward()
	}
	if err == nil {
		err = h.write()
	}
	if err != nil {
		return block, errors.Join(err, h.release())
	}
	return block, nil
}

// release puts the host back, if no wire of any raypherd is left.
func (h *host) release() error {
	if h.state == nil {
		return nil
	}
	left, err := wires()
	if err != nil || len(left) > 0 {
		return err
	}
	if err := errors.Join(h.state.restore(), dropTable()); err != nil {
		return fmt.Errorf("putting back what was changed for isolated agents: %w", err)
	}
	h.state = nil
	return os.Remove(filepath.Join(h.folder, stateFile))
}

// wirePrefix begins the names of all host ends; the agent's id follows, of 12 characters.
const wirePrefix = "ry-"

// wires are the host ends of all raypherds in this namespace: the agents' ids by index.
func wires() (map[int]string, error) {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("interfaces of this host: %w", err)
	}
	all := map[int]string{}
	for _, l := range links {
		if id, ok := strings.CutPrefix(l.Attrs().Name, wirePrefix); ok && l.Type() == "veth" && strings.HasPrefix(l.Attrs().Alias, alias("")) {
			all[l.Attrs().Index] = id
		}
	}
	return all, nil
}
