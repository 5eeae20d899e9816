package netguard

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/dns/hosts"
	"github.com/raypher/raypher/policy"
)

// TestHostsFileNames: a granted name of the hosts file opens what the file says of it, for programs that read it without asking
// anybody, and on the ports of TLS only for streams that ask for it. A change of the file holds for open flows too.
func TestHostsFileNames(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{"10.77.0.2:80", "10.77.0.2:443", "10.77.1.2:80", "[fd77::2]:80"} {
		w.serve(t, w.far, mustAddr(a))
	}
	path := filepath.Join(t.TempDir(), "hosts")
	write := func(text string) { t.Helper(); must(t, os.WriteFile(path, []byte(text), 0o644)) }
	write("10.77.0.2 " + granted + " alias.example.com other.test\nfd77::2 " + granted + "\n0.0.0.0 closed.example.com\n")
	g := w.load(t, Options{Hosts: path})
	a := w.newAgent(t, "agent")
	network := &policy.Network{Egress: []string{"*.example.com:80", granted + ":443"}, OnDeny: policy.Reject}
	arm(t, g, a, network, policy.Enforce)
	p := w.startProbe(t, a.fd)
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, "", answer)
	p.expect(action{Do: "tcp", To: mustAddr("[fd77::2]:80")}, "", answer)
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:81")}, refused, "")
	p.expect(action{Do: "tcp", To: mustAddr("10.77.1.2:80")}, refused, "")
	if o := p.do(action{Do: "tcp", To: mustAddr("0.0.0.0:80"), Data: "hello"}); o.Err != refused {
		t.Errorf("a name that the file closes opens the host: %+v", o)
	}
	asks := func(name string) action {
		return action{Do: "pieces", To: mustAddr("10.77.0.2:443"), Data: hex.EncodeToString(made(serverName(name)))}
	}
	if o := p.do(asks(granted)); o.Err != "" {
		t.Errorf("its own hello: %+v", o)
	}
	for _, c := range []action{asks("evil.example.org"), {Do: "pieces", To: mustAddr("10.77.0.2:443"), Data: hex.EncodeToString([]byte("GET / HTTP/1.0\r\n\r\n"))}} {
		if o := p.do(c); o.Err != "timeout" {
			t.Errorf("an address that the file gives serves another name: %+v", o)
		}
	}

	open := w.startProbe(t, a.fd)
	open.expect(action{Do: "open", To: mustAddr("10.77.0.2:80")}, "", answer)
	write("10.77.1.2 " + granted + "\n")
	g.followHosts()
	p.expect(action{Do: "tcp", To: mustAddr("10.77.1.2:80")}, "", answer)
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, refused, "")
	p.expect(action{Do: "tcp", To: mustAddr("[fd77::2]:80")}, refused, "")

	t.Run("without anybody's call", func(t *testing.T) {
		write("10.77.0.2 " + granted + "\n")
		for range 100 {
			if p.do(action{Do: "tcp", To: mustAddr("10.77.0.2:80"), Data: "hello"}).Err == "" {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Error("the file was not followed")
	})
	t.Run("narrower rules", func(t *testing.T) {
		must(t, g.Replace(a.id, &policy.Network{Egress: []string{granted + ":443"}, OnDeny: policy.Reject}))
		p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, refused, "")
		if o := p.do(asks(granted)); o.Err != "" {
			t.Errorf("the port that is left: %+v", o)
		}
	})
}

// TestHostsFileChangesWhileRaypherdIsAway: what was in the file then does not stay open.
func TestHostsFileChangesWhileRaypherdIsAway(t *testing.T) {
	w := newWorld(t)
	w.serve(t, w.far, mustAddr("10.77.0.2:80"))
	bpffs := t.TempDir()
	must(t, unix.Mount("bpf", bpffs, "bpf", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(bpffs, 0)) })
	path := filepath.Join(t.TempDir(), "hosts")
	must(t, os.WriteFile(path, []byte("10.77.0.2 "+granted+"\n"), 0o644))
	o := Options{PinDir: filepath.Join(bpffs, "guard"), Hosts: path}
	first := w.load(t, o)
	a := w.newAgent(t, "agent")
	network := &policy.Network{Egress: []string{granted}, OnDeny: policy.Reject}
	arm(t, first, a, network, policy.Enforce)
	p := w.startProbe(t, a.fd)
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, "", answer)
	must(t, first.Close())
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, "", answer)
	must(t, os.WriteFile(path, []byte("10.77.0.3 "+granted+"\n"), 0o644))
	second := w.load(t, o)
	must(t, second.Replace(a.id, network)) // as an agent that is found again gets its rules
	p.expect(action{Do: "tcp", To: mustAddr("10.77.0.2:80")}, refused, "")
	must(t, second.Unpin())
}

// TestNarrowerNames: of addresses that names opened, rules that are narrowed leave those that they would still open.
func TestNarrowerNames(t *testing.T) {
	w := newWorld(t)
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	arm(t, g, a, &policy.Network{Egress: []string{"private a.com:80", "private a.com:443", "b.com", "*.c.com"}}, policy.Enforce)
	public := netip.MustParseAddr("192.0.2.9")
	grant := func(name string, addr netip.Addr, port uint16) {
		t.Helper()
		must(t, g.GrantName(a.id, name, addr, port, time.Hour))
	}
	grant("a.com", far4, 80)
	grant("a.com", far4, 443)
	grant("a.com", public, 80)
	grant("b.com", public, 0)
	grant("x.c.com", public, 0)
	count := func(want int) {
		t.Helper()
		if got := g.names[a.id]; got != want {
			t.Errorf("%d addresses are open, want %d", got, want)
		}
	}
	count(4) // b.com and x.c.com share one
	must(t, g.Replace(a.id, &policy.Network{Egress: []string{"private a.com:80", "b.com", "*.c.com"}}))
	count(3)
	must(t, g.Replace(a.id, &policy.Network{Egress: []string{"a.com:80", "b.com", "x.c.com"}}))
	count(2)
	must(t, g.Replace(a.id, &policy.Network{Egress: []string{"a.com:81", "*.c.com"}}))
	count(1)
}

// TestLend: what a person opened is open as long as the rules ask about it, and an answer that comes after they were narrowed opens nothing.
func TestLend(t *testing.T) {
	w := newWorld(t)
	to := mustAddr("10.77.0.2:80")
	w.serve(t, w.far, to)
	g := w.load(t, Options{})
	a := w.newAgent(t, "agent")
	asks := &policy.Network{RequireApproval: []string{"10.77.0.2:80"}, OnDeny: policy.Reject}
	arm(t, g, a, asks, policy.Enforce)
	p := w.startProbe(t, a.fd)
	p.expect(action{Do: "udp", To: to}, refused, "")
	must(t, g.Lend(a.id, to, time.Hour))
	p.expect(action{Do: "udp", To: to}, "", answer)
	must(t, g.Replace(a.id, &policy.Network{OnDeny: policy.Reject}))
	p.expect(action{Do: "udp", To: to}, refused, "")
	if err := g.Lend(a.id, to, time.Hour); !errors.Is(err, ErrNotGranted) {
		t.Errorf("lent what nothing asks about: %v", err)
	}
	p.expect(action{Do: "udp", To: to}, refused, "")
}

// TestLocalNames is what a hosts file grants by rules, and its bound.
func TestLocalNames(t *testing.T) {
	table, err := hosts.Parse(strings.NewReader("10.0.0.1 a.com x.b.com b.com\n10.0.0.2 a.com\n:: a.com\n0.0.0.0 y.b.com\n127.0.0.1 localhost\n10.0.0.3 " + strings.Repeat("a", 300) + ".b.com\n"))
	must(t, err)
	for _, c := range []struct {
		egress []string
		want   string
	}{
		{[]string{"10.0.0.0/8"}, ""},
		{[]string{"a.com:80"}, "a.com 10.0.0.1 a.com:80, a.com 10.0.0.2 a.com:80"},
		{[]string{"*.b.com"}, "x.b.com 10.0.0.1 *.b.com"},
		{[]string{"localhost:8080"}, "localhost 127.0.0.1 localhost:8080"},
	} {
		all, err := localNames(&policy.Network{Egress: c.egress}, table)
		must(t, err)
		var got []string
		for _, l := range all {
			got = append(got, l.name+" "+l.addr.String()+" "+l.rule.Rule)
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%q: %q, want %q", c.egress, got, c.want)
		}
	}
	many := hosts.Table{}
	for i := range maxLocal + 1 {
		many[fmt.Sprintf("n%d.b.com", i)] = []netip.Addr{far4}
	}
	if _, err := localNames(&policy.Network{Egress: []string{"*.b.com"}}, many); err == nil {
		t.Error("a hosts file without end is granted")
	}
}
