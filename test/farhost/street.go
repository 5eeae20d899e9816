package farhost

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The addresses of a street: this host's, and those of the far one. The last of these is where clouds tell a machine's credentials.
const (
	Near4, Near6   = "10.90.0.1", "fd90::1"
	Far4, Far6     = "10.90.0.2", "fd90::2"
	Other4, Other6 = "10.90.0.3", "fd90::3"
	FarLink6       = "fe80::2"
	Metadata       = "169.254.169.254"
	nearLink       = "169.254.1.1"
	barrier        = "so far " // what this package sends to know what has arrived
	streetPatience = 20 * time.Second
	barrierPort    = 9
	unreachable    = 3 // ICMP's type: nobody hears what came (RFC 792)
)

// Emitted is in the words of what programs send here, so that it is never taken for the housekeeping of hosts.
const Emitted = "emitted-"

// Street is a wire from the namespace of the test to a far host.
type Street struct {
	Link  string // the interface's name, at both ends
	Far   netns.NsHandle
	Heard atomic.Int64 // connections and datagrams that the far host's listeners took

	t       testing.TB
	capture *Capture
	near    net.PacketConn
	next    int
}

// OpenStreet makes a street in the network namespace in which the test runs, which must be the test's own: it gets addresses and a default
// route. Everything ends with the test.
func OpenStreet(t testing.TB) *Street {
	t.Helper()
	here, err := netns.Get()
	Must(t, err)
	t.Cleanup(func() { here.Close() })
	s := &Street{Link: "street", Far: Namespace(t), t: t}
	Connect(t, here, s.Far, s.Link)
	t.Cleanup(func() {
		if l, err := netlink.LinkByName(s.Link); err == nil {
			Must(t, netlink.LinkDel(l))
		}
	})
	Up(t, here, s.Link, Near4+"/24", Near6+"/64", nearLink+"/16")
	Up(t, s.Far, s.Link, Far4+"/24", Other4+"/24", Metadata+"/16", Far6+"/64", Other6+"/64", FarLink6+"/64")
	l, err := netlink.LinkByName(s.Link)
	Must(t, err)
	for _, gateway := range []string{Far4, Far6} { // for groups, broadcasts, and what is nowhere
		Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(gateway)}))
	}
	s.capture = Watch(t, s.Far, s.Link)
	s.near, err = net.ListenPacket("udp4", Near4+":0")
	Must(t, err)
	t.Cleanup(func() { s.near.Close() })
	return s
}

// Serve answers on a TCP and a UDP port of the far host: a page with the address in it, and what a datagram said.
func (s *Street) Serve(addresses ...string) {
	s.t.Helper()
	for _, at := range addresses {
		var l net.Listener
		var u net.PacketConn
		In(s.t, s.Far, func() {
			var err error
			l, err = net.Listen("tcp", at)
			Must(s.t, err)
			u, err = net.ListenPacket("udp", at)
			Must(s.t, err)
		})
		s.t.Cleanup(func() { l.Close(); u.Close() })
		go s.pages(l, at)
		go s.echo(u)
	}
}

// pages answers each line of a connection, as long as it lasts.
func (s *Street) pages(l net.Listener, at string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.Heard.Add(1)
		go func() {
			defer c.Close()
			b := make([]byte, 4096)
			for {
				n, err := c.Read(b)
				if err != nil {
					return
				}
				body := "hello from " + at + "\n"
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				if bytes.Contains(b[:n], []byte("Connection: close")) {
					return
				}
			}
		}()
	}
}

func (s *Street) echo(u net.PacketConn) {
	b := make([]byte, 65536)
	for {
		n, from, err := u.ReadFrom(b)
		if err != nil {
			return
		}
		s.Heard.Add(1)
		_, _ = u.WriteTo(b[:n], from) // who asked may be gone
	}
}

// Send sends a datagram from one of the far host's addresses.
func (s *Street) Send(from, to, words string) {
	s.t.Helper()
	In(s.t, s.Far, func() {
		c, err := (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(from)}}).Dial("udp", to)
		Must(s.t, err)
		defer c.Close()
		_, err = c.Write([]byte(words))
		Must(s.t, err)
	})
}

// Hears waits for a listener to take more than it had.
func (s *Street) Hears(before int64) bool {
	for end := time.Now().Add(streetPatience); s.Heard.Load() == before && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return s.Heard.Load() > before
}

// Came returns the frames that have arrived at the far host since the last call, but for those by which hosts find one another: all that were
// sent before the call are among them.
func (s *Street) Came() (frames [][]byte) {
	s.t.Helper()
	s.next++
	mark := fmt.Appendf(nil, "%s%d.", barrier, s.next)
	for end := time.Now().Add(streetPatience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		to := &net.UDPAddr{IP: net.ParseIP(Far4), Port: barrierPort}
		if _, err := s.near.WriteTo(mark, to); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			s.t.Fatal(err)
		}
		var marked bool
		for _, f := range s.capture.Came() {
			marked = marked || bytes.Contains(f, mark)
			if !housekeeping(f) && !bytes.Contains(f, []byte(barrier)) {
				frames = append(frames, f)
			}
		}
		if marked {
			return frames
		}
	}
	s.t.Fatal("the wire is dead")
	return nil
}

// Quiet waits until nothing arrives any more.
func (s *Street) Quiet() {
	s.t.Helper()
	for end := time.Now().Add(streetPatience); len(s.Came()) > 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
}

// housekeeping reports whether a frame is ARP, the discovery of neighbours and routers (ICMPv6 133 to 137), a report of membership in groups,
// or an error about a packet that came late.
func housekeeping(f []byte) bool {
	if len(f) < 14 {
		return false
	}
	p := f[14:]
	if kind := binary.BigEndian.Uint16(f[12:]); kind == unix.ETH_P_IP && len(p) > 20 && p[9] == unix.IPPROTO_ICMP && p[20] == unreachable {
		return true // it quotes the words that it answers
	}
	if bytes.Contains(f, []byte(Emitted)) {
		return false
	}
	switch binary.BigEndian.Uint16(f[12:]) {
	case unix.ETH_P_ARP:
		return true
	case unix.ETH_P_IP:
		return len(p) > 20 && p[9] == unix.IPPROTO_IGMP
	case unix.ETH_P_IPV6:
		return len(p) > 48 && (p[6] == unix.IPPROTO_ICMPV6 && p[40] >= 133 && p[40] <= 137 || p[6] == 0 && p[40] == unix.IPPROTO_ICMPV6)
	}
	return false
}

// Hexes are frames as one line.
func Hexes(frames [][]byte) string {
	words := make([]string, len(frames))
	for i, f := range frames {
		words[i] = hex.EncodeToString(f)
	}
	return strings.Join(words, " ")
}
