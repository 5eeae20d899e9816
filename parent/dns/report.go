package dns

import (
	"context"
	"sync"
	"time"
)

// reportsPerSecond bounds the different questions of one agent that are reported one by one.
const reportsPerSecond = 64

// reports folds equal refusals: the first is handed over at once, those of the same second follow as one.
type reports struct {
	to func(Query)

	mu     sync.Mutex
	folded map[Query]uint32 // further equal ones; the key has no time and no count
	first  map[Query]time.Time
	single map[uint64]int   // reported one by one, by agent
	others map[uint64]Query // beyond that
}

func newReports(to func(Query)) *reports {
	if to == nil {
		to = func(Query) {}
	}
	r := &reports{to: to}
	r.reset()
	return r
}

func (r *reports) reset() {
	r.folded, r.first = map[Query]uint32{}, map[Query]time.Time{}
	r.single, r.others = map[uint64]int{}, map[uint64]Query{}
}

// add takes a refusal without time and count.
func (r *reports) add(q Query) {
	r.mu.Lock()
	if _, seen := r.first[q]; seen {
		r.folded[q]++
		r.mu.Unlock()
		return
	}
	now := time.Now()
	if r.single[q.CgroupID] >= reportsPerSecond {
		o := r.others[q.CgroupID]
		if o.Count == 0 {
			o = Query{Time: now, CgroupID: q.CgroupID, Protocol: q.Protocol, Reason: OtherNames, Mode: q.Mode}
		}
		o.Count++
		r.others[q.CgroupID] = o
		r.mu.Unlock()
		return
	}
	r.single[q.CgroupID]++
	r.first[q] = now
	r.mu.Unlock()
	q.Time, q.Count = now, 1
	r.to(q)
}

// run hands over what was folded, each second and at the end.
func (r *reports) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.flush()
		case <-ctx.Done():
			r.flush()
			return
		}
	}
}

func (r *reports) flush() {
	r.mu.Lock()
	folded, first, others := r.folded, r.first, r.others
	r.reset()
	r.mu.Unlock()
	for q, n := range folded {
		q.Time, q.Count = first[q], n
		r.to(q)
	}
	for _, q := range others {
		r.to(q)
	}
}
