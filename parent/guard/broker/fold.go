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

// fold reports verdicts. It is safe for concurrent use.
type fold struct {
	report func(journal.Verdict)

	mutex  sync.Mutex
	open   map[foldKey]*folded
	closed bool
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
	return &fold{report: report, open: map[foldKey]*folded{}}
}

func (f *fold) add(v journal.Verdict) {
	if f.report == nil {
		return
	}
	key := foldKey{v.Decision, v.Layer, v.Operation, v.Target, v.Rule, v.Errno}
	f.mutex.Lock()
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
	f.mutex.Unlock()
	f.report(v)
}

// end reports what came after the first. As long as more comes, it goes on folding.
func (f *fold) end(key foldKey) {
	f.mutex.Lock()
	one := f.open[key]
	if one == nil {
		f.mutex.Unlock()
		return
	}
	v, count := one.last, one.count
	if count == 0 || f.closed {
		delete(f.open, key)
	} else {
		one.count = 0
		one.timer.Reset(foldTime)
	}
	f.mutex.Unlock()
	if count > 0 {
		v.Count = count
		f.report(v)
	}
}

// close reports all that is still folded.
func (f *fold) close() {
	f.mutex.Lock()
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
}
