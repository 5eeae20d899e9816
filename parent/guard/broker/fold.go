package broker

import (
	"sync"
	"time"

	"github.com/raypher/raypher/journal"
)

// Folding keeps floods small: the first verdict is reported at once, equal ones within foldTime follow as one with a count.
const (
	foldTime = time.Second
	maxFolds = 1024 // different verdicts that are kept apart at once; further ones are reported as they come
)

// An agent is refused so many different things at once without waiting, and so many a second in the long run. That is less than
// raypherd tells apart (package events), so that no flood makes it name a refusal of the broker as one of many: an agent that
// tries more waits for its answers.
const (
	reportBurst = 256
	reportEvery = time.Second / 16
)

// fold reports verdicts. It is safe for concurrent use.
type fold struct {
	report func(journal.Verdict)

	mutex   sync.Mutex
	open    map[foldKey]*folded
	blocked uint64    // all that was added as blocked, before anything else is done with it
	spent   time.Time // until then reports are due, at one each reportEvery (the theoretical arrival time of a GCRA, ITU-T I.371)
	closed  bool
	stop    chan struct{}  // closed with closed
	delayed sync.WaitGroup // verdicts that wait
}

// foldKey is what makes two verdicts equal.
type foldKey struct {
	decision, layer, operation, target, rule string
	errno                                    int32
}

type folded struct {
	last  journal.Verdict
	count uint32
	timer *time.Timer
}

func newFold(report func(journal.Verdict)) *fold {
	return &fold{report: report, open: map[foldKey]*folded{}, stop: make(chan struct{})}
}

// reserve takes the next place for a report and returns how long it lies ahead. f.mutex is held.
func (f *fold) reserve(now time.Time) time.Duration {
	if f.spent.Before(now) {
		f.spent = now
	}
	f.spent = f.spent.Add(reportEvery)
	return max(0, f.spent.Sub(now)-reportBurst*reportEvery)
}

// room reports whether there is a place for a report now. f.mutex is held.
func (f *fold) room(now time.Time) bool { return f.spent.Sub(now) < (reportBurst-1)*reportEvery }

// add reports a verdict, or folds it into one that was reported. For a refusal that nothing like it was reported of, it returns
// only when there is a place in the report: the caller's answer is as late.
func (f *fold) add(v journal.Verdict) {
	if f.report == nil {
		return
	}
	key := foldKey{v.Decision, v.Layer, v.Operation, v.Target, v.Rule, v.Errno}
	f.mutex.Lock()
	if v.Decision == journal.Block {
		f.blocked += uint64(max(v.Count, 1))
	}
	if known := f.open[key]; known != nil {
		if known.count == 0 {
			known.last.Time = v.Time
		}
		known.last.PID, known.last.Comm = v.PID, v.Comm
		known.count++
		f.mutex.Unlock()
		return
	}
	if len(f.open) < maxFolds && !f.closed {
		one := &folded{last: v}
		one.timer = time.AfterFunc(foldTime, func() { f.end(key) })
		f.open[key] = one
	}
	wait := time.Duration(0)
	if v.Decision == journal.Block && !f.closed {
		if wait = f.reserve(time.Now()); wait > 0 {
			f.delayed.Add(1)
			defer f.delayed.Done()
		}
	}
	f.mutex.Unlock()
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-f.stop:
		}
	}
	f.report(v)
}

// end reports what came after the first, unless there is no place for it yet. As long as more comes, it goes on folding.
func (f *fold) end(key foldKey) {
	f.mutex.Lock()
	one := f.open[key]
	if one == nil {
		f.mutex.Unlock()
		return
	}
	v, count := one.last, one.count
	switch now := time.Now(); {
	case count == 0 || f.closed:
		delete(f.open, key)
	case v.Decision == journal.Block && !f.room(now):
		one.timer.Reset(foldTime)
		count = 0
	default:
		if v.Decision == journal.Block {
			f.reserve(now)
		}
		one.count = 0
		one.timer.Reset(foldTime)
	}
	f.mutex.Unlock()
	if count > 0 {
		v.Count = count
		f.report(v)
	}
}

// close reports all that is still folded or waits. What is added from now on is reported at once.
func (f *fold) close() {
	f.mutex.Lock()
	if !f.closed {
		close(f.stop)
	}
	f.closed = true
	keys := make([]foldKey, 0, len(f.open))
	for key, one := range f.open {
		one.timer.Stop()
		keys = append(keys, key)
	}
	f.mutex.Unlock()
	for _, key := range keys {
		f.end(key)
	}
	f.delayed.Wait()
}
