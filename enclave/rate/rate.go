// Package rate bounds how often something is done: token buckets, one for all or one for each subject.
package rate

import (
	"container/list"
	"sync"
	"time"
)

// MaxSubjects is how many subjects a Keyed remembers; a forgotten one starts with a full bucket.
const MaxSubjects = 8192

// Limiter is a token bucket. It is safe for concurrent use.
type Limiter struct {
	mu     sync.Mutex
	rate   float64 // tokens a second
	burst  float64
	tokens float64
	last   time.Time
}

// New makes a full bucket that holds seconds' worth of tokens, at least one.
func New(rate, seconds float64) *Limiter {
	burst := max(rate*seconds, 1)
	return &Limiter{rate: rate, burst: burst, tokens: burst}
}

// Take takes one token, if there is one. A clock that goes backwards refills nothing.
func (l *Limiter) Take(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last.IsZero() {
		l.last = now
	}
	if elapsed := now.Sub(l.last); elapsed > 0 {
		l.tokens = min(l.burst, l.tokens+elapsed.Seconds()*l.rate)
		l.last = now
	}
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}

// Keyed holds a bucket for each of the most recently seen subjects. A parent that invents subjects to get around it is
// held by the limit over all of them.
type Keyed struct {
	rate, seconds float64

	mu    sync.Mutex
	byKey map[string]*list.Element
	order list.List // of named, most recent first
}

type named struct {
	subject string
	limiter *Limiter
}

// NewKeyed makes no bucket yet; each will be one of New.
func NewKeyed(rate, seconds float64) *Keyed {
	return &Keyed{rate: rate, seconds: seconds, byKey: make(map[string]*list.Element)}
}

// Take takes one token of the subject, if there is one. It is safe for concurrent use.
func (s *Keyed) Take(subject string, now time.Time) bool {
	return s.of(subject).Take(now)
}

func (s *Keyed) of(subject string) *Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byKey[subject]; e != nil {
		s.order.MoveToFront(e)
		return e.Value.(named).limiter
	}
	l := New(s.rate, s.seconds)
	s.byKey[subject] = s.order.PushFront(named{subject, l})
	if s.order.Len() > MaxSubjects {
		delete(s.byKey, s.order.Remove(s.order.Back()).(named).subject)
	}
	return l
}
