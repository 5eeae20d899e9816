package agents

import (
	"slices"
	"sync"

	"github.com/raypher/raypher/parent/attend"
)

// maxSeen is how many verdicts of other layers may wait for a warden that reads slowly. They are for the operator's terminal;
// the journal has them in any case.
const maxSeen = 256

// maxObserved is how many messages for the trace of a run may wait; what is lost beyond them is counted, and the warden told.
const maxObserved = 4096

// outbox holds what a warden is to be told. Putting never blocks.
type outbox struct {
	mu     sync.Mutex
	urgent []*attend.ParentMessage // few: at most one of each kind
	seen   []*attend.ParentMessage
	closed bool
	// For the trace of a run: what waits, and how many found no room since the last was taken.
	observed   []*attend.ParentMessage
	unobserved uint64

	wake chan struct{} // one slot
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// put queues a message that must arrive. One of the same kind that still waits is superseded.
func (o *outbox) put(m *attend.ParentMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	kind := m.Kind()
	o.urgent = slices.DeleteFunc(o.urgent, func(old *attend.ParentMessage) bool { return old.Kind() == kind })
	o.urgent = append(o.urgent, m)
	o.signal()
}

// show queues a verdict for the terminal and says whether there was room.
func (o *outbox) show(m *attend.ParentMessage) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.seen) >= maxSeen {
		return false
	}
	o.seen = append(o.seen, m)
	o.signal()
	return true
}

// observe queues a message for the trace, or counts its loss.
func (o *outbox) observe(m *attend.ParentMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.observed) >= maxObserved {
		o.unobserved += max(m.Observed.Lost, 1)
		return
	}
	o.observed = append(o.observed, m)
	o.signal()
}

// close lets what is queued still be taken.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.signal()
}

// take returns all that waits, and whether the outbox is closed.
func (o *outbox) take() (messages []*attend.ParentMessage, closed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	messages = slices.Concat(o.urgent, o.seen, o.observed)
	if o.unobserved > 0 {
		messages = append(messages, &attend.ParentMessage{Observed: &attend.Observed{Lost: o.unobserved}})
	}
	o.urgent, o.seen, o.observed, o.unobserved = nil, nil, nil, 0
	return messages, o.closed
}
