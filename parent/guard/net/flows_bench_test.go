package netguard

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/policy"
)

// How often each side of a comparison takes its turn.
const turns = 31

// inTurns measures things against the first of them, in turns, and reports the median ratio of each.
func inTurns(b *testing.B, unit string, names []string, measure func(i int) float64) {
	ratios, all := make([][]float64, len(names)), make([][]float64, len(names))
	for turn := range turns {
		now := make([]float64, len(names))
		for i := range names { // who begins changes
			at := (i + turn) % len(names)
			now[at] = measure(at)
		}
		for i := range names {
			ratios[i] = append(ratios[i], now[i]/now[0])
			all[i] = append(all[i], now[i])
		}
	}
	for i, name := range names {
		b.ReportMetric(median(all[i]), unit+"/"+name)
		if i > 0 {
			b.ReportMetric(median(ratios[i]), name+"/"+names[0])
		}
	}
	b.ReportMetric(0, "ns/op")
}

// measured asks a probe for a number.
func measured(b *testing.B, p *probe, a action) float64 {
	o := p.do(a)
	n, err := strconv.ParseFloat(o.Data, 64)
	if o.Err != "" || err != nil {
		b.Fatalf("%s: %+v", a.Do, o)
	}
	return n
}

// answering serves TCP connections in a namespace: one byte for whatever comes first, and nothing for the rest.
func (w *world) answering(t testing.TB, a netip.AddrPort) {
	w.in(t, map[bool]netns.NsHandle{true: w.near, false: w.far}[a.Addr().IsLoopback()], func() {
		l, err := net.Listen("tcp", a.String())
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					room := make([]byte, 1<<20)
					if _, err := c.Read(room); err == nil {
						c.Write([]byte("."))
						io.CopyBuffer(io.Discard, struct{ io.Reader }{c}, room)
					}
				}()
			}
		}()
	})
}

// BenchmarkFlows measures a connection with a request and its answer, and the throughput of one stream, over loopback and a veth, governed
// and not, by the CPU time of the client: what other work on the machine changes least. A hello to an address that a name opened, whose
// server name is read, is compared with the same to one that a rule grants.
func BenchmarkFlows(b *testing.B) {
	for _, c := range []struct{ name, to string }{{"loopback", "127.0.0.1:8080"}, {"veth", "10.77.0.2:8080"}} {
		for _, what := range []struct {
			name, do string
			count    int
		}{{"connect and request", "bench-request", 300}, {"stream", "bench-stream", 32}} {
			b.Run(what.name+", "+c.name, func(b *testing.B) {
				w := newWorld(b)
				to := mustAddr(c.to)
				w.answering(b, to)
				g := w.load(b, Options{})
				a := w.newAgent(b, "agent")
				arm(b, g, a, &policy.Network{Egress: []string{c.to}}, policy.Enforce)
				probes := []*probe{w.startProbe(b, -1), w.startProbe(b, a.fd)}
				inTurns(b, "ns", []string{"ungoverned", "governed"}, func(i int) float64 {
					return measured(b, probes[i], action{Do: what.do, To: to, Data: strconv.Itoa(what.count)})
				})
			})
		}
	}
	b.Run("server name", func(b *testing.B) {
		w := newWorld(b)
		to := []netip.AddrPort{mustAddr("10.77.0.2:443"), mustAddr("10.77.1.2:443")}
		for _, one := range to {
			w.answering(b, one)
		}
		g := w.load(b, Options{})
		a := w.newAgent(b, "agent")
		arm(b, g, a, &policy.Network{Egress: []string{"10.77.0.2:443", "private a.example.com:443"}}, policy.Enforce)
		must(b, g.GrantName(a.id, "a.example.com", second4, 443, time.Hour))
		said := hex.EncodeToString(hello(b, &tls.Config{ServerName: "a.example.com"}))
		p := w.startProbe(b, a.fd)
		inTurns(b, "ns", []string{"by_rule", "by_name"}, func(i int) float64 {
			return measured(b, p, action{Do: "bench-request", To: to[i], Data: "300", Path: said})
		})
	})
}

// BenchmarkPrefixes compares the guard with a thousand prefixes with nftables that match the cgroup and a set of as many: by datagrams of
// one flow, which the guard decides once, and by datagrams to fresh ports, each of which is decided twice: in the call and as a packet.
func BenchmarkPrefixes(b *testing.B) {
	if _, err := exec.LookPath("nft"); err != nil {
		b.Skip("nftables is not installed: scripts/deps.sh")
	}
	w := newWorld(b)
	n := &policy.Network{Egress: []string{"10.77.0.2"}}
	for i := range 999 {
		n.Egress = append(n.Egress, fmt.Sprintf("10.%d.%d.0/24", 100+i/256, i%256))
	}
	g := w.load(b, Options{})
	a := w.newAgent(b, "agent")
	arm(b, g, a, n, policy.Enforce)

	m, err := cgroup.FindMounts()
	must(b, err)
	side := w.cgroupPath + "-nft"
	must(b, os.Mkdir(side, 0o755))
	b.Cleanup(func() { eventually(func() bool { return os.Remove(side) == nil }) })
	fd, err := unix.Open(side, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(b, err)
	defer unix.Close(fd)
	path, err := filepath.Rel("/sys/fs/cgroup", side) // where nft looks
	if err != nil || strings.HasPrefix(path, "..") {
		b.Skipf("nft looks for cgroups in /sys/fs/cgroup, and %s is not there", m.Unified)
	}
	rules := fmt.Sprintf(`table inet t {
	set granted { type ipv4_addr; flags interval; elements = { %s } }
	chain output { type filter hook output priority 0; policy accept;
		socket cgroupv2 level %d "%s" ip daddr @granted accept
		socket cgroupv2 level %d "%s" drop
	}
}`, strings.Join(n.Egress, ", "), 1+strings.Count(path, "/")-strings.Count(strings.TrimPrefix(m.Unified, "/sys/fs/cgroup"), "/"), path,
		1+strings.Count(path, "/")-strings.Count(strings.TrimPrefix(m.Unified, "/sys/fs/cgroup"), "/"), path)
	w.in(b, w.near, func() {
		cmd := exec.Command("nft", "-f", "-")
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Skipf("nft: %v: %s", err, out)
		}
	})
	probes := []*probe{w.startProbe(b, fd), w.startProbe(b, a.fd)}
	if o := probes[0].do(action{Do: "udp", To: mustAddr("10.77.0.9:9"), Data: "x"}); o.Err != refused {
		b.Skipf("nftables do not hold this cgroup: %+v", o)
	}
	for name, do := range map[string]string{"one flow": "bench-send", "fresh ports": "bench-ports"} {
		b.Run(name, func(b *testing.B) {
			inTurns(b, "ns", []string{"nftables", "guard"}, func(i int) float64 {
				return measured(b, probes[i], action{Do: do, To: mustAddr("10.77.0.2:20000"), Data: "5000"})
			})
		})
	}
}

// benchFlow does Data times (of bench-stream: mebibytes) what it is asked for and says how many nanoseconds of CPU one took. Path is a
// request in hexadecimal.
func benchFlow(a action) (string, error) {
	n, err := strconv.Atoi(a.Data)
	if err != nil {
		return "", err
	}
	request, err := hex.DecodeString(a.Path)
	if err != nil {
		return "", err
	}
	if len(request) == 0 {
		request = []byte("GET / HTTP/1.1\r\n\r\n")
	}
	family, to := sockaddr(a)
	start, err := cpuTime()
	if err != nil {
		return "", err
	}
	switch a.Do {
	case "bench-request":
		for range n {
			if err := oneRequest(family, to, request); err != nil {
				return "", err
			}
		}
	case "bench-stream":
		err = stream(family, to, n)
	case "bench-ports":
		err = ports(a, n)
	}
	if err != nil {
		return "", err
	}
	end, err := cpuTime()
	return strconv.FormatInt((end-start)/int64(n), 10), err
}

func oneRequest(family int, to unix.Sockaddr, request []byte) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// Reset at close: no port stays in TIME_WAIT, however often this runs.
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
		return err
	}
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	if _, err := unix.Write(fd, request); err != nil {
		return err
	}
	_, err = unix.Read(fd, make([]byte, 1))
	return err
}

func stream(family int, to unix.Sockaddr, mebibytes int) error {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, to); err != nil {
		return err
	}
	room := make([]byte, 1<<16)
	for range mebibytes * 16 {
		for left := room; len(left) > 0; {
			n, err := unix.Write(fd, left)
			if err != nil {
				return err
			}
			left = left[n:]
		}
	}
	return nil
}

// ports sends a datagram to each of n ports.
func ports(a action, n int) error {
	family, _ := sockaddr(a)
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for i := range n {
		_, to := sockaddr(action{To: netip.AddrPortFrom(a.To.Addr(), a.To.Port()+uint16(i))})
		if err := unix.Sendto(fd, []byte("x"), 0, to); err != nil && err != unix.ECONNREFUSED {
			return err
		}
	}
	return nil
}
