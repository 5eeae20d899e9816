package approvals

import "errors"

// ErrSlow ends a watcher that does not take what changes.
var ErrSlow = errors.New("too many changes wait for this watcher: watch again")

// ErrWatchers refuses one watcher too many.
var ErrWatchers = errors.New("too many watch the questions already")

// Watcher gets what changes, in its order. C is closed at its end; Err says why.
type Watcher struct {
	C     <-chan Change
	to    chan Change
	agent string
	desk  *Desk
	slow  bool
}

// Watch returns the open questions of an agent, of all when it is empty, and a watcher of what comes after them. The caller
// closes it.
func (d *Desk) Watch(agent string) ([]Question, *Watcher, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if len(d.watchers) >= maxWatchers {
		return nil, nil, ErrWatchers
	}
	to := make(chan Change, watcherRoom)
	w := &Watcher{C: to, to: to, agent: agent, desk: d}
	d.watchers[w] = struct{}{}
	if d.ended {
		d.end(w)
	}
	return d.list(agent), w, nil
}

// Err says why C was closed; nil: by Close, or because raypherd ends.
func (w *Watcher) Err() error {
	w.desk.mutex.Lock()
	defer w.desk.mutex.Unlock()
	if w.slow {
		return ErrSlow
	}
	return nil
}

// Close ends the watcher.
func (w *Watcher) Close() {
	w.desk.mutex.Lock()
	defer w.desk.mutex.Unlock()
	w.desk.end(w)
}

// end closes a watcher. The mutex is held.
func (d *Desk) end(w *Watcher) {
	if _, is := d.watchers[w]; is {
		delete(d.watchers, w)
		close(w.to)
	}
}

// tell passes a change on and waits for nobody. The mutex is held.
func (d *Desk) tell(c Change) {
	for w := range d.watchers {
		if w.agent != "" && w.agent != c.Question.AgentID {
			continue
		}
		select {
		case w.to <- c:
		default:
			w.slow = true
			d.end(w)
		}
	}
}
