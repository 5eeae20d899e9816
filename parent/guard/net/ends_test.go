package netguard

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/raypher/raypher/policy"
)

// TestOpenFlowsEnd: whatever ends what an agent may do ends its open flows with their next packet, also those whose packets are not judged by
// its rules any more: young ones, that the CPU knows, and lasting ones, that the socket does. Who takes its place in the maps gives them nothing.
func TestOpenFlowsEnd(t *testing.T) {
	w := newWorld(t)
	to := mustAddr("10.77.0.2:80")
	w.serve(t, w.far, to)
	w.capture(t)
	g := w.load(t, Options{})
	granted := &policy.Network{Egress: []string{"10.77.0.2:80"}, OnDeny: policy.Reject}
	for _, end := range []struct {
		name string
		do   func(t *testing.T, a agent)
	}{
		{"a cut", func(t *testing.T, a agent) { must(t, g.Cut(a.id, []Cut{{}})) }},
		{"a cut of the address", func(t *testing.T, a agent) {
			must(t, g.Cut(a.id, []Cut{{Address: netip.MustParsePrefix("10.77.0.2/32")}}))
		}},
		{"narrower rules", func(t *testing.T, a agent) {
			must(t, g.Replace(a.id, &policy.Network{Egress: []string{"10.77.0.3"}}))
		}},
		{"the visa's end", func(t *testing.T, a agent) { must(t, g.Renew(a.id, bootTime())) }},
		{"no visa any more", func(t *testing.T, a agent) { must(t, g.Renew(a.id, 0)) }},
		{"the agent's end", func(t *testing.T, a agent) { must(t, g.Disarm(a.id)) }},
		{"the agent's end, and another in its slot", func(t *testing.T, a agent) {
			before, err := g.entry(a.id)
			must(t, err)
			must(t, g.Disarm(a.id))
			next := w.newAgent(t, "next")
			g.mu.Lock()
			ready, unused := g.slots.ready, g.slots.unused
			g.slots.ready, g.slots.unused = nil, []uint32{before.Slot}
			g.mu.Unlock()
			arm(t, g, next, granted, policy.Enforce)
			t.Cleanup(func() { must(t, g.Disarm(next.id)) })
			after, err := g.entry(next.id)
			must(t, err)
			g.mu.Lock()
			g.slots.ready = append(g.slots.ready, ready...)
			g.slots.unused = slices.DeleteFunc(unused, func(slot uint32) bool { return slot == before.Slot })
			g.mu.Unlock()
			if after.Slot != before.Slot {
				t.Fatalf("another agent got slot %d, not %d", after.Slot, before.Slot)
			}
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			a := w.newAgent(t, "agent")
			arm(t, g, a, granted, policy.Enforce)
			t.Cleanup(func() { must(t, g.Disarm(a.id)) })
			say := action{Do: "say", Data: "hello"}
			tell := action{Do: "tell", To: to, Data: "hello"}
			var flows []func()
			for _, c := range []struct {
				open   string
				to     string
				on     action
				before int // packets in both directions
			}{
				{"open", "10.77.0.2:80", say, 0}, {"open", "10.77.0.2:80", say, 20},
				{"open-udp", "10.77.0.2:80", say, 1}, {"open-udp", "10.77.0.2:80", say, 20},
				{"serve-udp", "10.77.0.1:0", tell, 1},
			} {
				p := w.startProbe(t, a.fd)
				opened := p.do(action{Do: c.open, To: mustAddr(c.to), Data: "hello"})
				if opened.Err != "" {
					t.Fatalf("%s: %+v", c.open, opened)
				}
				for range c.before {
					p.expect(c.on, "", answer)
				}
				flows = append(flows, func() {
					on := c.on
					on.Patience = 200 * time.Millisecond
					if o := p.do(on); o.Err == "" || o.Data != "" {
						t.Errorf("%s, %d packets before: goes on: %+v", c.open, c.before, o)
					}
				})
			}
			w.settle()
			end.do(t, a)
			for _, goesOn := range flows {
				goesOn()
			}
			if arrived, packets := w.rest(); len(arrived)+len(packets) != 0 {
				t.Errorf("the far end saw %q %q", arrived, packets)
			}
		})
	}
}
