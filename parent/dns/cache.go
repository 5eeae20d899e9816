package dns

import (
	"context"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// What was answered is kept for its time to live. Below a wildcard at least minBelow: a question there is a signal to whoever
// answers for the domain, and asking known names again and again would be a tunnel that no limit on names sees.
const (
	minKept   = time.Second
	minBelow  = 30 * time.Second
	maxKept   = time.Hour
	maxNone   = 30 * time.Second // that there is none (RFC 2308)
	maxCached = 4096             // answers
)

// cache keeps answers, and makes one question of equal ones that are asked at once. All agents share it.
type cache struct {
	flights singleflight.Group

	mu sync.Mutex
	of map[cacheKey]cached
}

type cacheKey struct {
	name  string
	qtype uint16
}

type cached struct {
	found resolved
	at    time.Time     // when it was found
	kept  time.Duration // from then on, for who has no reason to keep it longer
}

func newCache() *cache { return &cache{of: map[cacheKey]cached{}} }

// resolve answers from what is kept, at least as long as least says, or by ask.
func (c *cache) resolve(ctx context.Context, name string, qtype uint16, least time.Duration, ask func(context.Context, string, uint16) (resolved, error)) (resolved, error) {
	key := cacheKey{name, qtype}
	if found, ok := c.look(key, least, time.Now()); ok {
		return found, nil
	}
	// Who joins waits as long as who came first: its time bounds the flight.
	any, err, _ := c.flights.Do(strconv.Itoa(int(qtype))+" "+name, func() (any, error) {
		found, err := ask(ctx, name, qtype)
		if err == nil {
			c.keep(key, found, time.Now())
		}
		return found, err
	})
	if err != nil {
		return resolved{}, err
	}
	return any.(resolved), nil
}

// look is an answer that is kept, with what is left of its time to live.
func (c *cache) look(key cacheKey, least time.Duration, now time.Time) (resolved, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.of[key]
	if !ok || now.Sub(e.at) > max(e.kept, least) {
		return resolved{}, false
	}
	e.found.ttl = max(0, e.found.ttl-now.Sub(e.at))
	return e.found, true
}

func (c *cache) keep(key cacheKey, found resolved, now time.Time) {
	kept := min(found.ttl, maxKept)
	if len(found.addrs) == 0 {
		kept = min(kept, maxNone)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.of) >= maxCached {
		c.makeRoom(now)
	}
	c.of[key] = cached{found: found, at: now, kept: kept}
}

// makeRoom drops what is over, or else any quarter.
func (c *cache) makeRoom(now time.Time) {
	for key, e := range c.of {
		if now.Sub(e.at) > max(e.kept, minBelow) {
			delete(c.of, key)
		}
	}
	for key := range c.of {
		if len(c.of) <= maxCached*3/4 {
			return
		}
		delete(c.of, key)
	}
}

// clear forgets all: other upstreams may know other answers.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.of)
}
