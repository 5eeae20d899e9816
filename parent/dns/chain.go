package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	maxChain     = 16 // names of one chain of aliases, over all questions
	maxFollowed  = 4  // further questions, where an upstream does not follow aliases itself
	maxAddresses = 64 // of one name
)

var errChain = errors.New("its aliases lead in a circle, or on and on")

// chain follows the aliases of a name through answers. Only addresses at its end are believed, whoever else an answer names.
type chain struct {
	qtype uint16
	names []string // from the one that was asked
	addrs []netip.Addr
	ttl   time.Duration // the least of all links
}

func newChain(name string, qtype uint16) *chain {
	return &chain{qtype: qtype, names: []string{dns.Fqdn(name)}, ttl: maxGrant}
}

// end is the last name that is known.
func (c *chain) end() string { return c.names[len(c.names)-1] }

// follow walks on as far as one answer leads.
func (c *chain) follow(m *dns.Msg) error {
	for {
		alias := c.link(m.Answer)
		if len(c.addrs) > 0 || alias == "" {
			return nil
		}
		if len(c.names) >= maxChain {
			return fmt.Errorf("%s: %w", c.names[0], errChain)
		}
		c.names = append(c.names, alias)
	}
}

// link takes what records say of the last name: its addresses, and where an alias leads.
func (c *chain) link(records []dns.RR) (alias string) {
	for _, rr := range records {
		h := rr.Header()
		if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, c.end()) {
			continue
		}
		var a netip.Addr
		switch rr := rr.(type) {
		case *dns.A:
			a, _ = netip.AddrFromSlice(rr.A.To4())
		case *dns.AAAA:
			a, _ = netip.AddrFromSlice(rr.AAAA)
		case *dns.CNAME:
			alias = rr.Target
		}
		if h.Rrtype != dns.TypeCNAME && (h.Rrtype != c.qtype || !a.IsValid()) {
			continue
		}
		c.ttl = min(c.ttl, lifetime(h.Ttl))
		if a.IsValid() && !slices.Contains(c.addrs, a) && len(c.addrs) < maxAddresses {
			c.addrs = append(c.addrs, a)
		}
	}
	return alias
}

// lifetime reads a time to live: one with the highest bit set is none (RFC 2181 section 8).
func lifetime(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

// noneFor is how long an answer without addresses holds (RFC 2308 section 5).
func noneFor(m *dns.Msg) time.Duration {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(lifetime(soa.Hdr.Ttl), lifetime(soa.Minttl))
		}
	}
	return 0
}
