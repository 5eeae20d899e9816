package dns

import (
	"sync"

	"github.com/raypher/raypher/policy"
)

// nameRules are the rules of one network section that name hosts.
type nameRules struct{ grants, asks policy.HostIndex }

// maxIndexes bounds the sections whose rules are kept ready; one that is in use comes back with its next question.
const maxIndexes = 1024

// indexes are made of network sections once: a policy is never changed, only replaced.
type indexes struct {
	mu sync.Mutex
	by map[*policy.Network]nameRules
}

func (x *indexes) of(n *policy.Network) nameRules {
	x.mu.Lock()
	defer x.mu.Unlock()
	names, ok := x.by[n]
	if ok {
		return names
	}
	names = nameRules{n.Hosts(), n.HostsAsked()}
	if x.by == nil || len(x.by) >= maxIndexes {
		x.by = map[*policy.Network]nameRules{}
	}
	x.by[n] = names
	return names
}
