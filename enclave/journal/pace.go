package sequencer

import "time"

// pace decides how long a batch waits for company. Callers otherwise fall into groups that take turns: one waits for a signature and
// its sync while another, just served, has come back too late for it, and each visa takes two batches' time. Holding the batch
// open until those who were served are back lets all of them share every signature and every sync.
type pace struct {
	signing time.Duration // of the last batch
	calls   int           // in it
}

// Bounds of the wait. They are shares of the signing time, in eighths, so whoever comes just too late for a signature of a slow
// device has his own within three of them. However fast it signs, a batch also costs both sides a sync and some dozen
// switches between threads, which are worth the least bounds.
const (
	lingerShare = 6                      // in all
	quietShare  = 1                      // while nobody comes
	maxLinger   = 45 * time.Millisecond  // in all, whatever the device
	maxQuiet    = 5 * time.Millisecond   // while nobody comes
	minLinger   = 5 * time.Millisecond   // in all, as many callers come back to a fast device
	minQuiet    = 1 * time.Millisecond   // while nobody comes
	lingerTick  = 500 * time.Microsecond // at most, between two looks at the queue
)

// wait is a batch that is held open.
type wait struct {
	most, quiet time.Duration // 0: do not wait
	expected    int           // calls; when they are there nothing is worth waiting for
	began       time.Time     // when those of the last batch were released
	waiting     int           // calls in the queue at the last look
	arrived     time.Time     // when that number last grew
}

// hold begins a wait for as many calls as are expected to come back since those of the last batch were released. A lone caller
// does not wait, and nobody waits for those who were released too long ago.
func (p pace) hold(expected int, released, now time.Time) wait {
	w := wait{
		most:  max(minLinger, min(p.signing*lingerShare/8, maxLinger)),
		quiet: max(minQuiet, min(p.signing*quietShare/8, maxQuiet)), expected: expected, began: released, arrived: now,
	}
	if p.calls < 2 {
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
	expected, released := s.expected, s.released
	s.mu.Unlock()
	now := time.Now()
	w := p.hold(expected, released, now)
	if w.over(len(s.queue)+1, now) { // and the first, which was taken already
		return true
	}
	s.wanted.Store(int64(expected - 1))
	defer s.wanted.Store(0)
	tick := time.NewTicker(min(lingerTick, w.quiet/2))
	defer tick.Stop()
	for !w.over(len(s.queue)+1, time.Now()) {
		select {
		case <-s.enough:
		case <-tick.C:
		case <-s.stopped.Done():
			return false
		}
	}
	return true
}

// queued tells the writer when all whom it waits for are in the queue.
func (s *Sequencer) queued() {
	if wanted := s.wanted.Load(); wanted == 0 || int64(len(s.queue)) < wanted {
		return
	}
	select {
	case s.enough <- struct{}{}:
	default: // it was told
	}
}
