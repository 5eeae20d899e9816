package agents

import (
	"net/netip"
	"testing"

	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/trace"
)

// TestEntryOf: what a trace says of each event of the network guard.
func TestEntryOf(t *testing.T) {
	to := netip.MustParseAddrPort("192.0.2.1:443")
	for _, tt := range []struct {
		event netguard.Event
		want  trace.Entry
		none  bool
	}{
		{netguard.Event{Operation: "connect", Protocol: "tcp", Destination: to}, trace.Entry{Operation: trace.Connect, Address: "192.0.2.1:443", Protocol: "tcp"}, false},
		{netguard.Event{Operation: "sendto", Protocol: "udp", Destination: to}, trace.Entry{Operation: trace.Connect, Address: "192.0.2.1:443", Protocol: "udp"}, false},
		{netguard.Event{Operation: "bind", Protocol: "tcp", Destination: to}, trace.Entry{Operation: trace.Bind, Address: "192.0.2.1:443", Protocol: "tcp"}, false},
		{netguard.Event{Operation: "connect-unix", Path: "/run/a.sock"}, trace.Entry{}, true}, // its warden saw it
		{netguard.Event{Operation: "connect-unix", Path: "@abstract"}, trace.Entry{Operation: "connect-unix", Target: "@abstract", Fixed: true}, false},
		{netguard.Event{Operation: "sendto-unix", Path: "/dev/log"}, trace.Entry{Operation: "sendto-unix", Target: "/dev/log", Fixed: true}, false},
		{netguard.Event{Operation: "socket", Protocol: "icmp"}, trace.Entry{Operation: "socket", Target: "icmp", Protocol: "icmp", Fixed: true}, false},
		{netguard.Event{Operation: "connect", Destination: to, Reason: netguard.Expired},
			trace.Entry{Operation: trace.Connect, Address: "192.0.2.1:443", Rule: "the visa has ended", Fixed: true}, false},
	} {
		got, ok := entryOf(tt.event)
		if got != tt.want || ok == tt.none {
			t.Errorf("%+v: %+v %v, want %+v", tt.event, got, ok, tt.want)
		}
	}
}

// TestOutboxCountsWhatIsNotObserved: what finds no room for the trace is told as a number, once.
func TestOutboxCountsWhatIsNotObserved(t *testing.T) {
	o := newOutbox()
	for range maxObserved {
		o.observe(&attend.ParentMessage{Observed: &attend.Observed{Entry: []byte("{}")}})
	}
	o.observe(&attend.ParentMessage{Observed: &attend.Observed{Entry: []byte("{}")}})
	o.observe(&attend.ParentMessage{Observed: &attend.Observed{Lost: 5}})
	messages, _ := o.take()
	if last := messages[len(messages)-1]; len(messages) != maxObserved+1 || last.Observed.Lost != 6 {
		t.Errorf("%d messages, the last of them %+v", len(messages), last.Observed)
	}
	if messages, _ := o.take(); len(messages) != 0 {
		t.Errorf("the loss is told again: %d messages", len(messages))
	}
}
