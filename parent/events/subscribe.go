package events

import (
	"errors"

	"github.com/raypher/raypher/journal"
)

// queueLength is how many events may wait for one subscriber.
const queueLength = 1024

// ErrBehind ends a subscription whose reader was too slow: it would have missed events.
var ErrBehind = errors.New("events came faster than they were read, and some were not delivered here: they are in the journal, see `raypher evidence list`")

// Subscription is one reader of events. Read C until it is closed, then ask Err.
type Subscription struct {
	C      <-chan Event
	c      chan Event
	hub    *Hub
	agent  string
	behind bool // guarded by hub.mu
}

// Subscribe returns the latest events of an agent (empty: of all), oldest first, and a subscription to those that follow.
// Close it in the end.
func (h *Hub) Subscribe(agent string) (latest []Event, s *Subscription) {
	c := make(chan Event, queueLength)
	s = &Subscription{C: c, c: c, hub: h, agent: agent}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.history {
		if agent == "" || e.Verdict.AgentID == agent {
			latest = append(latest, e)
		}
	}
	h.subscribers[s] = struct{}{}
	return latest, s
}

// Close ends the subscription and its channel.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.end()
}

// end is Close with hub.mu held.
func (s *Subscription) end() {
	if _, open := s.hub.subscribers[s]; open {
		delete(s.hub.subscribers, s)
		close(s.c)
	}
}

// Err is ErrBehind when the hub ended the subscription.
func (s *Subscription) Err() error {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.behind {
		return ErrBehind
	}
	return nil
}

// publish hands a batch to the subscribers; without an epoch it is not in the journal yet.
func (h *Hub) publish(batch []journal.Verdict, epoch []byte, first uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, v := range batch {
		e := Event{Verdict: v, Epoch: epoch}
		if epoch != nil {
			e.Index = first + uint64(i)
		}
		if len(h.history) >= historySize {
			h.history = append(h.history[:0:0], h.history[historySize/4:]...)
		}
		h.history = append(h.history, e)
		for s := range h.subscribers {
			if s.agent != "" && s.agent != v.AgentID {
				continue
			}
			select {
			case s.c <- e:
			default:
				s.behind = true
				h.counters["subscribers_behind"]++
				s.end()
			}
		}
	}
}
