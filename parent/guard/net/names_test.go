package netguard

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/parent/dns"
	"github.com/raypher/raypher/policy"
)

// TestDig: what a real client gets that asks this and that, by whichever server, in a governed agent.
func TestDig(t *testing.T) {
	if _, err := exec.LookPath("dig"); err != nil {
		t.Skip("dig is not installed: scripts/deps.sh installs it")
	}
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:53"))
	w.capture(t)
	up := &resolver{addrs: map[string]netip.Addr{"api.example.com.": far4, "lo.example.com.": lo4, "evil.test.": second4}}
	for i := range 60 {
		up.many = append(up.many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	network := &policy.Network{Egress: []string{"private *.example.com:80"}}
	var a agent
	g, _ := w.names(t, up, func(id uint64) (dns.Agent, bool) {
		return dns.Agent{CgroupID: id, Network: network, Mode: policy.Enforce}, id == a.id
	})
	a = w.newAgent(t, "agent")
	arm(t, g, a, network, policy.Enforce)
	for _, c := range []struct {
		arguments string
		says      []string
		never     []string
	}{
		{"api.example.com A", []string{"NOERROR", "10.77.0.2"}, nil},
		{"+tcp api.example.com A", []string{"NOERROR", "10.77.0.2", "(TCP)"}, nil},
		{"+bufsize=4096 +dnssec +cookie +subnet=203.0.113.0/24 API.example.COM A", []string{"NOERROR", "10.77.0.2", ";API.example.COM."}, []string{"CLIENT-SUBNET", "RRSIG"}}, // DNS 0x20: the case of the question comes back
		{"+noedns +ignore many.example.com A", []string{"flags: qr tc"}, nil},
		{"+noedns many.example.com A", []string{"Truncated, retrying in TCP mode", "ANSWER: 60"}, nil},
		{"+edns=1 +noednsnegotiation api.example.com A", []string{"BADVERS"}, []string{"ANSWER: 1"}},
		{"+opcode=notify api.example.com SOA", []string{"NOTIMP"}, nil},
		{"lo.example.com A", []string{"REFUSED", "raypher: the answer points to"}, []string{"127.0.0.1\n"}},
		{"evil.test A", []string{"REFUSED", "raypher: name not granted"}, []string{"10.77.1.2"}},
		{"secret.exfil.evil.test TXT", []string{"REFUSED"}, nil},
		{"-x 10.77.0.2", []string{"REFUSED"}, nil},
		{"api.example.com HTTPS", []string{"NOERROR", "ANSWER: 0"}, nil},
		{"api.example.com TYPE64", []string{"NOERROR", "ANSWER: 0"}, nil},
		{"api.example.com TXT", []string{"NOERROR", "ANSWER: 0"}, nil},
		{"+notcp api.example.com ANY", []string{"NOERROR", "ANSWER: 0"}, nil},
		{"api.example.com AXFR", nil, []string{"10.77.0.2\n"}},
	} {
		for _, server := range []string{"@10.77.0.2", "@2001:db8::53"} {
			command := append([]string{"dig", "-r", "+tries=1", "+timeout=5", server}, strings.Fields(c.arguments)...)
			out, err := w.runIn(t, a.fd, command)
			for _, want := range c.says {
				if !strings.Contains(out, want) {
					t.Errorf("%s: no %q (%v) in\n%s", strings.Join(command, " "), want, err, out)
				}
			}
			for _, never := range c.never {
				if strings.Contains(out, never) {
					t.Errorf("%s: %q in\n%s", strings.Join(command, " "), never, out)
				}
			}
		}
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	for _, name := range up.asked {
		if !strings.HasSuffix(name, ".example.com.") || strings.ToLower(name) != name {
			t.Errorf("the upstream was asked %q", name)
		}
	}
	if arrived, packets := w.forget(); len(arrived)+len(packets) != 0 {
		t.Errorf("DNS left the host: %q %q", arrived, packets)
	}
}

// TestSearchList: the C library finds a granted name on a host whose resolv.conf makes it try others first.
func TestSearchList(t *testing.T) {
	w := newWorld(t)
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(conf, []byte("nameserver 10.96.0.10\nsearch ns.svc.cluster.local svc.cluster.local\noptions ndots:5 timeout:1 attempts:1\n"), 0o644))
	nsswitch := filepath.Join(t.TempDir(), "nsswitch.conf")
	must(t, os.WriteFile(nsswitch, []byte("hosts: files resolve dns\n"), 0o644))
	up := &resolver{addrs: map[string]netip.Addr{"api.example.com.": far4}}
	network := &policy.Network{Egress: []string{"private api.example.com:80"}}
	var a agent
	w.resolvConf = conf
	g, reports := w.names(t, up, func(id uint64) (dns.Agent, bool) {
		return dns.Agent{CgroupID: id, Network: network, Mode: policy.Enforce}, id == a.id
	})
	a = w.newAgent(t, "agent")
	arm(t, g, a, network, policy.Enforce)
	look := func(name string) (string, error) {
		return w.runIn(t, a.fd, []string{"unshare", "-m", "sh", "-c",
			`mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/nsswitch.conf && exec getent ahostsv4 "$3"`, "sh", conf, nsswitch, name})
	}
	if out, err := look("api.example.com"); err != nil || !strings.Contains(out, "10.77.0.2") {
		t.Errorf("a granted name: %v\n%s", err, out)
	}
	if out, err := look("evil.test"); err == nil {
		t.Errorf("another name: %s", out)
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	for _, name := range up.asked {
		if name != "api.example.com." {
			t.Errorf("the upstream was asked %q", name)
		}
	}
	for {
		select {
		case q := <-reports:
			if strings.HasPrefix(q.Name, "api.") {
				t.Errorf("the C library's search is reported: %+v", q)
			}
			continue
		default:
		}
		return
	}
}

// TestEncryptedDNS: to an address that a name opened there is no DNS over TLS and no QUIC, so no DNS over HTTP/3 either; DNS over HTTPS is
// a stream like others, whose hello must ask for a granted name.
func TestEncryptedDNS(t *testing.T) {
	w := newWorld(t)
	for _, port := range []uint16{443, 784, 853, 8443, 8853} {
		w.serve(t, w.far, at(far4, port))
	}
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Egress: []string{"private " + granted}}, policy.Enforce)
	must(t, g.GrantName(a.id, granted, far4, 0, time.Hour))
	p := w.startProbe(t, a.fd)
	for _, port := range []uint16{443, 853, 8443} {
		if o := p.do(action{Do: "udp", To: at(far4, port), Data: "quic"}); o.Err == "" {
			t.Errorf("UDP port %d: %+v", port, o)
		}
	}
	if o := p.do(action{Do: "tcp", To: at(far4, 853), Data: "hello"}); o.Err == "" {
		t.Errorf("DNS over TLS: %+v", o)
	}
	if arrived, _ := w.forget(); len(arrived) != 0 {
		t.Errorf("arrived: %q", arrived)
	}
	for _, do := range []string{"udp", "tcp"} { // the name does open what is not TLS's
		p.expect(action{Do: do, To: at(far4, 8853)}, "", answer)
	}
}

const tlsClientEnvironment = "RAYPHER_NETGUARD_TLS"

// init makes this binary a TLS client: address, server name, and how many bytes of the hello go into one write (0: all).
func init() {
	words := strings.Fields(os.Getenv(tlsClientEnvironment))
	if len(words) != 3 {
		return
	}
	piece, err := strconv.Atoi(words[2])
	if err == nil {
		err = tlsClient(words[0], words[1], piece)
	}
	fmt.Println(err)
	os.Exit(0)
}

func tlsClient(address, name string, piece int) error {
	conn, err := net.DialTimeout("tcp", address, 2*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	c := tls.Client(choppy{conn, piece}, &tls.Config{ServerName: name, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}})
	if _, err := c.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		return err
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	fmt.Println(string(b[:n]))
	return err
}

// choppy writes in pieces; the kernel joins none that Go sends (TCP_NODELAY is its default).
type choppy struct {
	net.Conn
	piece int
}

func (c choppy) Write(b []byte) (int, error) {
	n := 0
	for c.piece > 0 && len(b)-n > c.piece {
		m, err := c.Conn.Write(b[n : n+c.piece])
		if n += m; err != nil {
			return n, err
		}
	}
	m, err := c.Conn.Write(b[n:])
	return n + m, err
}

// TestPostQuantumHello: a hello with the key share of X25519MLKEM768, longer than 1.2 KB, reaches the server when it is whole and asks for
// the granted name; in whatever pieces, none for another name does.
func TestPostQuantumHello(t *testing.T) {
	if n := len(hello(t, &tls.Config{ServerName: granted, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}})); n < 1200 {
		t.Fatalf("the hello has %d bytes", n)
	}
	w := newWorld(t)
	seen := w.serveTLS(t, mustAddr("10.77.0.2:443"))
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Egress: []string{"private " + granted + ":443"}}, policy.Enforce)
	must(t, g.GrantName(a.id, granted, far4, 443, time.Hour))
	binary, err := os.Executable()
	must(t, err)
	for _, name := range []string{granted, "other.example.com"} {
		for _, piece := range []int{0, 700, 40, 1} {
			t.Run(fmt.Sprintf("%s in pieces of %d", name, piece), func(t *testing.T) {
				t.Parallel()
				out, _ := w.runIn(t, a.fd, []string{"env", fmt.Sprintf("%s=10.77.0.2:443 %s %d", tlsClientEnvironment, name, piece), binary})
				reached := strings.Contains(out, "hello from the other end")
				if name == granted && piece == 0 && !reached || name != granted && reached {
					t.Errorf("reached the server: %v\n%s", reached, out)
				}
				t.Logf("reached the server: %v", reached)
			})
		}
	}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, name := range *seen {
			if name != granted {
				t.Errorf("the server was asked for %q", name)
			}
		}
	})
}
