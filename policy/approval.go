package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// Approval says how long a call waits for a person whom require_approval asks.
type Approval struct {
	Timeout   string    `json:"timeout,omitempty"` // 1s to 24h, like 5m; absent with on_timeout: wait
	OnTimeout OnTimeout `json:"on_timeout,omitempty"`
}

// OnTimeout is what happens to a call that nobody answered in time.
type OnTimeout string

const (
	TimeoutDeny OnTimeout = "deny" // it fails
	TimeoutWait OnTimeout = "wait" // there is no such time: it waits for ever
)

// DefaultApprovalTimeout is how long a call waits where the policy does not say.
const DefaultApprovalTimeout = 5 * time.Minute

const maxApprovalTimeout = 24 * time.Hour

// ApprovalLimit is how long a call waits for a person; 0: for ever.
func (p *Policy) ApprovalLimit() time.Duration {
	switch a := p.Approval; {
	case a == nil:
		return DefaultApprovalTimeout
	case a.OnTimeout == TimeoutWait:
		return 0
	default:
		limit, _ := parseTimeout(a.Timeout) // checked by validation
		return cmp.Or(limit, DefaultApprovalTimeout)
	}
}

func parseTimeout(text string) (time.Duration, *fault) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second || d > maxApprovalTimeout || d%time.Second != 0 {
		return 0, faultf("write whole seconds, minutes or hours from 1s to 24h, like 5m", "%q is no time to wait", shorten(text))
	}
	return d, nil
}

// spellTimeout writes a time in one way: 300s and 5m0s as 5m.
func spellTimeout(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// normalised is the section with its defaults.
func (a *Approval) normalised() *Approval {
	if a == nil {
		return nil
	}
	n := &Approval{Timeout: a.Timeout, OnTimeout: withDefault(a.OnTimeout, TimeoutDeny)}
	if limit, f := parseTimeout(a.Timeout); f == nil && n.OnTimeout == TimeoutDeny {
		n.Timeout = spellTimeout(cmp.Or(limit, DefaultApprovalTimeout))
	}
	return n
}

func (v *validation) approval(a *Approval) {
	_, f := parseTimeout(a.Timeout)
	v.report("approval.timeout", f)
	v.report("approval.on_timeout", oneOf(a.OnTimeout, TimeoutDeny, TimeoutWait))
	if a.OnTimeout == TimeoutWait && a.Timeout != "" {
		v.report("approval.timeout", faultf("leave one of them out", "on_timeout: wait has no timeout"))
	}
}

// asksNetwork checks the destinations that ask. None may be granted without asking: what the kernel lets through, nobody could hold.
func (v *validation) asksNetwork(n *Network) {
	v.list("network.require_approval", n.RequireApproval, func(text string) *fault {
		asks, f := parseEgress(text)
		if f != nil {
			return f
		}
		if n.DefaultAction == Allow {
			return faultf("write default_action: drop, and list in egress what needs no question", "%q is granted already by default_action: allow", text)
		}
		for _, rule := range n.Egress {
			if e, f := parseEgress(rule); f == nil && overlaps(asks, e) {
				return faultf("leave it out of one of them: what egress grants is not asked about", "%q is granted already by egress %q", text, rule)
			}
		}
		return nil
	})
}

// overlaps reports whether two rules name a destination in common, as far as that can be told without resolving names.
func overlaps(a, b Endpoint) bool {
	if a.Port != 0 && b.Port != 0 && a.Port != b.Port {
		return false
	}
	if a.Host != "" || b.Host != "" {
		return a.Host != "" && b.Host != "" && (hostCovers(a.Host, b.Host) || hostCovers(b.Host, a.Host))
	}
	_, reservedA := reservedPrefix(a.Prefix)
	_, reservedB := reservedPrefix(b.Prefix)
	return reservedA == reservedB && a.Prefix.Overlaps(b.Prefix) // what is reserved lies in no wider rule
}

// Asks reports whether require_approval names a destination: addr, or one of the names that it was resolved from. The rule is as
// written.
func (n *Network) Asks(addr netip.Addr, port uint16, names ...string) (rule string, ok bool) {
	if n == nil {
		return "", false
	}
	addr = addr.Unmap().WithZone("")
	for _, text := range n.RequireApproval {
		e, f := parseEgress(text)
		if f != nil || e.Port != 0 && e.Port != port {
			continue
		}
		if e.Host == "" && e.holds(addr) {
			return text, true
		}
		for _, name := range names {
			if e.Host != "" && hostCovers(e.Host, name) {
				return text, true
			}
		}
	}
	return "", false
}

// AsksName reports whether require_approval names a host, in any spelling that DNS takes for the same.
func (n *Network) AsksName(name string) bool { return len(n.AskedHosts(name)) > 0 }

// AskedHosts returns all rules of require_approval that name a host.
func (n *Network) AskedHosts(name string) []Endpoint {
	if n == nil {
		return nil
	}
	return matchHosts((&Network{Egress: n.RequireApproval}).Endpoints(), name)
}

// narrowApproval keeps the shorter time.
func narrowApproval(outer, inner *Policy) (*Approval, []Beyond) {
	if inner.Approval == nil {
		return outer.Approval, nil
	}
	if outer.Approval == nil {
		return inner.Approval, nil
	}
	above, wanted := outer.ApprovalLimit(), inner.ApprovalLimit()
	if above == 0 || wanted != 0 && wanted <= above {
		return inner.Approval, nil
	}
	what := "on_timeout: wait"
	if wanted != 0 {
		what = "timeout: " + spellTimeout(wanted)
	}
	return inner.Approval, []Beyond{{"approval", what, "the policy above refuses after " + spellTimeout(above)}}
}

// narrowAsked lists the destinations of an inner policy that an outer one grants in no way, or only after asking.
func narrowAsked(inner, outer *Network) []Beyond {
	if outer.DefaultAction == Allow {
		return endpointsBeyond("network.require_approval", reservedOf((&Network{Egress: inner.RequireApproval}).Endpoints()), outer.Endpoints(), farEnds)
	}
	asked := (&Network{Egress: inner.RequireApproval}).Endpoints()
	granted := outer.Endpoints()
	either := append(granted[:len(granted):len(granted)], (&Network{Egress: outer.RequireApproval}).Endpoints()...)
	beyond := endpointsBeyond("network.require_approval", asked, either, farEnds)
	egress := endpointsBeyond("network.egress", inner.Endpoints(), granted, farEnds)
	atAll := endpointsBeyond("network.egress", inner.Endpoints(), either, farEnds)
	for i, b := range egress {
		if len(atAll) < len(egress) && !contains(atAll, b) {
			egress[i].Reason = "the policy above asks a person: write it in require_approval"
		}
	}
	return append(egress, beyond...)
}

func contains(all []Beyond, one Beyond) bool {
	for _, b := range all {
		if b == one {
			return true
		}
	}
	return false
}

// approval says how long a question waits.
func (e *Explanation) approval(p *Policy) {
	asks := p.Filesystem != nil && len(p.Filesystem.RequireApproval) > 0 || p.Network != nil && len(p.Network.RequireApproval) > 0
	if !asks {
		return
	}
	what := "for ever"
	if limit := p.ApprovalLimit(); limit > 0 {
		what = fmt.Sprintf("%s, then it fails", spellTimeout(limit))
	}
	e.say("a call that waits for a person", saysLimited, what)
}

// GrantsAddress reports whether egress grants an address on a port; names aside.
func (n *Network) GrantsAddress(addr netip.Addr, port uint16) bool {
	addr = addr.Unmap()
	for _, e := range n.Endpoints() {
		if e.Host == "" && (e.Port == 0 || e.Port == port) && e.Prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// AsksHosts reports whether require_approval names hosts: then addresses alone do not tell what it asks about.
func (n *Network) AsksHosts() bool {
	for _, text := range n.RequireApproval {
		if e, f := parseEgress(text); f == nil && e.Host != "" {
			return true
		}
	}
	return false
}
