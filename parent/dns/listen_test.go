package dns

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fewPorts gives the test a network of its own, with loopback, in which the kernel offers the ports from first to last.
func fewPorts(t *testing.T, first, last int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	runtime.LockOSThread() // not unlocked: the thread, and the namespace with it, ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	loopback, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(loopback)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "%d %d", first, last), 0o644); err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, network, host string, port int) {
	t.Helper()
	l, err := net.Listen(network, fmt.Sprintf("%s:%d", host, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

// TestListenFindsTheFreePort: a port that is taken for TCP, or on IPv6 alone, is not tried twice: the only free one is found.
func TestListenFindsTheFreePort(t *testing.T) {
	const first, last, free = 40000, 40039, 40023
	fewPorts(t, first, last)
	for port := first; port <= last; port++ {
		switch {
		case port == free:
		case port%2 == 0:
			take(t, "tcp4", "127.0.0.1", port)
		default:
			take(t, "tcp6", "[::1]", port)
		}
	}
	s, err := Listen(Options{Upstreams: []string{"127.0.0.1:53"}})
	if err != nil {
		t.Fatal(err)
	}
	if s.Port() != free {
		t.Errorf("port %d, only %d is free", s.Port(), free)
	}
	if _, err := Listen(Options{Upstreams: []string{"127.0.0.1:53"}}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("without any port left: %v", err)
	}
	if _, err := Listen(Options{Upstreams: []string{"127.0.0.1:53"}, Port: first}); err == nil || !strings.Contains(err.Error(), "--dns-port") {
		t.Errorf("a port that was asked for and is taken: %v", err)
	}
	s.shut()
	s, err = Listen(Options{Upstreams: []string{"127.0.0.1:53"}, Port: free})
	if err != nil {
		t.Fatalf("the port is still held: %v", err)
	}
	s.shut()
}
