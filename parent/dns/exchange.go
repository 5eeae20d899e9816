package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	tryTimeout = 1500 * time.Millisecond // one upstream, one try
	maxStrays  = 64                      // datagrams that answer nothing, before TCP is tried
)

var errStrays = errors.New("too many datagrams that answer another question")

// exchange asks one upstream over UDP, and over TCP where the answer was cut or where many others came instead. Nothing that an
// agent said beyond name and type is in the question: no options, no cookie, no subnet of a client, no upper and lower case.
func exchange(ctx context.Context, server, name string, qtype uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(strings.ToLower(name)), qtype)
	q.SetEdns0(maxDatagram, false)
	m, err := exchangeOver(ctx, server, q)
	if err == nil && m.Rcode == dns.RcodeFormatError { // an upstream from before EDNS (RFC 6891 section 7)
		q.Extra = nil
		m, err = exchangeOver(ctx, server, q)
	}
	return m, err
}

func exchangeOver(ctx context.Context, server string, q *dns.Msg) (*dns.Msg, error) {
	m, err := overUDP(ctx, server, q)
	if err == nil && !m.Truncated || err != nil && !errors.Is(err, errStrays) {
		return m, err
	}
	c := dns.Client{Net: "tcp", Timeout: tryTimeout}
	m, _, err = c.ExchangeContext(ctx, q, server)
	if err != nil {
		return nil, err
	}
	if !answers(m, q) {
		return nil, fmt.Errorf("%s answers another question", server)
	}
	return m, nil
}

// overUDP sends a question from a socket, so a port, of its own with an ID of its own, and waits for its answer. The socket is
// connected: the kernel takes nothing from other addresses. What answers another question is passed over (RFC 5452 section 9.1):
// it may be late, or a guess of somebody who wants to be believed.
func overUDP(ctx context.Context, server string, q *dns.Msg) (*dns.Msg, error) {
	packed, err := q.Pack()
	if err != nil {
		return nil, err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return nil, err
		}
	}
	if _, err := conn.Write(packed); err != nil {
		return nil, err
	}
	b := make([]byte, dns.MaxMsgSize)
	for range maxStrays {
		n, err := conn.Read(b)
		if err != nil {
			return nil, err
		}
		m := new(dns.Msg)
		if err := m.Unpack(b[:n]); err == nil && answers(m, q) {
			return m, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", server, errStrays)
}

// answers reports whether a message is an answer to a question. One that says only what is wrong may leave the question out.
func answers(m, q *dns.Msg) bool {
	if !m.Response || m.Id != q.Id || m.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 {
		return m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError
	}
	asked, got := q.Question[0], m.Question[0]
	return len(m.Question) == 1 && got.Qtype == asked.Qtype && got.Qclass == asked.Qclass && strings.EqualFold(got.Name, asked.Name)
}
