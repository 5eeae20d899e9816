package isolate

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// TestFlowsAreBounded: an agent that opens flows without end has no more of them in the host's connection tracking than its share, over each
// family; others and the host go on, and so does it with the flows that it has.
func TestFlowsAreBounded(t *testing.T) {
	w := newWorld(t)
	everywhere := &policy.Network{Egress: []string{far4.String(), "[" + far6.String() + "]"}}
	flooder, other := w.newGuest(everywhere), w.newGuest(everywhere)
	own := netip.AddrPortFrom(far4, 80)
	w.serve(w.far, own)
	within(t, w.host, func() { // nothing of what is counted may end meanwhile, however busy the machine is
		must(t, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", []byte("600"), 0))
	})
	var kept net.Conn
	within(t, flooder.ns, func() {
		var err error
		kept, err = net.Dial("tcp", own.String())
		must(t, err)
	})
	defer kept.Close()
	began := time.Now()
	flood(t, flooder, far6)
	if got, most := w.tracked(), burstFlows+newFlows*int(time.Since(began).Seconds()+1)+16; got < burstFlows || got > most {
		t.Errorf("after a flood to %v the host remembers %d flows, want %d to %d", far6, got, burstFlows, most)
	}
	before := w.tracked()
	const share = maxFlows - 1 // the open one is in it
	for end := time.Now().Add(25 * time.Second); w.tracked()-before < share && time.Now().Before(end); {
		flood(t, flooder, far4)
	}
	time.Sleep(200 * time.Millisecond) // for some hundred more
	flood(t, flooder, far4)
	if got := w.tracked() - before; got < share-16 || got > share+16 { // others come and go, of neighbour discovery for one
		t.Errorf("after floods to %v the host remembers %d flows more, want %d", far4, got, share)
	}
	if err := flooder.talk(t, "tcp", own, 1); err == nil {
		t.Error("the agent has its share and still opens flows")
	}
	kept.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := kept.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := kept.Read(make([]byte, 1)); err != nil {
		t.Errorf("a flow that was open: %v", err)
	}
	if err := other.talk(t, "tcp", own, 1); err != nil {
		t.Errorf("another agent: %v", err)
	}
	within(t, w.host, func() {
		if c, err := net.DialTimeout("tcp", own.String(), 3*time.Second); err != nil {
			t.Errorf("the host: %v", err)
		} else {
			c.Close()
		}
	})
}

// flood begins more flows than an agent's share.
func flood(t *testing.T, g guest, to netip.Addr) {
	t.Helper()
	within(t, g.ns, func() {
		c, err := net.ListenUDP("udp", nil)
		must(t, err)
		defer c.Close()
		for port := range uint16(maxFlows * 3 / 2) {
			_, err := c.WriteToUDPAddrPort([]byte("x"), netip.AddrPortFrom(to, 20000+port))
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ECONNREFUSED) {
				must(t, err)
			}
		}
	})
}

// tracked is how many flows the host's connection tracking remembers.
func (w *world) tracked() (n int) {
	w.t.Helper()
	within(w.t, w.host, func() {
		// The file shows the namespace of the thread that opens it, below its own number.
		raw, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
		must(w.t, err)
		lines := strings.Split(string(raw), "\n")
		entries, err := strconv.ParseInt(strings.Fields(lines[1])[0], 16, 64)
		must(w.t, err)
		n = int(entries)
	})
	return n
}
