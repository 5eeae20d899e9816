package agents

import (
	"bytes"
	"crypto/sha256"
	"sync"
)

// Bounds of what is remembered.
const (
	maxPermits = 256
	maxPermit  = 64 << 10 // bytes
)

// permits remembers what was granted on which rules: a ceiling may have added something of its own. It only tells runners what to
// get ready for; what an agent gets is what the enclave says each time.
type permits struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte][]byte
}

// of is the permit that an agent will most likely be granted: the one of the last time, else what it asks for.
func (p *permits) of(a *Agent) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if permit, ok := p.known[rulesOf(a)]; ok {
		return permit
	}
	return a.asked
}

// keep notes what an agent was granted, if that is not what it asks for.
func (p *permits) keep(a *Agent, permit []byte) {
	key := rulesOf(a)
	p.mu.Lock()
	defer p.mu.Unlock()
	if bytes.Equal(permit, a.asked) || len(permit) > maxPermit {
		delete(p.known, key)
		return
	}
	if p.known == nil || len(p.known) >= maxPermits {
		p.known = make(map[[sha256.Size]byte][]byte)
	}
	p.known[key] = permit
}

// rulesOf names an agent's rules, and whose they are.
func rulesOf(a *Agent) [sha256.Size]byte {
	rules := sha256.New()
	for _, part := range [][]byte{a.asked, a.manifest, []byte(a.user), []byte(a.name), a.digest} {
		sum := sha256.Sum256(part)
		rules.Write(sum[:])
	}
	return [sha256.Size]byte(rules.Sum(nil))
}
