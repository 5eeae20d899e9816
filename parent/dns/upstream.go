package dns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	resolvConf    = "/etc/resolv.conf"
	tryTimeout    = 1500 * time.Millisecond // one upstream, one try
	rounds        = 2
	maxChain      = 16 // CNAME records followed within one answer
	maxFollowed   = 4  // further questions, where an upstream does not follow them itself
	maxAddresses  = 64 // of one name
	maxUpstreams  = 8
	upstreamsKept = 5 * time.Second // until /etc/resolv.conf is read again
)

// upstreams are the resolvers that granted names are asked of, in order.
type upstreams struct {
	fixed []string

	mu   sync.Mutex
	list []string
	read time.Time
}

func newUpstreams(fixed []string) (*upstreams, error) {
	u := &upstreams{}
	for _, text := range fixed {
		a, err := upstreamAddress(text)
		if err != nil {
			return nil, fmt.Errorf("dns forwarder: upstream %q: %w", text, err)
		}
		u.fixed = append(u.fixed, a)
	}
	return u, nil
}

func upstreamAddress(text string) (string, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return net.JoinHostPort(a.String(), "53"), nil
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil {
		return "", fmt.Errorf("not an address or address:port: %w", err)
	}
	return a.String(), nil
}

// current is the list in force.
func (u *upstreams) current() ([]string, error) {
	if len(u.fixed) > 0 {
		return u.fixed, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.read) < upstreamsKept && len(u.list) > 0 {
		return u.list, nil
	}
	f, err := os.Open(resolvConf)
	if err != nil {
		return nil, fmt.Errorf("finding upstreams: %w", err)
	}
	defer f.Close()
	u.list, u.read = parseResolvConf(f), time.Now()
	if len(u.list) == 0 {
		return nil, fmt.Errorf("finding upstreams: %s names no server", resolvConf)
	}
	return u.list, nil
}

// parseResolvConf reads the name servers of resolv.conf(5); other lines and addresses it cannot read are passed over.
func parseResolvConf(r io.Reader) []string {
	var list []string
	lines := bufio.NewScanner(r)
	for lines.Scan() && len(list) < maxUpstreams {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			list = append(list, net.JoinHostPort(a.String(), "53"))
		}
	}
	return list
}

// resolve asks for the addresses of a name, following aliases. Only an upstream's addresses for that chain are believed.
func (u *upstreams) resolve(ctx context.Context, name string, qtype uint16) (resolved, error) {
	owner, ttl := dns.Fqdn(name), maxGrant
	for range 1 + maxFollowed {
		m, err := u.ask(ctx, owner, qtype)
		if err != nil {
			return resolved{}, err
		}
		if m.Rcode != dns.RcodeSuccess {
			return resolved{rcode: m.Rcode}, nil
		}
		end, addrs, least := follow(m, owner, qtype)
		ttl = min(ttl, least)
		if len(addrs) > 0 || end == owner {
			return resolved{addrs: addrs, ttl: ttl}, nil
		}
		owner = end
	}
	return resolved{}, fmt.Errorf("%s: more than %d aliases", name, maxFollowed)
}

// follow walks the aliases of one answer from owner: where they end, the addresses there, and the least time to live.
func follow(m *dns.Msg, owner string, qtype uint16) (end string, addrs []netip.Addr, ttl time.Duration) {
	ttl, end = maxGrant, owner
	for range maxChain {
		alias := ""
		for _, rr := range m.Answer {
			h := rr.Header()
			if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, end) {
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
			if (h.Rrtype == qtype && a.IsValid() && !slices.Contains(addrs, a)) || h.Rrtype == dns.TypeCNAME {
				ttl = min(ttl, time.Duration(h.Ttl)*time.Second)
			}
			if h.Rrtype == qtype && a.IsValid() && !slices.Contains(addrs, a) && len(addrs) < maxAddresses {
				addrs = append(addrs, a)
			}
		}
		if len(addrs) > 0 || alias == "" {
			break
		}
		end = alias
	}
	return end, addrs, ttl
}

// ask puts one question to the upstreams in turn, until one answers with a name's addresses or that there is none.
func (u *upstreams) ask(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	list, err := u.current()
	if err != nil {
		return nil, err
	}
	last := errors.New("no upstream")
	for range rounds {
		for _, server := range list {
			if ctx.Err() != nil {
				return nil, fmt.Errorf("asking upstreams: %w", last)
			}
			m, err := exchange(ctx, server, name, qtype)
			switch {
			case err != nil:
				last = err
			case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
				return m, nil
			default:
				last = fmt.Errorf("%s answers %s", server, dns.RcodeToString[m.Rcode])
			}
		}
	}
	return nil, fmt.Errorf("asking upstreams: %w", last)
}

// exchange asks one upstream over UDP, and over TCP where the answer was cut. Each question has a socket, so a port, and an
// ID of its own; the library passes over answers with another ID, and what answers another question is refused here
// (RFC 5452).
func exchange(ctx context.Context, server, name string, qtype uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	q.SetEdns0(maxDatagram, false)
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: tryTimeout}
		m, _, err := c.ExchangeContext(ctx, q, server)
		if err != nil {
			return nil, err
		}
		if !m.Response || len(m.Question) != 1 || m.Question[0].Qtype != qtype || !strings.EqualFold(m.Question[0].Name, name) {
			return nil, fmt.Errorf("%s answers another question", server)
		}
		if !m.Truncated || network == "tcp" {
			return m, nil
		}
	}
	return nil, errors.New("unreachable")
}
