package isolate

import (
	"net/netip"
	"testing"
	"time"

	"github.com/raypher/raypher/policy"
)

// TestReach: what a policy grants goes through the wire and leaves with the host's address, and nothing else gets as far as the host's
// stack, over both families.
func TestReach(t *testing.T) {
	w := newWorld(t)
	for _, a := range []netip.Addr{far4, other4, far6, other6} {
		w.serve(w.far, netip.AddrPortFrom(a, 80))
		w.serve(w.far, netip.AddrPortFrom(a, 81))
	}
	for _, a := range []netip.Addr{near4, near6} {
		w.serve(w.host, netip.AddrPortFrom(a, 80)) // a service of the host itself
	}
	g := w.newGuest(&policy.Network{Egress: []string{far4.String() + ":80", "[" + far6.String() + "]:80"}})
	stack := w.stack(g)
	for _, tt := range []struct {
		network string
		to      netip.Addr
		port    uint16
		granted bool
	}{
		{"tcp", far4, 80, true}, {"udp", far4, 80, true}, {"tcp", far6, 80, true}, {"udp", far6, 80, true},
		{"tcp", far4, 81, false}, {"udp", far4, 81, false}, {"tcp", other4, 80, false}, {"udp", other4, 80, false},
		{"tcp", far6, 81, false}, {"udp", far6, 81, false}, {"tcp", other6, 80, false}, {"udp", other6, 80, false},
		{"tcp", near4, 80, false}, {"udp", near4, 80, false}, {"tcp", near6, 80, false}, {"udp", near6, 80, false},
		{"udp", far4, 53, false}, {"tcp", far4, 53, false},
	} {
		to := netip.AddrPortFrom(tt.to, tt.port)
		err := g.talk(t, tt.network, to, 10)
		time.Sleep(20 * time.Millisecond) // what is under way lands; what was dropped never does
		frames := stack.came()
		if (err == nil) != tt.granted {
			t.Errorf("%s %v: %v", tt.network, to, err)
		}
		from := near4
		if tt.to.Is6() {
			from = near6
		}
		if tt.granted && !w.heard(tt.network+" "+to.String()+" from "+from.String()) {
			t.Errorf("%s %v: did not arrive with the host's address", tt.network, to)
		}
		if !tt.granted && (len(frames) > 0 || w.heard("")) {
			t.Errorf("%s %v: the host's stack got %v", tt.network, to, frames)
		}
	}
	dropped, err := w.xdp.Of(g.cgroup)
	must(t, err)
	total, _, err := w.xdp.Total()
	must(t, err)
	if dropped.Packets == 0 || dropped != total {
		t.Errorf("dropped of the agent %+v, of all %+v", dropped, total)
	}
}
