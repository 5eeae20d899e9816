package dns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/raypher/raypher/parent/dns/hosts"
	"github.com/raypher/raypher/policy"
)

const hostsPath = hosts.Path

// A granted name opens its addresses for the record's time to live, but at least minGrant, because programs connect some
// time after they asked, and at most maxGrant. What is answered may be kept for at most maxAnswer, so that it is asked again
// before the grant ends.
const (
	minGrant  = time.Minute
	maxGrant  = time.Hour
	maxAnswer = 30 * time.Second
)

// answer decides on one question and makes the message to send back.
func (s *Server) answer(ctx context.Context, a Agent, r *dns.Msg, protocol string) *dns.Msg {
	question := r.Question[0]
	name := strings.ToLower(question.Name)
	if name != "." {
		name = strings.TrimSuffix(name, ".")
	}
	report := func(reason string) {
		if a.Mode == policy.Permissive {
			return
		}
		s.reports.add(Query{CgroupID: a.CgroupID, Name: name, Type: dns.Type(question.Qtype).String(), Protocol: protocol,
			Reason: reason, Mode: a.Mode})
	}
	var observed *[]Observed // of a question that would be refused
	open := a.Network != nil && a.Network.DefaultAction == policy.Allow
	asks := a.Network.AsksName(name)
	if !open && !asks && len(a.Network.MatchHosts(name)) == 0 {
		report(NotGranted)
		if a.Mode == policy.Audit && s.options.Observe != nil {
			o := Observation{CgroupID: a.CgroupID, Name: name, Type: dns.Type(question.Qtype).String()}
			defer func() { s.options.Observe(o) }()
			observed = &o.Answers
		}
		if enforced(a) {
			return refusal(r, NotGranted)
		}
	}
	if question.Qclass != dns.ClassINET || (question.Qtype != dns.TypeA && question.Qtype != dns.TypeAAAA) {
		return reply(r, dns.RcodeSuccess)
	}
	found, err := s.resolve(ctx, name, question.Qtype)
	if err != nil {
		return failure(r)
	}
	if found.rcode != dns.RcodeSuccess {
		return reply(r, found.rcode)
	}
	kept := found.addrs[:0:0]
	for _, addr := range found.addrs {
		ok, err := s.grant(a, name, addr, found)
		if err != nil {
			return failure(r)
		}
		if observed != nil {
			*observed = append(*observed, Observed{addr, !ok})
		}
		if !ok {
			report(fmt.Sprintf("answer points to %s (%s)", addr, reserved(addr)))
			if enforced(a) {
				continue
			}
		}
		if asks && ok && s.options.Asked != nil {
			s.options.Asked(a.CgroupID, name, addr)
		}
		kept = append(kept, addr)
	}
	if len(kept) == 0 && len(found.addrs) > 0 {
		return refusal(r, "the answer points to this host or to metadata")
	}
	return addresses(r, kept, found.ttl)
}

func enforced(a Agent) bool { return a.Mode != policy.Audit && a.Mode != policy.Permissive }

// grant opens an address for the rules that name the host. False: a name must not open this address. One that a rule grants
// as an address is answered, and open only as that rule says.
func (s *Server) grant(a Agent, name string, addr netip.Addr, found resolved) (bool, error) {
	if !found.local && reserved(addr) != "" {
		return a.Network.Grants(addr), nil
	}
	for _, e := range a.Network.MatchHosts(name) {
		if err := s.options.Grant(a.CgroupID, name, addr, e.Port, min(max(found.ttl, minGrant), maxGrant)); err != nil {
			return false, err
		}
	}
	return true, nil
}

// resolved is what is known of a name.
type resolved struct {
	rcode int
	addrs []netip.Addr
	ttl   time.Duration
	local bool // from the hosts file, which the operator writes
}

// resolve asks the hosts file, then the upstreams. Names below localhost never leave the host (RFC 6761 section 6.3).
func (s *Server) resolve(ctx context.Context, name string, qtype uint16) (resolved, error) {
	table, err := hosts.Read(s.options.Hosts)
	if err != nil {
		return resolved{}, err
	}
	if addrs, ok := table[name]; ok {
		return resolved{addrs: ofType(addrs, qtype), local: true}, nil
	}
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return resolved{rcode: dns.RcodeNameError}, nil
	}
	return s.upstreams.resolve(ctx, name, qtype)
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
