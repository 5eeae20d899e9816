package mint

import (
	"container/list"
	"sync"
	"time"
)

const (
	agentBurst  = 5    // seconds' worth of visas that one subject may take at once
	maxSubjects = 8192 // whose rate is remembered; a forgotten one starts with a full bucket
)

// limiter is a token bucket. It is safe for concurrent use.
type limiter struct {
	mu     sync.Mutex
	rate   float64 // tokens a second
	burst  float64
	tokens float64
	last   time.Time
}

// newLimiter makes a full bucket that holds seconds' worth of tokens, at least one.
func newLimiter(rate, seconds float64) *limiter {
	burst := max(rate*seconds, 1)
	return &limiter{rate: rate, burst: burst, tokens: burst}
}

// take takes one token, if there is one. A clock that goes backwards refills nothing.
func (l *limiter) take(now time.Time) bool {
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

// limiters holds a bucket for each of the most recently seen subjects. A parent that invents subjects to get around it is
// held by the limit over all of them.
type limiters struct {
	rate, seconds float64

	mu    sync.Mutex
	byKey map[string]*list.Element
	order list.List // of named, most recent first
}

type named struct {
	subject string
	limiter *limiter
}

func newLimiters(rate, seconds float64) *limiters {
	return &limiters{rate: rate, seconds: seconds, byKey: make(map[string]*list.Element)}
}

func (s *limiters) take(subject string, now time.Time) bool {
	return s.of(subject).take(now)
}

func (s *limiters) of(subject string) *limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byKey[subject]; e != nil {
		s.order.MoveToFront(e)
		return e.Value.(named).limiter
	}
	l := newLimiter(s.rate, s.seconds)
	s.byKey[subject] = s.order.PushFront(named{subject, l})
	if s.order.Len() > maxSubjects {
		delete(s.byKey, s.order.Remove(s.order.Back()).(named).subject)
	}
	return l
}
