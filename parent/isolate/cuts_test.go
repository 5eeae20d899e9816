package isolate

import (
	"net/netip"
	"testing"
	"time"

	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/policy"
)

// TestCuts: what an operator has cut does not pass the wire, in any mode, answers neither. Names are cut where it is known which of them a
// stream asks for.
func TestCuts(t *testing.T) {
	segment := func(port uint16) []byte { return append(udp(port, ""), 0, 0, 0, 0, 0x50, 0x10, 0, 0, 0, 0, 0, 0) }
	for _, c := range []struct {
		name    string
		mode    policy.Mode
		cut     netguard.Cut
		passes  []string
		dropped []string
	}{
		{"everything", policy.Enforce, netguard.Cut{}, nil, []string{"flow", "answer", "named"}},
		{"everything, in mode audit", policy.Audit, netguard.Cut{}, nil, []string{"flow", "answer", "named"}},
		{"an address", policy.Enforce, netguard.Cut{Address: netip.PrefixFrom(far4, 32)}, []string{"answer"}, []string{"flow", "named"}},
		{"an address, in mode audit", policy.Audit, netguard.Cut{Address: netip.PrefixFrom(far4, 32)}, []string{"answer"}, []string{"flow", "named"}},
		{"the host end", policy.Enforce, netguard.Cut{Address: netip.MustParsePrefix("198.18.0.0/15")}, []string{"flow", "named"}, []string{"answer"}},
		{"another name of the address", policy.Enforce, netguard.Cut{Name: "b.example.com"}, []string{"flow", "answer", "named"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			g := w.newGuest(&policy.Network{Egress: []string{far4.String() + ":80", "private a.example.com:443", "private b.example.com:443"}, Listen: []string{"4000"}})
			must(t, w.guard.GrantName(g.cgroup, "a.example.com", far4, 443, time.Hour))
			must(t, w.guard.GrantName(g.cgroup, "b.example.com", far4, 443, time.Hour))
			if c.mode != policy.Enforce {
				w.arm(g, &policy.Network{Egress: []string{far4.String() + ":80"}, Listen: []string{"4000"}}, c.mode)
			}
			stack := w.stack(g)
			f, fd := g.packets(t)
			frames := map[string][]byte{
				"flow":   f.ethernet(0x800, ipv4(f.agent4, f.granted4, 17, 0, nil, udp(80, "x"))),
				"named":  f.ethernet(0x800, ipv4(f.agent4, f.granted4, 6, 0, nil, segment(443))),
				"answer": f.ethernet(0x800, ipv4(f.agent4, f.host4, 6, 0, nil, segment(5555))),
			}
			for name, frame := range frames {
				if send(t, fd, frame); !eventually(func() bool { return contains(stack.came(), frame) }) {
					t.Errorf("%s: did not come before the cut", name)
				}
			}
			must(t, w.guard.Cut(g.cgroup, []netguard.Cut{c.cut}))
			for _, name := range c.dropped {
				before, err := w.xdp.Of(g.cgroup)
				must(t, err)
				send(t, fd, frames[name])
				if !eventually(func() bool { now, err := w.xdp.Of(g.cgroup); return err == nil && now.Packets > before.Packets }) {
					t.Errorf("%s: not dropped", name)
				}
			}
			if came := stack.came(); len(came) > 0 {
				t.Errorf("the host's stack got %v", came)
			}
			for _, name := range c.passes {
				if send(t, fd, frames[name]); !eventually(func() bool { return contains(stack.came(), frames[name]) }) {
					t.Errorf("%s: did not come", name)
				}
			}
		})
	}
}
