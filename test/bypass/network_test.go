package bypass

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/test/farhost"
	"github.com/raypher/raypher/test/governed"
)

// The street: this host at one end of a wire, and at the other a host with these addresses, one of which clouds give to their metadata.
const (
	street     = "street"
	near4      = "10.90.0.1/24"
	near6      = "fd90::1/64"
	nearLink4  = "169.254.1.1/16"
	farGranted = "10.90.0.2:80"
	far6       = "[fd90::2]:80"
)

// wired grants one port of the far host, over both families.
const wired = `
mode: enforce
filesystem: {read: [PROGRAM, /sys/kernel/mm/transparent_hugepage/**, /proc/self/**, "/dev/null"], exec: [PROGRAM]}
network:
  on_deny: reject
  egress: ["` + farGranted + `", "` + far6 + `"]
`

// Where what a packet tries is seen.
type effect int

const (
	nothing effect = iota // no frame may arrive
	arrives               // the granted port hears it
)

// attempts are all the ways in which a program can try to have packets sent, each with what a governed one is told and what arrives. Without
// the guard each has to arrive, or this kernel does not have the family: else that nothing came would say nothing.
var attempts = []struct {
	do, to string
	want   string
	effect effect
}{
	{"tcp", farGranted, "ok", arrives},
	{"tcp", far6, "ok", arrives},
	{"tcp-mapped", farGranted, "ok", arrives},
	{"fastopen", farGranted, "ok", arrives},
	{"fastopen-connect", farGranted, "ok", arrives},
	{"udp", farGranted, "ok", arrives},
	{"udp", far6, "ok", arrives},
	{"udp-mapped", farGranted, "ok", arrives},
	{"udp-connected", farGranted, "ok", arrives},
	{"udp-batch", farGranted, "ok", arrives},

	{"tcp", "10.90.0.2:81", "EPERM", nothing},
	{"tcp", "10.90.0.3:80", "EPERM", nothing},
	{"tcp", "[fd90::2]:81", "EPERM", nothing},
	{"tcp", "[fd90::3]:80", "EPERM", nothing},
	{"tcp-mapped", "10.90.0.3:80", "EPERM", nothing},
	{"tcp-multipath", "10.90.0.3:80", "EPROTONOSUPPORT", nothing},
	{"tcp-multipath", farGranted, "EPROTONOSUPPORT", nothing}, // programs take TCP then
	{"fastopen", "10.90.0.3:80", "EPERM", nothing},
	{"fastopen", "[fd90::3]:80", "EPERM", nothing},
	{"fastopen-connect", "10.90.0.3:80", "EPERM", nothing},
	{"udp", "10.90.0.2:81", "EPERM", nothing},
	{"udp", "[fd90::3]:80", "EPERM", nothing},
	{"udp-mapped", "10.90.0.3:80", "EPERM", nothing},
	{"udp-connected", "10.90.0.3:80", "EPERM", nothing},
	{"udp-batch", "10.90.0.3:80", "EPERM", nothing},
	{"udp", "224.0.0.251:5353", "EPERM", nothing},
	{"udp", "[ff02::fb]:5353", "EPERM", nothing},
	{"udp-broadcast", "255.255.255.255:80", "EPERM", nothing},
	{"udp-broadcast", "10.90.0.255:80", "EPERM", nothing},
	{"tcp", "169.254.169.254:80", "EPERM", nothing},
	{"udp", "169.254.169.254:80", "EPERM", nothing},
	{"udp", "[fe80::2]:80", "EPERM", nothing},
	{"udp-bound", farGranted, "EPERM", nothing},
	{"udp-marked", farGranted, "EPERM", nothing},
	{"udp-routed", farGranted, "EPERM", nothing},
	{"udp-routed-once", farGranted, "EPERM", nothing},
	{"udp-foreign", farGranted, "EPERM", nothing},

	{"udplite", farGranted, "EPERM", nothing},
	{"ping", farGranted, "EPERM", nothing},
	{"raw-icmp", farGranted, "EPERM", nothing},
	{"raw-udp", farGranted, "EPERM", nothing},
	{"raw-gre", farGranted, "EPERM", nothing},
	{"raw-whole", farGranted, "EPERM", nothing},
	{"frame", farGranted, "EPERM", nothing},
	{"frame-cooked", farGranted, "EPERM", nothing},
	{"frame-xdp", farGranted, "EPERM", nothing},
	{"sctp", farGranted, "EPERM", nothing},
	{"dccp", farGranted, "EPERM", nothing},
	{"vsock", farGranted, "EPERM", nothing},
	{"can", farGranted, "EPERM", nothing},
	{"bluetooth", farGranted, "EPERM", nothing},
	{"tipc", farGranted, "EPERM", nothing},
	{"smc", farGranted, "EPERM", nothing},
	{"l2tp", farGranted, "EPERM", nothing},
	{"pppox", farGranted, "EPERM", nothing},
	{"llc", farGranted, "EPERM", nothing},
	{"netlink-audit", farGranted, "EPERM", nothing},
	{"netlink-monitor", farGranted, "EPERM", nothing},
}

// elsewhere are the families that put nothing on a wire of IP: of these a socket is the attempt.
const elsewhere = " vsock can bluetooth tipc smc l2tp pppox llc netlink-audit netlink-monitor "

// TestWire: of all that a program can try to send, by every family and way, the far host gets what is granted and not one frame more.
func TestWire(t *testing.T) {
	var far *end
	asUsers(t, func(w *world) {
		if far == nil {
			far = newEnd(t)
			far.ungoverned(w)
		}
		r := w.reside(wired)
		far.quiet() // what the host says of itself when a wire is new
		for _, a := range attempts {
			name := fmt.Sprintf("%s to %s", a.do, a.to)
			before := far.heard.Load()
			if got := r.do(fmt.Sprintf("emit-%s %s %s", a.do, a.to, street)); got != a.want {
				w.t.Errorf("%s: answered %s, want %s", name, got, a.want)
			}
			frames := far.came()
			switch {
			case a.effect == nothing && len(frames) > 0:
				w.t.Errorf("%s: the far host saw %s", name, hexes(frames))
			case a.effect == arrives && !far.hears(before):
				w.t.Errorf("%s: %d frames, and the listener heard nothing new", name, len(frames))
			}
			far.quiet() // what a granted flow still says belongs to it
		}
		r.end()
		w.refusalsTold(r)
	})
}

// refusalsTold wants each destination that was refused among the verdicts.
func (w *world) refusalsTold(r *resident) {
	w.t.Helper()
	missing := func() (missing []string) {
		verdicts, err := r.agent.Verdicts()
		w.must(err)
		var all strings.Builder
		for _, v := range verdicts {
			fmt.Fprintln(&all, v.Operation, v.Target)
		}
		for _, a := range attempts {
			want := a.to
			if a.want != "EPERM" || strings.Contains(elsewhere, " "+a.do+" ") || a.to == farGranted {
				continue // families and options are in the conformance table
			}
			if !strings.Contains(all.String(), want) {
				missing = append(missing, want)
			}
		}
		return missing
	}
	for end := time.Now().Add(20 * time.Second); len(missing()) > 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	if all := missing(); len(all) > 0 {
		w.t.Errorf("refused, and not told: %q\n%s", all, r.agent.Said())
	}
}

// end is the far end of the street.
type end struct {
	t       *testing.T
	capture *farhost.Capture
	near    net.PacketConn // of a program that nobody governs
	next    int
	heard   atomic.Int64 // connections and datagrams that granted listeners took
}

func newEnd(t *testing.T) *end {
	here, err := netns.Get()
	farhost.Must(t, err)
	t.Cleanup(func() { here.Close() })
	there := farhost.Namespace(t)
	farhost.Connect(t, here, there, street)
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(street); err == nil {
			farhost.Must(t, netlink.LinkDel(l))
		}
	})
	farhost.Up(t, here, street, near4, near6, nearLink4)
	farhost.Up(t, there, street, "10.90.0.2/24", "10.90.0.3/24", "169.254.169.254/16", "fd90::2/64", "fd90::3/64", "fe80::2/64")
	farhost.In(t, here, func() { // for groups and broadcasts
		l, err := netlink.LinkByName(street)
		farhost.Must(t, err)
		farhost.Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.IP{10, 90, 0, 2}}))
	})
	e := &end{t: t, capture: farhost.Watch(t, there, street)}
	for file, value := range map[string]string{"ping_group_range": "0 2147483647", "tcp_fastopen": "1"} { // ping for every user, and for clients
		farhost.Must(t, os.WriteFile("/proc/sys/net/ipv4/"+file, []byte(value), 0))
	}
	farhost.In(t, there, func() { e.listen(farGranted); e.listen(far6) })
	e.near, err = net.ListenPacket("udp4", "10.90.0.1:0")
	farhost.Must(t, err)
	t.Cleanup(func() { e.near.Close() })
	return e
}

// listen answers on a port with what it is told.
func (e *end) listen(at string) {
	e.t.Helper()
	l, err := net.Listen("tcp", at)
	farhost.Must(e.t, err)
	u, err := net.ListenPacket("udp", at)
	farhost.Must(e.t, err)
	e.t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.heard.Add(1)
			go func() {
				defer c.Close()
				b := make([]byte, 1500)
				if n, err := c.Read(b); err == nil {
					_, _ = c.Write(b[:n]) // who asked may be gone
				}
			}()
		}
	}()
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			e.heard.Add(1)
			_, _ = u.WriteTo(b[:n], from)
		}
	}()
}

// hears waits for a listener to take more than it had.
func (e *end) hears(before int64) bool {
	for end := time.Now().Add(20 * time.Second); e.heard.Load() == before && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return e.heard.Load() > before
}

// came returns the frames that arrived until now: what this program sends now has arrived too. Neighbours looking for one another are left out.
func (e *end) came() (frames [][]byte) {
	e.t.Helper()
	e.next++
	mark := fmt.Appendf(nil, "so far %d.", e.next)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := e.near.WriteTo(mark, &net.UDPAddr{IP: net.IP{10, 90, 0, 2}, Port: 9}); err != nil {
			e.t.Fatal(err)
		}
		var marked bool
		for _, f := range e.capture.Came() {
			marked = marked || bytes.Contains(f, mark)
			if !housekeeping(f) && !bytes.Contains(f, []byte("so far ")) {
				frames = append(frames, f)
			}
		}
		if marked {
			return frames
		}
	}
	e.t.Fatal("the wire is dead")
	return nil
}

// quiet waits until nothing arrives any more.
func (e *end) quiet() {
	for len(e.came()) > 0 {
		time.Sleep(20 * time.Millisecond)
	}
}

// housekeeping reports whether a frame is ARP, the discovery of neighbours and routers (ICMPv6 133 to 137), or a report of membership in groups,
// as every host sends them. What a program emits has other words in it.
func housekeeping(f []byte) bool {
	if len(f) < 14 || bytes.Contains(f, []byte("emitted-")) {
		return false
	}
	p := f[14:]
	switch binary.BigEndian.Uint16(f[12:]) {
	case 0x0806:
		return true
	case 0x0800:
		return len(p) > 20 && (p[9] == unix.IPPROTO_IGMP || p[9] == unix.IPPROTO_ICMP && p[20] == 3) // port unreachable, of an answer that came late
	case 0x86dd:
		return len(p) > 48 && (p[6] == unix.IPPROTO_ICMPV6 && p[40] >= 133 && p[40] <= 137 || p[6] == 0 && p[40] == unix.IPPROTO_ICMPV6)
	}
	return false
}

// ungoverned does every attempt without the guard: each has to arrive, or this kernel does not have it.
func (e *end) ungoverned(w *world) {
	e.t.Helper()
	for _, a := range attempts {
		out, _ := exec.Command(governed.Probe(), "emit-"+a.do, a.to, street).CombinedOutput() // what counts is what comes
		frames := e.came()
		switch answer := strings.TrimSpace(string(out)); {
		case len(frames) > 0:
		case strings.Contains("EPROTONOSUPPORT ESOCKTNOSUPPORT EAFNOSUPPORT", answer):
			e.t.Logf("%s: not in this kernel (%s): that nothing of it arrives says nothing here", a.do, answer)
		case answer == "ok" && strings.Contains(elsewhere, " "+a.do+" "):
		default:
			e.t.Errorf("without the guard, %s to %s does not arrive either: %s", a.do, a.to, answer)
		}
		e.quiet()
	}
}

func hexes(frames [][]byte) string {
	words := make([]string, len(frames))
	for i, f := range frames {
		words[i] = hex.EncodeToString(f)
	}
	return strings.Join(words, " ")
}
