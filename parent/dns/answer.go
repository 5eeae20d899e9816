package dns

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/raypher/raypher/policy"
)

// A granted name opens its addresses for the record's time to live, but at least minGrant, because programs connect some
// time after they asked, and at most maxGrant. What is answered may be kept for at most maxAnswer, so that it is asked again
// before the grant ends.
const (
	minGrant  = time.Minute
	maxGrant  = time.Hour
	maxAnswer = 30 * time.Second
)

// question is one question of an agent.
type question struct {
	agent    Agent
	message  *dns.Msg
	name     string // lower case, no trailing dot but that of the root
	qtype    uint16
	protocol string            // udp, tcp
	rules    []policy.Endpoint // that grant the name
	asks     []policy.Endpoint // that ask a person about it
	observed *[]Observed       // of a question that would be refused
}

// answer decides on one question and makes the message to send back.
func (s *Server) answer(ctx context.Context, a Agent, r *dns.Msg, protocol string) *dns.Msg {
	if bad := malformed(r); bad != nil {
		return bad
	}
	names := s.names.of(a.Network)
	q := newQuestion(a, names, r, protocol)
	if !s.limits.question(a.CgroupID, time.Now()) {
		if s.report(q, TooMany); enforced(a) {
			return refusal(r, TooMany)
		}
	}
	open := a.Network != nil && a.Network.DefaultAction == policy.Allow
	if !open && len(q.rules)+len(q.asks) == 0 {
		if s.searched(names, q.name) {
			return reply(r, dns.RcodeNameError)
		}
		s.report(q, NotGranted)
		if a.Mode == policy.Audit && s.options.Observe != nil {
			o := Observation{CgroupID: a.CgroupID, Name: q.name, Type: dns.Type(q.qtype).String()}
			defer func() { s.options.Observe(o) }()
			q.observed = &o.Answers
		}
		if enforced(a) {
			return refusal(r, NotGranted)
		}
	}
	if r.Question[0].Qclass != dns.ClassINET || (q.qtype != dns.TypeA && q.qtype != dns.TypeAAAA) {
		return reply(r, dns.RcodeSuccess)
	}
	found, why, err := s.resolve(ctx, q)
	switch {
	case err != nil:
		return failure(r)
	case why != "":
		return refusal(r, why)
	case found.rcode != dns.RcodeSuccess:
		return reply(r, found.rcode)
	}
	return s.answerWith(q, found)
}

// malformed is the answer to a message that is not one question, or nil.
func malformed(r *dns.Msg) *dns.Msg {
	if r.Opcode != dns.OpcodeQuery {
		return reply(r, dns.RcodeNotImplemented)
	}
	if len(r.Question) != 1 { // the library lets a head by that announces a question and has none
		return reply(r, dns.RcodeFormatError)
	}
	if opt := r.IsEdns0(); opt != nil && opt.Version() != 0 { // RFC 6891 section 6.1.3
		return reply(r, dns.RcodeBadVers)
	}
	return nil
}

func newQuestion(a Agent, names nameRules, r *dns.Msg, protocol string) *question {
	q := &question{agent: a, message: r, qtype: r.Question[0].Qtype, protocol: protocol, name: strings.ToLower(r.Question[0].Name)}
	if q.name != "." {
		q.name = strings.TrimSuffix(q.name, ".")
	}
	q.rules, q.asks = names.grants.Match(q.name), names.asks.Match(q.name)
	return q
}

func (s *Server) report(q *question, reason string) {
	if q.agent.Mode == policy.Permissive {
		return
	}
	s.reports.add(Query{CgroupID: q.agent.CgroupID, Name: q.name, Type: dns.Type(q.qtype).String(), Protocol: q.protocol,
		Reason: reason, Mode: q.agent.Mode})
}

func enforced(a Agent) bool { return a.Mode != policy.Audit && a.Mode != policy.Permissive }

// searched reports whether a name that is not granted is what the C library makes of a granted one with the host's search
// list. That it does not exist lets the library go on to the name itself; REFUSED would end its search.
func (s *Server) searched(names nameRules, asked string) bool {
	return slices.ContainsFunc(s.upstreams.search(), func(domain string) bool {
		name, added := strings.CutSuffix(asked, "."+domain)
		return added && len(names.grants.Match(name))+len(names.asks.Match(name)) > 0
	})
}

// resolved is what is known of a name.
type resolved struct {
	rcode int
	addrs []netip.Addr
	ttl   time.Duration
	local bool // from the hosts file, which the operator writes
}

// resolve asks the hosts file, then the upstreams; why is the limit that an agent has reached. Names below localhost never leave
// the host (RFC 6761 section 6.3).
func (s *Server) resolve(ctx context.Context, q *question) (found resolved, why string, err error) {
	table, _, err := s.hosts.Table()
	if err != nil {
		return resolved{}, "", err
	}
	if addrs, ok := table[q.name]; ok {
		return resolved{addrs: ofType(addrs, q.qtype), local: true}, "", nil
	}
	if q.name == "localhost" || strings.HasSuffix(q.name, ".localhost") {
		return resolved{rcode: dns.RcodeNameError}, "", nil
	}
	rules, least := slices.Concat(q.rules, q.asks), minKept
	if wildcardOf(rules) != "" {
		least = minBelow
	}
	if why := s.limits.name(q.agent.CgroupID, q.name, rules, time.Now()); why != "" {
		if s.report(q, why); enforced(q.agent) {
			return resolved{}, why, nil
		}
	}
	found, err = s.upstreams.resolve(ctx, q.name, q.qtype, least)
	return found, "", err
}

func ofType(addrs []netip.Addr, qtype uint16) []netip.Addr {
	var own []netip.Addr
	for _, a := range addrs {
		if a.Is4() == (qtype == dns.TypeA) {
			own = append(own, a)
		}
	}
	return own
}

// answerWith opens the addresses of an answer for the rules that name the host, and answers with those that it may point to.
func (s *Server) answerWith(q *question, found resolved) *dns.Msg {
	kept := found.addrs[:0:0]
	for _, addr := range found.addrs {
		end := look(addr, found.local)
		closed := end.closed(q, addr)
		if q.observed != nil {
			*q.observed = append(*q.observed, Observed{addr, closed && end.reserved})
		}
		if closed {
			s.report(q, end.reason(addr))
			if enforced(q.agent) {
				continue
			}
		}
		if err := s.grant(q, addr, end, found); err != nil {
			return failure(q.message)
		}
		kept = append(kept, addr)
	}
	if len(kept) == 0 && len(found.addrs) > 0 {
		return refusal(q.message, "the answer points to this host, its networks or metadata")
	}
	return addresses(q.message, kept, found.ttl)
}

// grant opens an address for the rules that name the host and open it, and tells of it those that ask.
func (s *Server) grant(q *question, addr netip.Addr, end end, found resolved) error {
	for _, e := range q.rules {
		if !end.opened(e) {
			continue
		}
		if err := s.options.Grant(q.agent.CgroupID, q.name, addr, e.Port, min(max(found.ttl, minGrant), maxGrant)); err != nil {
			return err
		}
	}
	if s.options.Asked != nil && slices.ContainsFunc(q.asks, end.opened) {
		s.options.Asked(q.agent.CgroupID, q.name, addr)
	}
	return nil
}

// reply is an answer without records.
func reply(r *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(r, rcode)
	m.RecursionAvailable = true
	if r.IsEdns0() != nil {
		m.SetEdns0(maxDatagram, false)
	}
	return m
}

func failure(r *dns.Msg) *dns.Msg { return reply(r, dns.RcodeServerFailure) }

// refusal says REFUSED, and why to those who understand extended errors (RFC 8914 section 4.19).
func refusal(r *dns.Msg, why string) *dns.Msg {
	m := reply(r, dns.RcodeRefused)
	if opt := m.IsEdns0(); opt != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeProhibited, ExtraText: "raypher: " + why})
	}
	return m
}

// addresses answers with nothing but addresses of the name that was asked, spelled as it was asked.
func addresses(r *dns.Msg, addrs []netip.Addr, ttl time.Duration) *dns.Msg {
	m := reply(r, dns.RcodeSuccess)
	for _, a := range addrs {
		h := dns.RR_Header{Name: r.Question[0].Name, Class: dns.ClassINET, Ttl: uint32(min(ttl, maxAnswer) / time.Second)}
		if a.Is4() {
			h.Rrtype = dns.TypeA
			m.Answer = append(m.Answer, &dns.A{Hdr: h, A: a.AsSlice()})
		} else {
			h.Rrtype = dns.TypeAAAA
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	return m
}
