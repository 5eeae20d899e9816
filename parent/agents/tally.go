package agents

import (
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/guard/net"
)

// A block that was never heard of must not stay hidden. So whoever refuses counts by itself, where it refuses and before anything
// can be folded, queued or dropped: the broker in the warden, the guards of network and files in the kernel. At the agent's end both numbers are
// compared with what was heard; what is missing is journalled as lost, and the comparison itself as an entry "count".

// tally is what was heard of one agent's blocks, by who refuses. Its fields may be used by several goroutines.
type tally struct {
	warden, network, files atomic.Uint64 // blocks that verdicts stood for
	counted                atomic.Uint64 // what the warden says that it refused
	told                   atomic.Bool   // it said so
	partly                 atomic.Bool   // an earlier raypherd heard of some
}

// countingGuard is a network guard that counts what it refuses.
type countingGuard interface {
	Counters(cgroupID uint64) (netguard.Counters, error)
}

// Blocked takes the warden's own count. It comes behind every verdict that it is about.
func (a *Agent) Blocked(b *attend.Blocked) {
	a.tally.counted.Store(b.Total)
	a.tally.told.Store(true)
	a.missing(b.Total, a.tally.warden.Load())
}

// missing tells the hub of blocks that were counted and not heard of.
func (a *Agent) missing(counted, heard uint64) {
	if counted > heard && !a.tally.partly.Load() {
		a.host.options.Events.Lost(a.id, counted-heard)
	}
}

// hear notes that a verdict of a guard in the kernel was heard.
func (t *tally) hear(v journal.Verdict) {
	switch {
	case strings.HasPrefix(v.Layer, "cgroup"), v.Layer == "xdp":
		t.network.Add(uint64(max(v.Count, 1)))
	case strings.HasPrefix(v.Layer, "lsm"):
		t.files.Add(uint64(max(v.Count, 1)))
	}
}

// refused is the kernel's count of what the network guard refused, 0 where there is none. It ends with Disarm.
func (a *Agent) refused() uint64 {
	guard, ok := a.host.options.Guard.(countingGuard)
	if !ok {
		return 0
	}
	c, err := guard.Counters(a.group.ID())
	if err != nil {
		return 0 // it was never armed
	}
	return c.Refused
}

// lateEvents is how long a folded event of the network guard may still be on its way when lastEvents is over.
const lateEvents = 2 * time.Second

// account journals an ended agent's count. refused is the network guard's, held the file guard's.
func (o *owner) account(refused, held uint64) {
	for end := time.Now().Add(lateEvents); o.tally.network.Load() < refused && time.Now().Before(end); {
		select {
		case <-time.After(lateEvents / 20):
		case <-o.host.ctx.Done():
			return
		}
	}
	counted, heard := refused, o.tally.network.Load()
	o.missing(counted, heard)
	o.missing(held, o.tally.files.Load())
	counted, heard = counted+held, heard+o.tally.files.Load()
	note := ""
	if o.tally.told.Load() {
		counted, heard = counted+o.tally.counted.Load(), heard+o.tally.warden.Load()
	} else if o.attached == "" { // what is attached has no warden
		note = ", and what its warden refused that did not say how much"
	}
	if o.tally.partly.Load() {
		note += ", some of them by an earlier raypherd"
	}
	if counted == 0 && note == "" {
		return
	}
	v := journal.Verdict{
		Time: time.Now().UnixNano(), Decision: journal.Log, Layer: "guard", Operation: "count", Count: 1,
		Target: fmt.Sprintf("%d blocked, %d recorded%s", counted, heard, note),
	}
	v.AgentID, v.Subject, v.VisaID = o.id, o.subject, o.current().visaID
	o.host.options.Events.Report(v, nil)
}
