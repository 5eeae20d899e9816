package agents

import (
	"encoding/json"

	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/dns"
	"github.com/raypher/raypher/parent/guard/net"
	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/trace"
)

// What the network guard and the forwarder let an agent in mode audit do goes to its warden too, beside the journal: there it is not
// folded, and no name is given up for a number.

// observeEvent tells the warden of one event of the network guard.
func (h *Host) observeEvent(e netguard.Event) {
	if e.Mode != policy.Audit && e.Reason != netguard.Flood {
		return
	}
	a, ok := h.ByCgroup(e.CgroupID)
	if !ok || mode(a.current().permit) != policy.Audit {
		return
	}
	if e.Reason == netguard.Flood {
		a.observed(&attend.Observed{Lost: uint64(max(e.Count, 1))})
		return
	}
	if entry, ok := entryOf(e); ok {
		a.observe(entry)
	}
}

// entryOf is what a trace says of an event; false: nothing, because the warden sees the same call.
func entryOf(e netguard.Event) (trace.Entry, bool) {
	entry := trace.Entry{Protocol: e.Protocol, Rule: reasonRule(e.Reason), Fixed: e.Reason != netguard.NotGranted}
	switch e.Operation {
	case "connect", "sendto", "send":
		entry.Operation, entry.Address = trace.Connect, e.Destination.String()
	case "bind":
		entry.Operation, entry.Address = trace.Bind, e.Destination.String()
	case "connect-unix", "sendto-unix":
		if e.Operation == "connect-unix" && (e.Path == "" || e.Path[0] != '@') {
			return trace.Entry{}, false
		}
		// Abstract names stay inside the agent, and a datagram cannot be handed on by the warden.
		entry = trace.Entry{Operation: e.Operation, Target: e.Path, Fixed: true}
	default:
		entry.Operation, entry.Target, entry.Fixed = e.Operation, e.Protocol, true
	}
	return entry, true
}

// NameObserved takes a question for a name that is not granted, of an agent in mode audit.
func (h *Host) NameObserved(o dns.Observation) {
	a, ok := h.ByCgroup(o.CgroupID)
	if !ok {
		return
	}
	if len(o.Answers) == 0 {
		a.observe(trace.Entry{Operation: trace.Resolve, Name: o.Name})
	}
	for _, answer := range o.Answers {
		a.observe(trace.Entry{Operation: trace.Resolve, Name: o.Name, Address: answer.Address.String(), Special: answer.Closed})
	}
}

func (a *Agent) observe(e trace.Entry) {
	raw, err := json.Marshal(e)
	if err != nil {
		a.observed(&attend.Observed{Lost: 1})
		return
	}
	a.observed(&attend.Observed{Entry: raw})
}

// observed queues a message for the trace. A warden whose line is broken knows that it misses something.
func (a *Agent) observed(o *attend.Observed) {
	a.mu.Lock()
	line := a.line
	a.mu.Unlock()
	if line != nil {
		line.observe(&attend.ParentMessage{Observed: o})
	}
}
