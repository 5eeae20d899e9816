package bypass

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/test/farhost"
	"github.com/raypher/raypher/test/governed"
)

// A name of the far host, and where it is granted.
const (
	farName     = "far.isolated.test"
	farNamePort = "8099"
)

// alone is wired in a network namespace of its own, with a name. The resolver of the probe reads these files.
var alone = strings.NewReplacer("PROGRAM, ", "PROGRAM, /etc/**, ", "network:\n", "network:\n  isolate: true\n", "egress: [", `egress: ["private `+farName+`:`+farNamePort+`", `).Replace(wired)

// TestIsolated: a program in a network namespace of its own reaches what is granted, by address over both families and by name, and nothing
// else, whoever of its guards is killed; when it has ended, the host is as it was. As root and as a plain user.
func TestIsolated(t *testing.T) {
	if os.Geteuid() == 0 {
		// What is changed of a host is noted in the one folder that all raypherds share: here the test's own.
		farhost.Must(t, os.MkdirAll("/run/raypher", 0o755))
		farhost.Must(t, unix.Mount("tmpfs", "/run/raypher", "tmpfs", 0, "mode=755"))
		t.Cleanup(func() { farhost.Must(t, unix.Unmount("/run/raypher", unix.MNT_DETACH)) })
	}
	m := governed.Open(t, "--listen", "", "--gateway", "", "--dns-upstream", serveName(t))
	far := newStreet(t)
	far.Serve(farhost.Far4 + ":" + farNamePort)
	before := hostNow(t)
	for name, uid := range map[string]int{"as root": 0, "as a user": governed.UserID} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, m, uid)
			if out, err := mayIsolate(uid); err != nil {
				t.Skipf("this host lets users make no network namespaces: %v %s", err, out)
			}
			t.Run("raypherd killed", func(t *testing.T) { raypherdKilled(t, w, far, before) })
			t.Run("warden killed", func(t *testing.T) { wardenKilled(t, w, far, before) })
			t.Run("all killed", func(t *testing.T) { allKilled(t, w, far, before) })
		})
	}
}

func mayIsolate(uid int) ([]byte, error) {
	cmd := exec.Command("unshare", "--user", "--net", "true")
	cmd.SysProcAttr = governed.As(uid)
	return cmd.CombinedOutput()
}

func raypherdKilled(t *testing.T, w *world, far *farhost.Street, before string) {
	w.t = t
	r := w.reside(alone)
	if wires := wires(t); len(wires) != 1 || wires[0].Attrs().Xdp == nil || !wires[0].Attrs().Xdp.Attached {
		t.Fatalf("wires with an XDP program: %v", wires)
	}
	toName := "tcp " + farhost.Far4 + ":" + farNamePort
	held := func(when string) {
		t.Helper()
		far.Quiet()
		for _, a := range attempts {
			got := r.do(fmt.Sprintf("emit-%s %s eth0", a.do, a.to))
			frames := far.Came()
			if a.effect == nothing && len(frames) > 0 || a.effect == arrives && len(frames) == 0 || got != a.want {
				t.Errorf("%s, %s to %s answers %s, want %s, and the far host saw %q", when, a.do, a.to, got, a.want, farhost.Hexes(frames))
			}
			far.Quiet()
		}
	}
	r.expect("emit-" + toName + " eth0 => EPERM") // nobody has asked for the name
	r.expect("resolve " + farName + " " + farhost.Far4)
	r.expect("resolve other.isolated.test 192.0.2.1 => no answer")
	r.expect("emit-" + toName + " eth0")
	held("with raypherd")
	w.Pair.KillParent()
	held("without raypherd")
	r.expect("emit-" + toName + " eth0") // as long as the answer lives
	r.expect("resolve " + farName + " " + farhost.Far4 + " => no answer")
	w.must(w.Pair.RestartParent(t.Context()))
	eventually(t, "the forwarder answers again inside", func() bool { return r.do("resolve "+farName+" "+farhost.Far4) == "ok" })
	held("with the next raypherd")
	r.end()
	eventually(t, "the host is as it was", func() bool { return hostNow(t) == before })
}

func wardenKilled(t *testing.T, w *world, far *farhost.Street, before string) {
	w.t = t
	r := w.reside(alone)
	r.expect("emit-tcp " + farGranted + " eth0")
	w.must(unix.Kill(r.warden(), unix.SIGKILL))
	ended := make(chan error, 1)
	go func() { ended <- r.agent.Cmd.Wait() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("an isolated agent outlives its warden")
	}
	far.Quiet()
	eventually(t, "the host is as it was", func() bool { return hostNow(t) == before })
}

func allKilled(t *testing.T, w *world, far *farhost.Street, before string) {
	w.t = t
	r := w.reside(alone)
	r.expect("emit-tcp " + farGranted + " eth0")
	w.Pair.KillParent()
	w.must(unix.Kill(r.warden(), unix.SIGKILL))
	w.must(r.agent.Cmd.Process.Signal(syscall.SIGKILL))
	_ = r.agent.Cmd.Wait() // killed
	eventually(t, "the wire goes with the last process", func() bool { return len(wires(t)) == 0 })
	w.must(w.Pair.RestartParent(t.Context()))
	eventually(t, "the next raypherd puts the host's settings back", func() bool { return hostNow(t) == before })
}

// serveName is a resolver that knows one name.
func serveName(t *testing.T) string {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		if q := r.Question[0]; q.Name == farName+"." && q.Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 600}, A: net.ParseIP(farhost.Far4)}}
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown() })
	return socket.LocalAddr().String()
}

// wires are the host ends of isolated agents.
func wires(t *testing.T) (all []netlink.Link) {
	t.Helper()
	links, err := netlink.LinkList()
	farhost.Must(t, err)
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, "ry-") {
			all = append(all, l)
		}
	}
	return all
}

// hostNow is what wires change of a host, in words.
func hostNow(t *testing.T) string {
	t.Helper()
	var words strings.Builder
	for _, l := range wires(t) {
		fmt.Fprintln(&words, "wire", l.Attrs().Name)
	}
	for _, name := range []string{"ipv4/ip_forward", "ipv4/conf/all/forwarding", "ipv4/conf/all/accept_redirects", "ipv6/conf/all/forwarding", "ipv6/conf/street/accept_ra"} {
		value, err := os.ReadFile("/proc/sys/net/" + name)
		farhost.Must(t, err)
		fmt.Fprint(&words, name, " ", string(value))
	}
	c, err := nftables.New()
	farhost.Must(t, err)
	tables, err := c.ListTables()
	farhost.Must(t, err)
	for _, one := range tables {
		fmt.Fprintln(&words, "table", one.Name)
	}
	return words.String()
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Errorf("never: %s\n%s", what, hostNow(t))
}
