package sequencer

import (
	"testing"
	"time"
)

// How long a batch is held open, by the looks at the queue: at which time how many calls wait.
func TestPace(t *testing.T) {
	const ms = time.Millisecond
	type look struct {
		at      time.Duration
		waiting int
	}
	// comers come one by one.
	comers := func(every time.Duration, n int) (looks []look) {
		for i := range n {
			looks = append(looks, look{time.Duration(i) * every, i + 1})
		}
		return looks
	}
	const us = time.Microsecond
	slow, fast := pace{signing: 20 * ms, calls: 500}, pace{signing: 30 * us, calls: 500}
	for _, c := range []struct {
		name     string
		last     pace
		expected int
		late     time.Duration // after the last batch was released
		looks    []look
		closed   time.Duration // the time of the look that closes it; -1: not by any of them
	}{
		{"nothing yet", pace{}, 100, 0, []look{{0, 1}}, 0},
		{"a key in memory, everybody comes back", fast, 500, 0, []look{{0, 1}, {200 * us, 300}, {600 * us, 500}}, 600 * us},
		{"a key in memory, nobody comes back", fast, 500, 0, []look{{0, 1}, {999 * us, 1}, {1 * ms, 1}}, 1 * ms},
		{"a key in memory, they come on and on", fast, 500, 0, comers(400*us, 20), 5200 * us},
		{"a key in memory, one comes later", fast, 500, 5 * ms, []look{{0, 1}}, 0},
		{"a lone caller", pace{30 * us, 1}, 2, 0, []look{{0, 1}}, 0},
		{"a lone caller on a slow device", pace{60 * ms, 1}, 1, 0, []look{{0, 1}}, 0},
		{"everybody waits already", slow, 500, 0, []look{{0, 500}}, 0},
		{"everybody comes back", slow, 1000, 0, []look{{0, 500}, {1 * ms, 700}, {3 * ms, 900}, {4 * ms, 1000}}, 4 * ms},
		{"nobody comes back", slow, 1000, 0, []look{{0, 500}, {1 * ms, 500}, {2 * ms, 500}, {2500 * time.Microsecond, 500}}, 2500 * time.Microsecond},
		{"they stop coming", slow, 1000, 0, []look{{0, 500}, {2 * ms, 600}, {4 * ms, 601}, {6 * ms, 601}, {7 * ms, 601}}, 7 * ms},
		{"they come on and on", slow, 1000, 0, comers(1*ms, 20), 15 * ms},
		{"a device that has trouble", pace{10 * time.Second, 500}, 1000, 0, []look{{0, 1}, {4 * ms, 1}, {maxQuiet, 1}}, maxQuiet},
		{"a device that has trouble and callers that come on and on", pace{10 * time.Second, 500}, 1000, 0,
			comers(3*ms, 20), maxLinger},
		{"they come on and on, the first late", slow, 1000, 10 * ms, comers(1*ms, 20), 5 * ms},
		{"the first comes later than anybody waits", slow, 1000, 15 * ms, []look{{0, 1}}, 0},
		{"too early for any of this", slow, 1000, 0, []look{{0, 500}, {1 * ms, 500}, {2 * ms, 501}}, -1},
	} {
		began := time.Now()
		w, closed := c.last.hold(c.expected, began.Add(-c.late), began), time.Duration(-1)
		for _, l := range c.looks {
			if w.over(l.waiting, began.Add(l.at)) {
				closed = l.at
				break
			}
		}
		if closed != c.closed {
			t.Errorf("%s: closed at %s, want %s", c.name, closed, c.closed)
		}
	}
}

// Those who may share the next batch are the calls that a batch releases and those that wait meanwhile.
func TestExpectedCompany(t *testing.T) {
	s, p, _ := begun(t)
	_, alone := appendOne(t, s, "alone")
	first := p.batch(t)
	for range 3 {
		appendOne(t, s, "waits")
	}
	for deadline := time.Now().Add(patience); len(s.queue) != 3 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	p.ack(s.opts.Epoch, end(first))
	released(t, alone)
	p.batch(t)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.expected != 1+3 {
		t.Errorf("%d calls are expected, want 4", s.expected)
	}
}

// The writer is woken when the last of those it waits for is there, and not by each of them.
func TestTheLastOneWakesTheWriter(t *testing.T) {
	s := &Sequencer{queue: make(chan *pending, 4), enough: make(chan struct{}, 1)}
	for _, c := range []struct {
		wanted int64
		woken  []bool // by the first, the second, ... that queues up
	}{
		{0, []bool{false, false}}, // it does not wait
		{3, []bool{false, false, true, true}},
	} {
		s.wanted.Store(c.wanted)
		for i, want := range c.woken {
			s.queue <- &pending{}
			s.queued()
			if woken := len(s.enough) == 1; woken != want {
				t.Errorf("%d wanted, %d there: woken %v", c.wanted, i+1, woken)
			}
		}
		for len(s.queue) > 0 {
			<-s.queue
		}
	}
}
