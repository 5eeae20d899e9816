package isolate

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/policy"
)

// TestReported: the first drop at a wire is an event of its agent, with what it was for; those of a sender that is not the agent say so.
func TestReported(t *testing.T) {
	w := newWorld(t)
	g := w.newGuest(&policy.Network{Egress: []string{"192.0.2.1"}})
	ctx, stop := context.WithCancel(t.Context())
	events := make(chan netguard.Event, 100)
	ended := make(chan error, 1)
	go func() { ended <- w.guard.Run(ctx, func(e netguard.Event) { events <- e }) }()
	defer func() { stop(); must(t, <-ended) }()
	await := func(reason netguard.Reason) {
		t.Helper()
		for {
			select {
			case e := <-events:
				if e.Layer == "xdp" && e.CgroupID == g.cgroup && e.Reason == reason && e.Destination == netip.AddrPortFrom(far4, 80) && e.Protocol == "udp" {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("no event of reason %d", reason)
			}
		}
	}
	_ = g.talk(t, "udp", netip.AddrPortFrom(far4, 80), 1)
	await(netguard.NotGranted)
	f, fd := g.packets(t)
	send(t, fd, f.ethernet(0x800, ipv4(netip.MustParseAddr("10.77.0.9"), far4, 17, 0, nil, udp(80, "x"))))
	await(netguard.ForeignSource)
}
