package netguard

import (
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// TestDatagramsAreAnswered: who was asked by a datagram answers by sendto, whatever on_deny says, and nothing is reported as refused; for as long
// as an answer may come late, and no longer, also from a socket that has a state.
func TestDatagramsAreAnswered(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{})
	for _, c := range []struct {
		onDeny policy.OnDeny
		late   string // what a sender of a late answer gets
	}{{policy.Reject, refused}, {policy.Blackhole, silence}} {
		t.Run(string(c.onDeny), func(t *testing.T) {
			a := w.newAgent(t, "agent-"+string(c.onDeny))
			arm(t, g, a, &policy.Network{Ingress: []string{"10.77.0.0/24:9000"}, OnDeny: c.onDeny}, policy.Enforce)
			p := w.startProbe(t, a.fd)
			p.expect(action{Do: "serve-udp", To: mustAddr("10.77.0.1:9000")}, "", "")
			w.in(t, w.far, func() {
				asker, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(at(far4, 20000)), net.UDPAddrFromAddrPort(at(near4, 9000)))
				must(t, err)
				defer asker.Close()
				hear := func() error {
					must(t, asker.SetReadDeadline(time.Now().Add(answerPatience)))
					_, err := asker.Read(make([]byte, 16))
					return err
				}
				for range 3 {
					_, err = asker.Write([]byte("asked"))
					must(t, err)
					p.expect(action{Do: "answer-udp"}, "", "asked")
					if err := hear(); err != nil {
						t.Fatalf("no answer came: %v", err)
					}
				}
				count, err := g.Counters(a.id)
				must(t, err)
				if count.Refused != 0 {
					t.Errorf("%d answers count as refused", count.Refused)
				}
				// A try that is refused gives the socket a state; it answers as before.
				p.expect(action{Do: "tell", To: at(far4, 20001)}, c.late, "")
				_, err = asker.Write([]byte("asked"))
				must(t, err)
				p.expect(action{Do: "answer-udp"}, "", "asked")
				if err := hear(); err != nil {
					t.Fatalf("no answer came from a socket with a state: %v", err)
				}
				g.age(t, a.id, 121*time.Second)
				p.expect(action{Do: "tell", To: at(far4, 20000)}, c.late, "")
				if n, _ := unix.IoctlGetInt(fdOf(t, asker), unix.SIOCINQ); n != 0 {
					t.Error("an answer came two minutes after it was asked for")
				}
			})
			must(t, g.Disarm(a.id))
		})
	}
}

// age has every datagram that an agent may answer have come earlier.
func (g *Guard) age(t *testing.T, id uint64, by time.Duration) {
	t.Helper()
	e, err := g.entry(id)
	must(t, err)
	var room *ebpf.Map
	must(t, g.maps.Replies.Lookup(e.Slot, &room))
	defer room.Close()
	var key [24]byte
	var last uint64
	for it := room.Iterate(); it.Next(&key, &last); {
		must(t, room.Put(key, last-uint64(by)))
	}
}

func fdOf(t *testing.T, c *net.UDPConn) (fd int) {
	t.Helper()
	raw, err := c.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(n uintptr) { fd = int(n) }))
	return fd
}
