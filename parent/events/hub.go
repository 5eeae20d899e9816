// Package events carries the guard's verdicts from where they are made to where they are kept and watched.
//
// Wardens, the network guard and the DNS forwarder report; the hub folds equal verdicts (the first one at once, those that
// follow within a second as one more with a count), has the enclave record them, and hands them to subscribers. Reporting
// never waits: what finds no room in a bounded queue is counted, and the loss itself becomes a verdict in the journal.
//
// While the enclave cannot be reached, verdicts are kept in a bounded file, the spool, and are recorded later, also by the
// next raypherd. Recording is at least once: a raypherd that is killed while it empties the spool records some twice.
package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/raypher/raypher/journal"
)

// Bounds of the hub.
const (
	foldFor  = time.Second            // equal verdicts within this time become one entry
	foldTick = 100 * time.Millisecond // how often finished folds are looked for
	// Entries of one agent for one operation, at once and a second in the long run, before its targets are told apart no longer:
	// an agent must not fill the disk. It is more than the broker lets through, which makes an agent wait.
	burst       = 512
	rate        = 20.0
	maxKinds    = 64 // operations of one agent that have such a budget of their own; the others share one
	maxCounters = 4096
	maxPending  = 65536           // verdicts that wait to be recorded
	maxBatch    = 256             // verdicts in one call to the enclave
	historySize = 1024            // events that a new subscriber sees first
	callTimeout = 5 * time.Second // for one call to the enclave
	retryAfter  = time.Second     // after a call that failed
)

// ManyTargets stands for the targets of an agent that tried more different things with one operation than are told apart. Their
// number is exact, their names are gone; those of its other operations are not.
const ManyTargets = "(other targets)"

// ErrRefused says that the enclave found a verdict malformed: there is no use in sending it again.
var ErrRefused = errors.New("the enclave refuses a verdict")

// Options say what a hub works with. All fields are needed.
type Options struct {
	// Record appends encoded verdicts to the journal and returns where the first one lies; the others follow it. An error
	// that is ErrRefused means that one of them is malformed, and that none was recorded.
	Record func(ctx context.Context, verdicts [][]byte) (epoch []byte, first uint64, err error)
	// Spool is the path of the spool file; its folder exists.
	Spool string
	Log   *slog.Logger
}

// Hub takes verdicts and passes them on. Its methods may be called from several goroutines.
type Hub struct {
	options Options
	spool   *spool

	mu          sync.Mutex
	folds       map[string]*agentFolds
	pending     []journal.Verdict
	lost        map[string]uint64 // verdicts without room, by agent, until the loss is recorded
	history     []Event
	subscribers map[*Subscription]struct{}
	counters    map[string]uint64
	wake        chan struct{} // one slot: there is something to record
}

// Event is a verdict and where it lies in the journal.
type Event struct {
	Verdict journal.Verdict
	Epoch   []byte // nil while it is not in the journal yet
	Index   uint64
}

// key is what makes two verdicts of one agent equal. The process is left out: a flood by many processes is one flood.
type key struct {
	decision, layer, operation, target, rule string
	errno                                    int32
	asPassed                                 bool
}

// agentFolds are the open folds of one agent, and how many entries it may still cause, by kind.
type agentFolds struct {
	folds   map[key]*fold
	budgets map[kind]*budget
}

// kind is what a budget is for: a flood of one kind must not take the names from another. What an agent is let do counts apart
// from what it is refused.
type kind struct{ decision, layer, operation string }

func (k key) kind() kind { return kind{k.decision, k.layer, k.operation} }

type budget struct {
	left  float64
	since time.Time
}

// take uses up one entry of a kind, if there is one.
func (a *agentFolds) take(of kind, now time.Time) bool {
	b := a.budgets[of]
	if b == nil && len(a.budgets) >= maxKinds {
		of = kind{}
		b = a.budgets[of]
	}
	if b == nil {
		b = &budget{left: burst, since: now}
		a.budgets[of] = b
	}
	b.left = min(burst, b.left+rate*now.Sub(b.since).Seconds())
	b.since = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// idle says whether nothing is remembered of the agent that a new one would not have.
func (a *agentFolds) idle(now time.Time) bool {
	for _, b := range a.budgets {
		if b.left+rate*now.Sub(b.since).Seconds() < burst {
			return false
		}
	}
	return len(a.folds) == 0
}

// fold counts what is equal to a verdict that has gone out.
type fold struct {
	until   time.Time
	verdict journal.Verdict // the first that has not gone out, with their number as Count; Count 0: none
	notify  func(journal.Verdict)
}

// New returns a hub, with what an earlier one left in the spool. Run makes it work.
func New(o Options) (*Hub, error) {
	s, err := openSpool(o.Spool)
	if err != nil {
		return nil, err
	}
	return &Hub{
		options:     o,
		spool:       s,
		folds:       make(map[string]*agentFolds),
		lost:        make(map[string]uint64),
		subscribers: make(map[*Subscription]struct{}),
		counters:    make(map[string]uint64),
		wake:        make(chan struct{}, 1),
	}, nil
}

// Report takes one verdict. It never blocks. notify, if not nil, is called for each verdict that comes of it after folding,
// from the caller's goroutine or from the hub's; it must not block.
func (h *Hub) Report(v journal.Verdict, notify func(journal.Verdict)) {
	v.Count = max(v.Count, 1)
	now := time.Now()
	h.mu.Lock()
	h.counters["verdicts_"+v.Decision] += uint64(v.Count)
	out := h.foldIn(&v, notify, now)
	if out {
		h.queue(v)
	}
	h.mu.Unlock()
	if out && notify != nil {
		notify(v)
	}
}

// foldIn says whether v goes out at once; h.mu is held. It may make v coarser.
func (h *Hub) foldIn(v *journal.Verdict, notify func(journal.Verdict), now time.Time) bool {
	agent := h.folds[v.AgentID]
	if agent == nil {
		agent = &agentFolds{folds: make(map[key]*fold), budgets: make(map[kind]*budget)}
		h.folds[v.AgentID] = agent
	}
	k := keyOf(v)
	f := agent.folds[k]
	if f == nil && agent.take(k.kind(), now) {
		agent.folds[k] = &fold{until: now.Add(foldFor), notify: notify}
		return true
	}
	if f == nil {
		h.counters["verdicts_coarse"] += uint64(v.Count)
		agent.coarse(v, notify, now)
		return false
	}
	h.counters["verdicts_folded"] += uint64(v.Count)
	f.add(v, notify)
	return false
}

// coarse folds v into the one that stands for everything of its kind.
func (a *agentFolds) coarse(v *journal.Verdict, notify func(journal.Verdict), now time.Time) {
	v.Target, v.Rule, v.Errno, v.AsPassed = ManyTargets, "", 0, false
	k := keyOf(v)
	f := a.folds[k]
	if f == nil {
		f = &fold{until: now.Add(foldFor)}
		a.folds[k] = f
	}
	f.add(v, notify)
}

func (f *fold) add(v *journal.Verdict, notify func(journal.Verdict)) {
	if f.verdict.Count == 0 {
		f.verdict, f.notify = *v, notify
		return
	}
	f.verdict.Count = addCount(f.verdict.Count, v.Count)
}

func keyOf(v *journal.Verdict) key {
	return key{v.Decision, v.Layer, v.Operation, v.Target, v.Rule, v.Errno, v.AsPassed}
}

// addCount adds without going round.
func addCount(a, b uint32) uint32 {
	if a+b < a {
		return ^uint32(0)
	}
	return a + b
}

// queue puts v in line for the journal; h.mu is held.
func (h *Hub) queue(v journal.Verdict) {
	if len(h.pending) >= maxPending {
		h.lose(v)
		return
	}
	h.pending = append(h.pending, v)
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// lose counts a verdict that cannot be kept; h.mu is held.
func (h *Hub) lose(v journal.Verdict) {
	h.lost[v.AgentID] += uint64(v.Count)
	h.counters["verdicts_lost"] += uint64(v.Count)
}

// Lost tells the hub of n verdicts of an agent that were lost before they reached it.
func (h *Hub) Lost(agent string, n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost[agent] += n
	h.counters["verdicts_lost"] += n
}

// Count adds to a counter: what an agent in mode permissive did, by operation, and what other parts want shown in the status.
func (h *Hub) Count(name string, n uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.counters[name]; !known && len(h.counters) >= maxCounters {
		name = "other"
	}
	h.counters[name] += n
}

// Counters returns a copy of all counters. They only grow, except for those that say how much waits.
func (h *Hub) Counters() map[string]uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	counters := make(map[string]uint64, len(h.counters)+2)
	for name, n := range h.counters {
		counters[name] = n
	}
	counters["verdicts_waiting"] = uint64(len(h.pending))
	counters["verdicts_spooled"] = h.spool.count()
	return counters
}

// tick sends out the folds whose time is over. A flood keeps its fold open: one entry for each second that it lasts.
func (h *Hub) tick(now time.Time, all bool) {
	type call struct {
		notify  func(journal.Verdict)
		verdict journal.Verdict
	}
	var calls []call
	h.mu.Lock()
	for id, agent := range h.folds {
		for k, f := range agent.folds {
			if !all && now.Before(f.until) {
				continue
			}
			if f.verdict.Count == 0 {
				delete(agent.folds, k)
				continue
			}
			if k.target != ManyTargets && !all && !agent.take(k.kind(), now) {
				agent.coarse(&f.verdict, f.notify, now)
				delete(agent.folds, k)
				continue
			}
			h.queue(f.verdict)
			if f.notify != nil {
				calls = append(calls, call{f.notify, f.verdict})
			}
			f.verdict, f.notify = journal.Verdict{}, nil
			f.until = now.Add(foldFor)
		}
		if agent.idle(now) {
			delete(h.folds, id)
		}
	}
	h.mu.Unlock()
	for _, c := range calls {
		c.notify(c.verdict)
	}
}

// loss turns what was lost into verdicts; h.mu is held.
func (h *Hub) loss() []journal.Verdict {
	var out []journal.Verdict
	for agent, n := range h.lost {
		if agent == "" {
			agent = "host"
		}
		out = append(out, journal.Verdict{
			Time: time.Now().UnixNano(), AgentID: agent, Decision: journal.Log, Layer: "events", Operation: "lost",
			Target: fmt.Sprintf("%d verdicts found no room", n), Count: uint32(min(n, uint64(^uint32(0)))),
		})
	}
	clear(h.lost)
	return out
}
