package netguard

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// pieces sends Data, hexadecimal pieces with commas between, each in a write of its own that nothing is joined to. The last byte of a piece
// that begins with ! is urgent.
func pieces(a action) (string, error) {
	family, to := sockaddr(a)
	fd, err := socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return "", err
	}
	connected := false
	if a.Do == "pieces" {
		if err := unix.Connect(fd, to); err != nil {
			return "", err
		}
		connected = true
	}
	for piece := range strings.SplitSeq(a.Data, ",") {
		piece, urgent := strings.CutPrefix(piece, "!")
		raw, err := hex.DecodeString(piece)
		if err != nil {
			return "", err
		}
		flags := 0
		if urgent {
			flags = unix.MSG_OOB
		}
		if connected {
			err = unix.Send(fd, raw, flags)
		} else {
			err, connected = unix.Sendto(fd, raw, unix.MSG_FASTOPEN|flags, to), true
		}
		if err != nil {
			return "", err
		}
	}
	return receive(fd)
}

// hello is what Go's TLS client says first.
func hello(t testing.TB, c *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	go func() {
		tls.Client(client, c).Handshake()
		client.Close()
	}()
	head := make([]byte, 5)
	must(t, second(readFull(server, head)))
	body := make([]byte, binary.BigEndian.Uint16(head[3:]))
	must(t, second(readFull(server, body)))
	return append(head, body...)
}

func readFull(c net.Conn, b []byte) (int, error) {
	for n := 0; n < len(b); {
		m, err := c.Read(b[n:])
		if err != nil {
			return n, err
		}
		n += m
	}
	return len(b), nil
}

// extension is one of a made hello.
type extension struct {
	kind    uint16
	content []byte
}

func serverName(name string) extension {
	n := []byte(name)
	list := append([]byte{0}, binary.BigEndian.AppendUint16(nil, uint16(len(n)))...)
	list = append(list, n...)
	return extension{0, append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...)}
}

// made is a hello with these extensions, in this order, in a record of a version.
func made(extensions ...extension) []byte {
	var all []byte
	for _, e := range extensions {
		all = binary.BigEndian.AppendUint16(all, e.kind)
		all = binary.BigEndian.AppendUint16(all, uint16(len(e.content)))
		all = append(all, e.content...)
	}
	body := append([]byte{3, 3}, make([]byte, 32)...) // legacy_version, random
	body = append(body, 32)
	body = append(body, make([]byte, 32)...)          // legacy_session_id
	body = append(body, 0, 4, 0x13, 1, 0x13, 2, 1, 0) // suites, compression
	body = binary.BigEndian.AppendUint16(body, uint16(len(all)))
	body = append(body, all...)
	message := append([]byte{1, 0}, binary.BigEndian.AppendUint16(nil, uint16(len(body)))...)
	return record22(append(message, body...))
}

func record22(content []byte) []byte {
	return append([]byte{22, 3, 1, byte(len(content) >> 8), byte(len(content))}, content...)
}

const granted = "api.example.com"

const arrives = Flood // no reason of a packet

// longest is a name of 253 bytes.
var longest = strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("d", 61)

// TestServerNames: what an address may be used for that a name opened, when it speaks TLS. Nothing of a refused hello arrives.
func TestServerNames(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{"10.77.0.2:443", "10.77.0.2:8080", "10.77.1.2:443", "[fd77::2]:443", "10.77.0.2:853"} {
		w.serve(t, w.far, mustAddr(a))
	}
	g := w.load(t, Options{})
	events := record(t, g)
	newAgent := func(t *testing.T, name string) (agent, *probe) {
		a := w.newAgent(t, name)
		arm(t, g, a, &policy.Network{Egress: []string{"private " + granted, "private " + longest, "10.77.1.2/32:443"}}, policy.Enforce)
		for _, name := range []string{granted, longest} {
			must(t, g.GrantName(a.id, name, far4, 0, time.Hour))
			must(t, g.GrantName(a.id, name, far6, 0, time.Hour))
		}
		return a, w.startProbe(t, a.fd)
	}

	whole := func(b []byte) string { return hex.EncodeToString(b) }
	cut := func(b []byte, at ...int) string {
		var out []string
		for _, i := range at {
			out, b = append(out, hex.EncodeToString(b[:i])), b[i:]
		}
		return strings.Join(append(out, hex.EncodeToString(b)), ",")
	}
	big := extension{51, make([]byte, 1600)} // a key share of a post-quantum group
	grease := extension{0x1a1a, nil}
	cases := []struct {
		name   string
		to     string
		data   string
		reason Reason // arrives: it does
	}{
		{"Go's own hello", "10.77.0.2:443", whole(hello(t, &tls.Config{ServerName: granted})), arrives},
		{"over IPv6", "[fd77::2]:443", whole(hello(t, &tls.Config{ServerName: granted})), arrives},
		{"TLS 1.2 alone", "10.77.0.2:443", whole(hello(t, &tls.Config{ServerName: granted, MaxVersion: tls.VersionTLS12})), arrives},
		{"in capitals", "10.77.0.2:443", whole(made(serverName("API.Example.COM"))), arrives},
		{"the longest name", "10.77.0.2:443", whole(made(serverName(strings.ToUpper(longest)))), arrives},
		{"behind 1.6 KB", "10.77.0.2:443", whole(made(grease, big, serverName(granted))), arrives},
		{"before 1.6 KB", "10.77.0.2:443", whole(made(serverName(granted), big, grease)), arrives},
		{"with an encrypted hello inside, as browsers pretend", "10.77.0.2:443", whole(made(extension{0xfe0d, make([]byte, 200)}, serverName(granted))), arrives},
		{"another port", "10.77.0.2:8080", whole([]byte("GET / HTTP/1.1\r\n\r\n")), arrives},
		{"an address that a rule grants needs no name", "10.77.1.2:443", whole([]byte("SSH-2.0-x\r\n")), arrives},
		{"DNS over TLS", "10.77.0.2:853", whole(made(serverName(granted))), NotGranted},
		{"another name", "10.77.0.2:443", whole(hello(t, &tls.Config{ServerName: "other.example.com"})), ServerName},
		{"a name below", "10.77.0.2:443", whole(made(serverName("x." + granted))), ServerName},
		{"a name in front of which it lies", "10.77.0.2:443", whole(made(serverName(granted + ".evil.test"))), ServerName},
		{"with a dot at the end", "10.77.0.2:443", whole(made(serverName(granted + "."))), ServerName},
		{"with a zero byte", "10.77.0.2:443", whole(made(serverName(granted + "\x00.evil.test"))), NoHello},
		{"an encrypted hello under a foreign name", "10.77.0.2:443", whole(made(extension{0xfe0d, make([]byte, 200)}, serverName("cloudflare-ech.com"))), ServerName},
		{"two names", "10.77.0.2:443", whole(made(serverName(granted), serverName("evil.test"))), NoHello},
		{"two names in one list", "10.77.0.2:443", whole(made(extension{0, append([]byte{0, 24}, append(append([]byte{0, 0, 15}, granted...), 0, 0, 3, 'a', '.', 'b')...)})), NoHello},
		{"no name", "10.77.0.2:443", whole(made(big)), NoServerName},
		{"no extensions", "10.77.0.2:443", whole(made()), NoServerName},
		{"a name of 254 bytes", "10.77.0.2:443", whole(made(serverName(strings.Repeat("a", 254)))), NoHello},
		{"more extensions than are read", "10.77.0.2:443", whole(made(append(make([]extension, 0), many(70)...)...)), NoHello},
		{"an extension that is longer than the hello", "10.77.0.2:443", whole(longer(made(serverName(granted), grease))), NoHello},
		{"split after one byte", "10.77.0.2:443", cut(made(serverName(granted)), 1), arrives},
		{"split in the record's head", "10.77.0.2:443", cut(made(serverName(granted)), 4), arrives},
		{"split in the name", "10.77.0.2:443", cut(made(serverName(granted)), 100), arrives},
		{"split before the last byte", "10.77.0.2:443", cut(made(serverName(granted)), len(made(serverName(granted)))-1), arrives},
		{"half of it", "10.77.0.2:443", whole(made(serverName(granted))[:80]), SplitHello},
		{"with an urgent byte, which the server does not read", "10.77.0.2:443", "!" + whole(made(serverName(granted))), NoHello},
		{"with an urgent byte within", "10.77.0.2:443", "!" + cut(made(serverName(granted)), 60), NoHello},
		{"in two records", "10.77.0.2:443", whole(twoRecords(made(serverName(granted)))), SplitHello},
		{"plain HTTP", "10.77.0.2:443", whole([]byte("GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n")), NoHello},
		{"one byte", "10.77.0.2:443", whole([]byte("x")), NoHello},
		{"an SSLv2 hello", "10.77.0.2:443", whole(append([]byte{0x80, 0x2e, 1, 3, 1, 0, 21, 0, 0, 0, 16}, make([]byte, 37)...)), NoHello},
		{"an alert first", "10.77.0.2:443", whole(append([]byte{21, 3, 1, 0, 2, 1, 0}, made(serverName(granted))...)), NoHello},
		{"a TLS message that is no hello", "10.77.0.2:443", whole(record22([]byte{2, 0, 0, 0})), NoHello},
	}
	ways := []string{"pieces", "pieces-fastopen"}
	t.Run("granted", func(t *testing.T) {
		a, p := newAgent(t, "granted")
		for _, c := range cases {
			if c.reason != arrives {
				continue
			}
			for _, do := range ways {
				if o := p.do(action{Do: do, To: mustAddr(c.to), Data: c.data}); o.Err != "" || len(events.of(a)) != 0 {
					t.Errorf("%s, %s: got %q, events %+v", c.name, do, o.Err, events.of(a))
				}
			}
		}
	})
	w.forget()
	t.Run("refused", func(t *testing.T) {
		for i, c := range cases {
			if c.reason == arrives {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				a, p := newAgent(t, fmt.Sprint("refused-", i))
				for _, do := range ways {
					if o := p.do(action{Do: do, To: mustAddr(c.to), Data: c.data}); o.Err != "timeout" {
						t.Errorf("%s: got %+v", do, o)
					}
					e := events.wait(t, "of the refused hello", func(e Event) bool { return e.CgroupID == a.id })
					if e.Reason != c.reason || e.Destination != mustAddr(c.to) || e.PID != uint32(p.cmd.Process.Pid) || c.reason == ServerName && e.Path == "" {
						t.Errorf("%s: reported as %+v", do, e)
					}
				}
			})
		}
	})
	arrived, _ := w.forget()
	for _, line := range arrived {
		if !strings.HasSuffix(line, " connected") {
			t.Errorf("arrived: %.200q", line)
		}
	}
}

func many(n int) []extension {
	all := make([]extension, n, n+1)
	for i := range all {
		all[i].kind = uint16(0x4000 + i)
	}
	return append(all, serverName(granted))
}

// longer makes the last extension reach beyond the hello.
func longer(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)-1]++
	return b
}

// twoRecords cuts the handshake message of a hello into two records.
func twoRecords(b []byte) []byte {
	content := b[5:]
	return append(record22(content[:40]), record22(content[40:])...)
}

// TestServerNameLifetimes: what is granted after a change of names, rules and modes.
func TestServerNameLifetimes(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:443"))
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	network := &policy.Network{Egress: []string{"private " + granted + ":443", "private other.example.com:443"}}
	arm(t, g, a, network, policy.Enforce)
	p := w.startProbe(t, a.fd)
	try := func(name, want string) {
		t.Helper()
		o := p.do(action{Do: "pieces", To: mustAddr("10.77.0.2:443"), Data: hex.EncodeToString(made(serverName(name)))})
		if o.Err != want {
			t.Errorf("%s: got %q, want %q", name, o.Err, want)
		}
	}
	must(t, g.GrantName(a.id, granted, far4, 443, time.Hour))
	try(granted, "")
	try("other.example.com", "timeout")
	must(t, g.GrantName(a.id, "other.example.com", far4, 443, time.Hour))
	try("other.example.com", "")
	try(granted, "") // two names, one address

	must(t, g.Replace(a.id, &policy.Network{Egress: []string{"private other.example.com:443"}}))
	try(granted, "timeout") // the name went with its rule
	try("other.example.com", "")

	t.Run("an open stream that only a name grants from now on", func(t *testing.T) {
		must(t, g.Replace(a.id, &policy.Network{Egress: []string{"10.77.0.2/32"}}))
		p.expect(action{Do: "open", To: mustAddr("10.77.0.2:443"), Data: "plain"}, "", "you said plain")
		must(t, g.Replace(a.id, &policy.Network{Egress: []string{"private other.example.com:443"}}))
		must(t, g.GrantName(a.id, "other.example.com", far4, 443, time.Hour))
		if o := p.do(action{Do: "say", Data: "more"}); o.Err != "timeout" {
			t.Errorf("what never named its server goes on: %+v", o)
		}
	})
	t.Run("a stream that named its server stays open", func(t *testing.T) {
		p := w.startProbe(t, a.fd)
		p.expect(action{Do: "open", To: mustAddr("10.77.0.2:443"), Data: string(ascii(t, "other.example.com"))}, "", "you said "+string(ascii(t, "other.example.com")))
		must(t, g.Replace(a.id, &policy.Network{Egress: []string{"private other.example.com:443", "unrelated.example.com"}}))
		p.expect(action{Do: "say", Data: "more"}, "", "you said more")
	})
	t.Run("the same socket, connected again", func(t *testing.T) {
		p := w.startProbe(t, a.fd)
		p.expect(action{Do: "open", To: mustAddr("10.77.0.2:443"), Data: string(ascii(t, "other.example.com"))}, "", "you said "+string(ascii(t, "other.example.com")))
		if o := p.do(action{Do: "again", To: mustAddr("10.77.0.2:443"), Data: "plain"}); o.Err != "timeout" {
			t.Errorf("a second connection of one socket: %+v", o)
		}
	})
	t.Run("audit", func(t *testing.T) {
		b := w.newAgent(t, "audited")
		arm(t, g, b, network, policy.Audit)
		must(t, g.GrantName(b.id, granted, far4, 443, time.Hour))
		events := record(t, g)
		q := w.startProbe(t, b.fd)
		q.expect(action{Do: "open", To: mustAddr("10.77.0.2:443"), Data: "plain"}, "", "you said plain")
		events.wait(t, "of what would be refused", func(e Event) bool { return e.Reason == NoHello && e.Mode == policy.Audit })
	})
}

// ascii is a hello of which every byte is ASCII, as actions need it.
func ascii(t testing.TB, name string) []byte {
	t.Helper()
	b := made(serverName(name))
	for _, c := range b {
		if c > 127 {
			t.Fatal("the hello is not ASCII")
		}
	}
	return b
}

// TestRealClients: programs as people have them, with their own hellos, against a real TLS server.
func TestRealClients(t *testing.T) {
	w := newWorld(t)
	seen := w.serveTLS(t, netip.MustParseAddrPort("10.77.0.2:443"))
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Egress: []string{"private " + granted + ":443"}}, policy.Enforce)
	must(t, g.GrantName(a.id, granted, far4, 443, time.Hour))
	program := func(t *testing.T, name string, command ...string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Skipf("%s is not installed", command[0])
			}
			for _, server := range []string{granted, "other.example.com"} {
				args := make([]string, len(command))
				for i, c := range command {
					args[i] = strings.ReplaceAll(c, "SERVER", server)
				}
				out, err := w.runIn(t, a.fd, args)
				got := strings.Contains(out, "hello from the other end")
				if want := server == granted; got != want {
					t.Errorf("%s: reached the server: %v, want %v (%v)\n%s", server, got, want, err, out)
				}
			}
		})
	}
	t.Run("programs", func(t *testing.T) {
		program(t, "curl", "curl", "-sk", "--max-time", "2", "--connect-to", "::10.77.0.2:443", "https://SERVER/")
		program(t, "openssl", "sh", "-c", `printf 'GET / HTTP/1.0\r\n\r\n' | timeout 2 openssl s_client -quiet -connect 10.77.0.2:443 -servername SERVER 2>&1`)
		program(t, "openssl, many groups", "sh", "-c", `printf 'GET / HTTP/1.0\r\n\r\n' | timeout 2 openssl s_client -quiet -groups P-521:P-384:X25519:X448:P-256 -connect 10.77.0.2:443 -servername SERVER 2>&1`)
		program(t, "openssl, asked for another key share", "sh", "-c", `printf 'GET / HTTP/1.0\r\n\r\n' | timeout 2 openssl s_client -quiet -tls1_3 -groups X448:P-256 -connect 10.77.0.2:443 -servername SERVER 2>&1`)
		program(t, "openssl, with the session of a granted name", "sh", "-c", `printf 'GET / HTTP/1.0\r\n\r\n' | timeout 2 openssl s_client -quiet -sess_out session -connect 10.77.0.2:443 -servername `+granted+` >/dev/null 2>&1
test -s session && printf 'GET / HTTP/1.0\r\n\r\n' | timeout 2 openssl s_client -quiet -sess_in session -connect 10.77.0.2:443 -servername SERVER 2>&1`)
		program(t, "python, in two pieces", "python3", "-c", `
import socket, ssl
c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
i, o = ssl.MemoryBIO(), ssl.MemoryBIO()
s = c.wrap_bio(i, o, server_hostname="SERVER")
n = socket.create_connection(("10.77.0.2", 443), 2); n.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
def turn(f):
    while True:
        try: r = f(); n.sendall(o.read()); return r
        except ssl.SSLWantReadError:
            b = o.read(); n.sendall(b[:60]); n.sendall(b[60:])
            i.write(n.recv(65536))
turn(s.do_handshake); turn(lambda: s.write(b"GET / HTTP/1.0\r\n\r\n")); print(turn(lambda: s.read(1000)).decode(), turn(lambda: s.read(1000)).decode())`)
		program(t, "python", "python3", "-c", `
import socket, ssl
c = ssl.create_default_context(); c.check_hostname = False; c.verify_mode = ssl.CERT_NONE
s = c.wrap_socket(socket.create_connection(("10.77.0.2", 443), 2), server_hostname="SERVER")
s.sendall(b"GET / HTTP/1.0\r\n\r\n"); print(s.recv(1000).decode(), s.recv(1000).decode())`)
		program(t, "node", "node", "-e", `
const s = require("tls").connect({host: "10.77.0.2", port: 443, servername: "SERVER", rejectUnauthorized: false}, () => s.write("GET / HTTP/1.0\r\n\r\n"));
s.on("data", d => process.stdout.write(d)); setTimeout(() => process.exit(), 2000); s.on("end", () => process.exit());`)
		// Debian's OpenSSL has no post-quantum groups; that of newer Node.js has, and the real agents come with one.
		program(t, "OpenSSL in node, with a post-quantum group", newNode(), "-e", `
const s = require("tls").connect({host: "10.77.0.2", port: 443, servername: "SERVER", rejectUnauthorized: false, ecdhCurve: "X25519MLKEM768"}, () => s.write("GET / HTTP/1.0\r\n\r\n"));
s.on("data", d => process.stdout.write(d)); s.on("error", e => console.log(e)); setTimeout(() => process.exit(), 2000); s.on("end", () => process.exit());`)
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range *seen {
		if name != granted {
			t.Errorf("the server was asked for %q", name)
		}
	}
	if len(*seen) == 0 {
		t.Error("the server was never reached")
	}
}

// newNode is the Node.js that scripts/agents.sh has installed for agents, or a word for none.
func newNode() string {
	cache, _ := os.UserCacheDir() // without one there is none
	found, _ := filepath.Glob(filepath.Join(cache, "raypher/agents/*/node_modules/node/bin/node"))
	return append(found, "node of scripts/agents.sh")[0]
}

// serveTLS answers HTTP over TLS and notes the names it is asked for.
func (w *world) serveTLS(t testing.TB, at netip.AddrPort) *[]string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: granted}, DNSNames: []string{granted},
		NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	seen := &[]string{}
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			*seen = append(*seen, h.ServerName)
			return nil, nil
		}}
	var l net.Listener
	w.in(t, w.far, func() {
		l, err = tls.Listen("tcp", at.String(), config)
		must(t, err)
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, 4096)
				if _, err := c.Read(b); err == nil {
					const body = "hello from the other end"
					fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				}
			}()
		}
	}()
	return seen
}

// runIn runs a program in a cgroup and the near namespace.
func (w *world) runIn(t testing.TB, cgroup int, command []string) (string, error) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "HOME="+cmd.Dir, "CURL_HOME="+filepath.Join(cmd.Dir))
	for i := range cmd.Env { // no proxy of this machine's
		if name, _, _ := strings.Cut(cmd.Env[i], "="); strings.HasSuffix(strings.ToLower(name), "_proxy") {
			cmd.Env[i] = "NOTHING="
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cgroup}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	w.in(t, w.near, func() { must(t, cmd.Start()) })
	err := cmd.Wait()
	return out.String(), err
}
