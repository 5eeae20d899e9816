package dns

import (
	"math"
	"strings"
	"sync"
	"time"

	"github.com/raypher/raypher/policy"
)

// What an agent may say by asking. A name that a rule spells out says nothing but that it was asked; below a wildcard the agent
// chooses the name, and whoever answers for it reads it. The limits leave room for programs as they are and little for a tunnel:
// at most maxBelow bytes in each of namesAtOnce names and then one more each nameEvery.
const (
	questionsPerSecond = 100 // of one agent, of every name and type
	questionsAtOnce    = 300

	maxBelow    = 100 // bytes in front of a wildcard's domain; names of clouds and of previews stay below 64
	maxRandom   = 32  // a label this long whose letters look drawn by lot is refused
	maxEntropy  = 4.2 // bits a letter: words and hexadecimal digits stay below 4.1, base32 and base64 of such length do not
	namesAtOnce = 60  // different names below one wildcard, of one agent
	nameEvery   = 6 * time.Second

	nameKnown  = time.Hour // for so long a name that was asked is no new one
	maxKnown   = 1024      // names of one agent that are known
	agentQuiet = time.Hour // an agent that asked nothing for so long is forgotten
)

// limits are what all agents asked lately.
type limits struct {
	mu     sync.Mutex
	agents map[uint64]*asker
}

// asker is one agent.
type asker struct {
	last      time.Time
	questions bucket
	below     map[string]*bucket   // by the wildcard's rule
	known     map[string]time.Time // names below wildcards, and when they were first asked
}

// bucket is full at first and refilled by time.
type bucket struct {
	left float64
	at   time.Time
}

func (b *bucket) take(now time.Time, most float64, every time.Duration) bool {
	if b.at.IsZero() {
		b.left = most
	} else {
		b.left = min(most, b.left+float64(now.Sub(b.at))/float64(every))
	}
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

func newLimits() *limits { return &limits{agents: map[uint64]*asker{}} }

func (l *limits) of(agent uint64, now time.Time) *asker {
	a := l.agents[agent]
	if a == nil {
		a = &asker{below: map[string]*bucket{}, known: map[string]time.Time{}}
		l.agents[agent] = a
	}
	a.last = now
	return a
}

// question counts one question of an agent; false: there are too many.
func (l *limits) question(agent uint64, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of(agent, now).questions.take(now, questionsAtOnce, time.Second/questionsPerSecond)
}

// name says why an agent must not send a granted name to an upstream, or nothing. rules are those that grant it or ask about it.
func (l *limits) name(agent uint64, name string, rules []policy.Endpoint, now time.Time) string {
	wildcard := wildcardOf(rules)
	if wildcard == "" {
		return ""
	}
	below := strings.TrimSuffix(name, wildcard[1:])
	if len(below) > maxBelow {
		return TooLong
	}
	for label := range strings.SplitSeq(below, ".") {
		if len(label) >= maxRandom && entropy(label) > maxEntropy {
			return TooRandom
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.of(agent, now)
	if since, known := a.known[name]; known && now.Sub(since) < nameKnown {
		return ""
	}
	b := a.below[wildcard]
	if b == nil {
		b = &bucket{}
		a.below[wildcard] = b
	}
	if !b.take(now, namesAtOnce, nameEvery) {
		return TooManyNames
	}
	if len(a.known) >= maxKnown {
		a.known = map[string]time.Time{}
	}
	a.known[name] = now
	return ""
}

// wildcardOf is the wildcard below which an agent chose a name; none where a rule spells the name out, and under default_action: allow,
// where a tunnel needs no names.
func wildcardOf(rules []policy.Endpoint) (wildcard string) {
	for _, e := range rules {
		if !strings.HasPrefix(e.Host, "*.") {
			return ""
		}
		if len(e.Host) > len(wildcard) { // the longest leaves the least to choose
			wildcard = e.Host
		}
	}
	return wildcard
}

// forget drops agents that are gone.
func (l *limits) forget(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, a := range l.agents {
		if now.Sub(a.last) > agentQuiet {
			delete(l.agents, id)
		}
	}
}

// entropy is Shannon's, of a label's letters, in bits a letter.
func entropy(label string) float64 {
	var count [256]int
	for i := range len(label) {
		count[label[i]]++
	}
	bits := 0.0
	for _, n := range count {
		if n > 0 {
			p := float64(n) / float64(len(label))
			bits -= p * math.Log2(p)
		}
	}
	return bits
}
