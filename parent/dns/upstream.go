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
	rounds        = 2
	maxUpstreams  = 8
	maxSearch     = 32
	upstreamsKept = 5 * time.Second  // until /etc/resolv.conf is read again
	upstreamLast  = 10 * time.Second // for so long one that failed is asked last
)

// upstreams are the resolvers that granted names are asked of, in order.
type upstreams struct {
	fixed []string
	path  string // of resolv.conf
	cache *cache

	mu     sync.Mutex
	conf   resolverFile
	read   time.Time
	failed map[string]time.Time
}

// resolverFile is what resolv.conf(5) says: agents read the same file.
type resolverFile struct {
	servers []string // address:port
	search  []string // domains that the C library adds to names, lower case, no trailing dot
}

func newUpstreams(fixed []string, path string) (*upstreams, error) {
	u := &upstreams{path: path, cache: newCache(), failed: map[string]time.Time{}}
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

// file is what resolv.conf says, a few seconds ago at most. Other servers than before may know other answers.
func (u *upstreams) file() (resolverFile, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.read) < upstreamsKept {
		return u.conf, nil
	}
	f, err := os.Open(u.path)
	if err != nil {
		return resolverFile{}, fmt.Errorf("finding upstreams: %w", err)
	}
	defer f.Close()
	conf := parseResolvConf(f)
	if !slices.Equal(conf.servers, u.conf.servers) {
		u.cache.clear()
	}
	u.conf, u.read = conf, time.Now()
	return conf, nil
}

// current is the list in force, those last that failed a moment ago.
func (u *upstreams) current() ([]string, error) {
	list := u.fixed
	if len(list) == 0 {
		conf, err := u.file()
		if err != nil {
			return nil, err
		}
		if list = conf.servers; len(list) == 0 {
			return nil, fmt.Errorf("finding upstreams: %s names no server", u.path)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	var good, bad []string
	for _, server := range list {
		if time.Since(u.failed[server]) < upstreamLast {
			bad = append(bad, server)
		} else {
			good = append(good, server)
		}
	}
	return append(good, bad...), nil
}

func (u *upstreams) note(server string, good bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if good {
		delete(u.failed, server)
	} else {
		u.failed[server] = time.Now()
	}
}

// search are the domains that the host's C library adds to names; none where its file cannot be read.
func (u *upstreams) search() []string {
	conf, err := u.file()
	if err != nil {
		return nil
	}
	return conf.search
}

// parseResolvConf reads resolv.conf(5); lines that are of no use here and addresses it cannot read are passed over.
func parseResolvConf(r io.Reader) resolverFile {
	var conf resolverFile
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil && len(conf.servers) < maxUpstreams {
				conf.servers = append(conf.servers, net.JoinHostPort(a.String(), "53"))
			}
		case "search", "domain": // the last one counts
			conf.search = nil
			for _, domain := range f[1:min(len(f), 1+maxSearch)] {
				if domain = strings.TrimSuffix(strings.ToLower(domain), "."); domain != "" {
					conf.search = append(conf.search, domain)
				}
			}
		}
	}
	return conf
}

// resolve finds the addresses of a name, following aliases. What was found is used again for least.
func (u *upstreams) resolve(ctx context.Context, name string, qtype uint16, least time.Duration) (resolved, error) {
	return u.cache.resolve(ctx, name, qtype, least, u.follow)
}

func (u *upstreams) follow(ctx context.Context, name string, qtype uint16) (resolved, error) {
	c := newChain(name, qtype)
	for range 1 + maxFollowed {
		asked := c.end()
		m, err := u.ask(ctx, asked, qtype)
		if err != nil {
			return resolved{}, err
		}
		if m.Rcode != dns.RcodeSuccess {
			return resolved{rcode: m.Rcode, ttl: noneFor(m)}, nil
		}
		if err := c.follow(m); err != nil {
			return resolved{}, err
		}
		if len(c.addrs) > 0 {
			return resolved{addrs: c.addrs, ttl: c.ttl}, nil
		}
		if c.end() == asked {
			return resolved{ttl: min(c.ttl, noneFor(m))}, nil
		}
	}
	return resolved{}, fmt.Errorf("%s: %w", name, errChain)
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
				u.note(server, true)
				return m, nil
			default:
				last = fmt.Errorf("%s answers %s", server, dns.RcodeToString[m.Rcode])
			}
			u.note(server, false)
		}
	}
	return nil, fmt.Errorf("asking upstreams: %w", last)
}
