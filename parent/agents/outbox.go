package agents

import (
	"slices"
	"sync"

	"github.com/raypher/raypher/parent/attend"
)

// maxSeen is how many verdicts of other layers may wait for a warden that reads slowly. They are for the operator's terminal;
// the journal has them in any case.
const maxSeen = 256

// outbox holds what a warden is to be told. Putting never blocks.
type outbox struct {
	mu     sync.Mutex
	urgent []*attend.ParentMessage // few: at most one of each kind
	seen   []*attend.ParentMessage
	closed bool
	wake   chan struct{} // one slot
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
	messages = append(o.urgent, o.seen...)
	o.urgent, o.seen = nil, nil
	return messages, o.closed
}
