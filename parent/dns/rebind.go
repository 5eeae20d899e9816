package dns

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/raypher/raypher/policy"
)

// Whoever answers for a name chooses its addresses, and may choose others from one question to the next (DNS rebinding). So no
// answer opens an address that is reserved; one of a private network only by a rule that says private.
// What the hosts file says the operator wrote, and it holds as it is.

// end is what an address is that an answer points to.
type end struct {
	what     string // in words; empty: a public address, or one from the hosts file
	reserved bool
}

func look(a netip.Addr, local bool) end {
	if local {
		return end{}
	}
	if what, reserved := policy.Reserved(a); reserved {
		return end{what, true}
	}
	if what, private := policy.Private(a); private {
		return end{what, false}
	}
	return end{}
}

// opened reports whether a rule that names the host opens the address.
func (e end) opened(rule policy.Endpoint) bool { return e.what == "" || !e.reserved && rule.Private }

// closed reports whether an answer must not point to the address. It may to one that a rule grants as an address, which is open
// only as that rule says.
func (e end) closed(q *question, a netip.Addr) bool {
	if e.what == "" || slices.ContainsFunc(q.rules, e.opened) || slices.ContainsFunc(q.asks, e.opened) {
		return false
	}
	n := q.agent.Network
	return !n.Grants(a) && (e.reserved || n == nil || n.DefaultAction != policy.Allow)
}

// reason is what is reported of an answer that points to the address.
func (e end) reason(a netip.Addr) string {
	text := fmt.Sprintf("answer points to %s (%s)", a, e.what)
	if !e.reserved {
		text += ": a rule that says private opens it"
	}
	return text
}
