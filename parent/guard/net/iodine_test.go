package netguard

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/dns"
	"github.com/raypher/raypher/policy"
)

// passOn is an upstream that asks the server of a zone, which lies in the far namespace, and notes how many names it was asked for.
type passOn struct {
	w  *world
	t  *testing.T
	to string

	mu    sync.Mutex
	names map[string]bool
}

func (p *passOn) ServeDNS(out mdns.ResponseWriter, q *mdns.Msg) {
	p.mu.Lock()
	p.names[strings.ToLower(q.Question[0].Name)] = true
	p.mu.Unlock()
	var conn net.Conn
	var err error
	p.w.in(p.t, p.w.far, func() { conn, err = net.DialTimeout("udp", p.to, time.Second) })
	if err != nil {
		return
	}
	defer conn.Close()
	c := &mdns.Client{Timeout: 2 * time.Second, UDPSize: 4096}
	if reply, _, err := c.ExchangeWithConn(q, &mdns.Conn{Conn: conn}); err == nil {
		_ = out.WriteMsg(reply)
	}
}

// TestIodine: a program that carries IP in questions and answers gets a tunnel to the server of a zone, and none as a governed agent, though
// every name of that zone is granted to it, whatever kind of records it asks for; of what it says, little leaves the host.
func TestIodine(t *testing.T) {
	const zone = "t.example.com"
	client, err := exec.LookPath("iodine")
	if err != nil {
		t.Skip("iodine is not installed: scripts/deps.sh")
	}
	server, err := exec.LookPath("iodined")
	if err != nil {
		t.Skip("iodined is not installed: scripts/deps.sh")
	}
	if tun, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
		t.Skipf("no interfaces for tunnels here: %v", err)
	} else {
		tun.Close()
	}
	w := newWorld(t)
	w.in(t, w.far, func() {
		cmd := exec.Command(server, "-f", "-c", "-P", "secret", "-l", far4.String(), "10.99.0.1", zone)
		must(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	})
	// Without detecting what would be faster (-m, -L, -I), and without datagrams beside DNS (-r).
	tunnel := func(t *testing.T, cgroup int, kind string) string {
		out, _ := w.runIn(t, cgroup, []string{"timeout", "5", client, "-f", "-r", "-4", "-m", "200", "-L", "0", "-I", "1", "-T", kind, "-P", "secret", far4.String(), zone})
		return out
	}
	const done = "Connection setup complete"
	up := &passOn{w: w, t: t, to: netip.AddrPortFrom(far4, 53).String(), names: map[string]bool{}}
	network := &policy.Network{Egress: []string{"*." + zone}}
	var a agent
	g, reports := w.names(t, up, func(id uint64) (dns.Agent, bool) {
		return dns.Agent{CgroupID: id, Network: network, Mode: policy.Enforce}, id == a.id
	})
	a = w.newAgent(t, "agent")
	arm(t, g, a, network, policy.Enforce)
	go func() {
		for range reports { // what is refused is said of each name
		}
	}()
	outside, err := unix.Open(filepath.Dir(w.cgroupPath), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(outside)
	t.Run("each", func(t *testing.T) {
		for _, kind := range []string{"NULL", "TXT", "CNAME", "A"} {
			t.Run(kind, func(t *testing.T) {
				t.Parallel()
				if out := tunnel(t, a.fd, kind); strings.Contains(out, done) || !strings.Contains(out, "version check") {
					t.Errorf("a tunnel, or nothing was tried:\n%s", out)
				}
			})
		}
		t.Run("without the guard", func(t *testing.T) {
			t.Parallel()
			if out := tunnel(t, outside, "A"); !strings.Contains(out, done) {
				t.Errorf("no tunnel either:\n%s", out)
			}
		})
	})
	up.mu.Lock()
	defer up.mu.Unlock()
	if len(up.names) == 0 || len(up.names) > 60 {
		t.Errorf("%d names reached the server of the zone", len(up.names))
	}
}
