package dns

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/raypher/raypher/policy"
)

// Whoever answers for a name chooses its addresses, and may choose others from one question to the next (DNS rebinding). So no
// answer opens an address that is reserved; one of a private network, or of this host itself, only by a rule that says private.
// What the hosts file says the operator wrote, and it holds as it is.

// end is what an address is that an answer points to.
type end struct {
	what     string // in words; empty: a public address, or one from the hosts file
	reserved bool
}

func (s *Server) look(a netip.Addr, local bool) end {
	if local {
		return end{}
	}
	if what, reserved := policy.Reserved(a); reserved {
		return end{what, true}
	}
	if what, private := policy.Private(a); private {
		return end{what, false}
	}
	if s.own.holds(a) {
		return end{"this host", false}
	}
	return end{}
}

// opened reports whether a rule that names the host opens the address.
func (e end) opened(rule policy.Endpoint) bool { return e.what == "" || !e.reserved && rule.Private }

// closed reports whether an answer must not point to the address. It may to one that a rule grants as an address, which is open
// only as that rule says.
func (e end) closed(q *question, a netip.Addr) bool {
	if e.what == "" || q.agent.Network.Grants(a) {
		return false
	}
	for _, rule := range q.rules {
		if e.opened(rule) {
			return false
		}
	}
	for _, rule := range q.asks {
		if e.opened(rule) {
			return false
		}
	}
	return e.reserved || q.agent.Network == nil || q.agent.Network.DefaultAction != policy.Allow
}

// ownKept is how long the list of this host's addresses is used.
const ownKept = 5 * time.Second

// ownAddresses are those of this host's interfaces, in raypherd's network namespace.
type ownAddresses struct {
	interfaces func() ([]net.Addr, error)

	mu   sync.Mutex
	list map[netip.Addr]bool
	read time.Time
}

func (o *ownAddresses) holds(a netip.Addr) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.read) > ownKept {
		addrs, err := o.interfaces()
		if err != nil {
			return true // it may be
		}
		o.list, o.read = map[netip.Addr]bool{}, time.Now()
		for _, one := range addrs {
			if prefix, err := netip.ParsePrefix(one.String()); err == nil {
				o.list[prefix.Addr().Unmap()] = true
			}
		}
	}
	return o.list[a.Unmap().WithZone("")]
}
