package stage

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// settle is how long a host goes on recording after it was told to end, for what is still on its way.
const settle = 300 * time.Millisecond

// tcpPorts and udpPort are where every host listens, beside 53.
var tcpPorts = []string{"80", "443", "8080"}

const udpPort = "9999"

// host is one machine of the demonstration, in its own process and network namespace.
type host struct {
	plan hostPlan

	mu  sync.Mutex
	out *json.Encoder
}

// serveHost is the role "host": it reads its plan from in, says that it listens on out, records arrivals there, and ends
// when in ends.
func serveHost(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	first, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("host: no plan: %w", err)
	}
	h := &host{out: json.NewEncoder(out)}
	if err := json.Unmarshal(first, &h.plan); err != nil {
		return fmt.Errorf("host: plan: %w", err)
	}
	if err := h.configure(); err != nil {
		return fmt.Errorf("host %s: %w", h.plan.Name, err)
	}
	if err := h.listen(); err != nil {
		return fmt.Errorf("host %s: %w", h.plan.Name, err)
	}
	fmt.Fprintln(out, "ready")
	_, err = io.Copy(io.Discard, lines)
	time.Sleep(settle)
	return err
}

// configure waits for the link, and sets addresses and routes.
func (h *host) configure() error {
	// Package net asks ::1 once whether this machine speaks IPv6.
	if err := raiseLoopback(); err != nil {
		return err
	}
	var link netlink.Link
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var err error
		if link, err = netlink.LinkByName(h.plan.Interface); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("interface %s never came: %w", h.plan.Interface, err)
		}
	}
	for _, address := range h.plan.Addresses {
		if err := addAddress(h.plan.Interface, address); err != nil {
			return err
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s up: %w", h.plan.Interface, err)
	}
	for _, gateway := range h.plan.Gateways {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("route through %s: %w", gateway, err)
		}
	}
	return nil
}

func (h *host) listen() error {
	if err := h.sniff(); err != nil {
		return err
	}
	for _, port := range tcpPorts {
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			return err
		}
		go h.acceptAll(listener)
	}
	socket, err := net.ListenPacket("udp", ":"+udpPort)
	if err != nil {
		return err
	}
	go h.receiveAll(socket)
	name, err := net.ListenPacket("udp", ":53")
	if err != nil {
		return err
	}
	// The process ends with its standard input, and the name server with the process.
	go (&dns.Server{PacketConn: name, Handler: dns.HandlerFunc(h.answer)}).ActivateAndServe()
	return nil
}

func (h *host) record(network, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// When nobody reads any more, the process is about to end.
	_ = h.out.Encode(Arrival{Host: h.plan.Name, Network: network, Text: text})
}

func (h *host) acceptAll(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go h.converse(conn)
	}
}

// converse reads what comes first and answers something that an HTTP client and a line reader both understand.
func (h *host) converse(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second)) // a connection without deadline ends with the process
	first := make([]byte, 4096)
	n, err := conn.Read(first)
	if err != nil && !errors.Is(err, io.EOF) {
		return
	}
	h.record("tcp", string(first[:n]))
	body := "hello from " + h.plan.Name + "\n"
	fmt.Fprintf(conn, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func (h *host) receiveAll(socket net.PacketConn) {
	datagram := make([]byte, 4096)
	for {
		n, from, err := socket.ReadFrom(datagram)
		if err != nil {
			return
		}
		h.record("udp", string(datagram[:n]))
		_, _ = socket.WriteTo([]byte("hello from "+h.plan.Name+"\n"), from) // the sender's patience ends by itself
	}
}

// answer is the name server: each host knows its own name; the granted host asks the attacker's for names below its zone,
// which is how data leaves in names.
func (h *host) answer(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg)
	reply.SetReply(request)
	defer func() { _ = w.WriteMsg(reply) }() // the asker's patience ends by itself
	if len(request.Question) != 1 {
		reply.Rcode = dns.RcodeFormatError
		return
	}
	question := request.Question[0]
	h.record("dns", question.Name)
	own := map[string]string{"granted": GrantedName, "attacker": AttackerName}[h.plan.Name]
	switch {
	case dns.IsSubDomain(dns.Fqdn(own), dns.CanonicalName(question.Name)):
		reply.Answer = addressRecords(question, h.plan.Addresses)
	case h.plan.Name == "granted" && dns.IsSubDomain(dns.Fqdn(AttackerName), dns.CanonicalName(question.Name)):
		server := net.JoinHostPort(netip.MustParsePrefix(attacker4).Addr().String(), "53")
		answer, err := dns.Exchange(request, server)
		if err != nil {
			reply.Rcode = dns.RcodeServerFailure
			return
		}
		reply = answer
	default:
		reply.Rcode = dns.RcodeNameError
	}
}

func addressRecords(question dns.Question, addresses []netip.Prefix) []dns.RR {
	header := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: 60}
	for _, address := range addresses {
		switch {
		case question.Qtype == dns.TypeA && address.Addr().Is4():
			return []dns.RR{&dns.A{Hdr: header, A: address.Addr().AsSlice()}}
		case question.Qtype == dns.TypeAAAA && address.Addr().Is6():
			return []dns.RR{&dns.AAAA{Hdr: header, AAAA: address.Addr().AsSlice()}}
		}
	}
	return nil
}
