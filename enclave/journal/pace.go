package sequencer

import "time"

// pace decides how long a batch waits for company. With a slow signing device the callers fall into groups that take turns: one
// waits for a signature while another, just served, has come back too late for it, and each visa takes two signatures' time.
// Holding the batch open until those who were served are back lets all of them share every signature.
type pace struct {
	signing time.Duration // of the last batch
	calls   int           // in it
}

// Bounds of the wait. They are shares of the signing time, in eighths, so a fast signer never waits, and whoever comes just
// too late for a signature has his own within three of them.
const (
	lingerShare = 6                      // in all
	quietShare  = 1                      // while nobody comes
	maxLinger   = 45 * time.Millisecond  // in all, whatever the device
	maxQuiet    = 5 * time.Millisecond   // while nobody comes
	minQuiet    = 200 * time.Microsecond // less is not worth a timer
	lingerTick  = 500 * time.Microsecond // between two looks at the queue
)

// wait is a batch that is held open.
type wait struct {
	most, quiet time.Duration // 0: do not wait
	expected    int           // calls; when they are there nothing is worth waiting for
	began       time.Time
	waiting     int       // calls in the queue at the last look
	arrived     time.Time // when that number last grew
}

// hold begins a wait for as many calls as are expected. A lone caller does not wait.
func (p pace) hold(expected int, now time.Time) wait {
	w := wait{
		most: min(p.signing*lingerShare/8, maxLinger), quiet: min(p.signing*quietShare/8, maxQuiet),
		expected: expected, began: now, arrived: now,
	}
	if p.calls < 2 || w.quiet < minQuiet {
		w.most, w.quiet = 0, 0
	}
	return w
}

// over says whether the batch shall be closed, with as many calls waiting.
func (w *wait) over(waiting int, now time.Time) bool {
	if waiting > w.waiting {
		w.waiting, w.arrived = waiting, now
	}
	return waiting >= w.expected || now.Sub(w.arrived) >= w.quiet || now.Sub(w.began) >= w.most
}

// linger waits for company; false: the sequencer is closed.
func (s *Sequencer) linger(p pace) bool {
	s.mu.Lock()
	expected := s.expected
	s.mu.Unlock()
	w := p.hold(expected, time.Now())
	if w.most == 0 {
		return true
	}
	tick := time.NewTicker(lingerTick)
	defer tick.Stop()
	for !w.over(len(s.queue)+1, time.Now()) { // and the first, which was taken already
		select {
		case <-tick.C:
		case <-s.stopped.Done():
			return false
		}
	}
	return true
}
