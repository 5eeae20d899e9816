package xdpguard

import (
	"encoding/binary"
	"testing"

	"github.com/raypher/raypher/policy"
)

const loopback = 1 // where a test run's frames come in

// TestFlood: each frame of a flood is dropped and counted, whatever its source port; what new rules grant opens with the next frame, and closes
// so; what was dropped is still in the total when the wire is gone.
func TestFlood(t *testing.T) {
	w := newBenchWire(t)
	must(t, w.guard.lay(loopback, w.wire))
	send := func(port uint16) uint32 {
		t.Helper()
		frame := append([]byte{}, w.frame...)
		binary.BigEndian.PutUint16(frame[34:], port)
		verdict, _, err := w.guard.objects.RaypherWire.Test(frame)
		must(t, err)
		return verdict
	}
	const drop, pass = 1, 2 // XDP_DROP, XDP_PASS
	flood := func(first uint16) {
		t.Helper()
		before, err := w.guard.Of(w.cgroup)
		must(t, err)
		for port := first; port < first+200; port++ {
			if got := send(port); got != drop {
				t.Fatalf("a frame from port %d: verdict %d", port, got)
			}
		}
		after, err := w.guard.Of(w.cgroup)
		must(t, err)
		if got := after.Packets - before.Packets; got != 200 {
			t.Errorf("%d of 200 frames were counted", got)
		}
	}
	flood(2000)
	must(t, w.host.guard.Replace(w.cgroup, &policy.Network{Egress: []string{"203.0.113.9:80"}}))
	for _, port := range []uint16{2199, 3000} { // the last one that was refused, and another
		if got := send(port); got != pass {
			t.Errorf("a granted frame from port %d: verdict %d", port, got)
		}
	}
	must(t, w.host.guard.Replace(w.cgroup, &policy.Network{Egress: []string{"203.0.113.9:81"}}))
	flood(2199)

	before, _, err := w.guard.Total()
	must(t, err)
	must(t, w.guard.lay(loopback, w.wire)) // as the next raypherd does
	must(t, w.guard.Forget(loopback, w.cgroup))
	if after, _, err := w.guard.Total(); err != nil || after != before || after.Packets != 400 {
		t.Errorf("%+v was dropped in all, before the wire went %+v, %v", after, before, err)
	}
	if of, err := w.guard.Of(w.cgroup); err != nil || of != (Dropped{}) {
		t.Errorf("of an agent that is forgotten: %+v, %v", of, err)
	}
}
