package bypass

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/startconf"
	"github.com/raypher/raypher/test/farhost"
	"github.com/raypher/raypher/test/governed"
)

// What is granted of the far host.
const (
	farGranted = farhost.Far4 + ":80"
	far6       = "[" + farhost.Far6 + "]:80"
)

// wired grants one port of the far host, over both families.
const wired = `
mode: enforce
filesystem: {read: [PROGRAM, /sys/kernel/mm/transparent_hugepage/**, /proc/self/**, "/dev/null"], exec: [PROGRAM]}
network:
  on_deny: reject
  egress: ["` + farGranted + `", "` + far6 + `"]
`

// Where what a packet tries is seen.
type effect int

const (
	nothing effect = iota // no frame may arrive
	arrives               // the granted port hears it
)

// attempts are all the ways in which a program can try to have packets sent, each with what a governed one is told and what arrives. Without
// the guard each has to arrive, or this kernel does not have the family: else that nothing came would say nothing.
var attempts = []struct {
	do, to string
	want   string
	effect effect
}{
	{"tcp", farGranted, "ok", arrives},
	{"tcp", far6, "ok", arrives},
	{"tcp-mapped", farGranted, "ok", arrives},
	{"fastopen", farGranted, "ok", arrives},
	{"fastopen-connect", farGranted, "ok", arrives},
	{"udp", farGranted, "ok", arrives},
	{"udp", far6, "ok", arrives},
	{"udp-mapped", farGranted, "ok", arrives},
	{"udp-connected", farGranted, "ok", arrives},
	{"udp-batch", farGranted, "ok", arrives},

	{"tcp", "10.90.0.2:81", "EPERM", nothing},
	{"tcp", "10.90.0.3:80", "EPERM", nothing},
	{"tcp", "[fd90::2]:81", "EPERM", nothing},
	{"tcp", "[fd90::3]:80", "EPERM", nothing},
	{"tcp-mapped", "10.90.0.3:80", "EPERM", nothing},
	{"tcp-multipath", "10.90.0.3:80", "EPROTONOSUPPORT", nothing},
	{"tcp-multipath", farGranted, "EPROTONOSUPPORT", nothing}, // programs take TCP then
	{"fastopen", "10.90.0.3:80", "EPERM", nothing},
	{"fastopen", "[fd90::3]:80", "EPERM", nothing},
	{"fastopen-connect", "10.90.0.3:80", "EPERM", nothing},
	{"udp", "10.90.0.2:81", "EPERM", nothing},
	{"udp", "[fd90::3]:80", "EPERM", nothing},
	{"udp-mapped", "10.90.0.3:80", "EPERM", nothing},
	{"udp-connected", "10.90.0.3:80", "EPERM", nothing},
	{"udp-batch", "10.90.0.3:80", "EPERM", nothing},
	{"udp", "224.0.0.251:5353", "EPERM", nothing},
	{"udp", "[ff02::fb]:5353", "EPERM", nothing},
	{"udp-broadcast", "255.255.255.255:80", "EPERM", nothing},
	{"udp-broadcast", "10.90.0.255:80", "EPERM", nothing},
	{"tcp", "169.254.169.254:80", "EPERM", nothing},
	{"udp", "169.254.169.254:80", "EPERM", nothing},
	{"udp", "[fe80::2]:80", "EPERM", nothing},
	{"udp-bound", farGranted, "EPERM", nothing},
	{"udp-marked", farGranted, "EPERM", nothing},
	{"udp-routed", farGranted, "EPERM", nothing},
	{"udp-routed-once", farGranted, "EPERM", nothing},
	{"udp-foreign", farGranted, "EPERM", nothing},

	{"udplite", farGranted, "EPERM", nothing},
	{"ping", farGranted, "EPERM", nothing},
	{"raw-icmp", farGranted, "EPERM", nothing},
	{"raw-udp", farGranted, "EPERM", nothing},
	{"raw-gre", farGranted, "EPERM", nothing},
	{"raw-whole", farGranted, "EPERM", nothing},
	{"frame", farGranted, "EPERM", nothing},
	{"frame-cooked", farGranted, "EPERM", nothing},
	{"frame-xdp", farGranted, "EPERM", nothing},
	{"sctp", farGranted, "EPERM", nothing},
	{"dccp", farGranted, "EPERM", nothing},
	{"vsock", farGranted, "EPERM", nothing},
	{"can", farGranted, "EPERM", nothing},
	{"bluetooth", farGranted, "EPERM", nothing},
	{"tipc", farGranted, "EPERM", nothing},
	{"smc", farGranted, "EPERM", nothing},
	{"l2tp", farGranted, "EPERM", nothing},
	{"pppox", farGranted, "EPERM", nothing},
	{"llc", farGranted, "EPERM", nothing},
	{"netlink-audit", farGranted, "EPERM", nothing},
	{"netlink-monitor", farGranted, "EPERM", nothing},
}

// elsewhere are the families that put nothing on a wire of IP: of these a socket is the attempt.
const elsewhere = " vsock can bluetooth tipc smc l2tp pppox llc netlink-audit netlink-monitor "

// TestWire: of all that a program can try to send, by every family and way, the far host gets what is granted and not one frame more.
func TestWire(t *testing.T) {
	var far *farhost.Street
	asUsers(t, func(w *world) {
		if far == nil {
			far = newStreet(t)
			ungoverned(t, far)
		}
		r := w.reside(wired)
		far.Quiet() // what the host says of itself when a wire is new
		for _, a := range attempts {
			name := fmt.Sprintf("%s to %s", a.do, a.to)
			before := far.Heard.Load()
			if got := r.do(fmt.Sprintf("emit-%s %s %s", a.do, a.to, far.Link)); got != a.want {
				w.t.Errorf("%s: answered %s, want %s", name, got, a.want)
			}
			frames := far.Came()
			switch {
			case a.effect == nothing && len(frames) > 0:
				w.t.Errorf("%s: the far host saw %s", name, farhost.Hexes(frames))
			case a.effect == arrives && !far.Hears(before):
				w.t.Errorf("%s: %d frames, and the listener heard nothing new", name, len(frames))
			}
			far.Quiet() // what a granted flow still says belongs to it
		}
		r.end()
		w.refusalsTold(r)
	})
}

// refusalsTold wants each destination that was refused among the verdicts.
func (w *world) refusalsTold(r *resident) {
	w.t.Helper()
	missing := func() (missing []string) {
		verdicts, err := r.agent.Verdicts()
		w.must(err)
		var all strings.Builder
		for _, v := range verdicts {
			fmt.Fprintln(&all, v.Operation, v.Target)
		}
		for _, a := range attempts {
			want := a.to
			if a.want != "EPERM" || strings.Contains(elsewhere, " "+a.do+" ") || a.to == farGranted {
				continue // families and options are in the conformance table
			}
			if !strings.Contains(all.String(), want) {
				missing = append(missing, want)
			}
		}
		return missing
	}
	for end := time.Now().Add(20 * time.Second); len(missing()) > 0 && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	if all := missing(); len(all) > 0 {
		w.t.Errorf("refused, and not told: %q\n%s", all, r.agent.Said())
	}
}

// newStreet is a street on which everyone may ping, and clients send data with their first packet.
func newStreet(t *testing.T) *farhost.Street {
	far := farhost.OpenStreet(t)
	for file, value := range map[string]string{"ping_group_range": "0 2147483647", "tcp_fastopen": "1"} {
		farhost.Must(t, os.WriteFile("/proc/sys/net/ipv4/"+file, []byte(value), 0))
	}
	far.Serve(farGranted, far6)
	return far
}

// ungoverned does every attempt without the guard: each has to arrive, or this kernel does not have it.
func ungoverned(t *testing.T, far *farhost.Street) {
	t.Helper()
	for _, a := range attempts {
		out, _ := exec.Command(governed.Probe(), "emit-"+a.do, a.to, far.Link).CombinedOutput() // what counts is what comes
		frames := far.Came()
		switch answer := strings.TrimSpace(string(out)); {
		case len(frames) > 0:
		case strings.Contains("EPROTONOSUPPORT ESOCKTNOSUPPORT EAFNOSUPPORT", answer):
			t.Logf("%s: not in this kernel (%s): that nothing of it arrives says nothing here", a.do, answer)
		case answer == "ok" && strings.Contains(elsewhere, " "+a.do+" "):
		default:
			t.Errorf("without the guard, %s to %s does not arrive either: %s", a.do, a.to, answer)
		}
		far.Quiet()
	}
}

// TestWireWithoutRaypherd: when raypherd and every warden are killed, the kernel alone holds what it held, opens what it opened, and closes all
// of it when the visa ends: new flows, open ones, and whoever comes in.
func TestWireWithoutRaypherd(t *testing.T) {
	m := governed.OpenBrief(t, startconf.MinTTL*time.Second, "--listen", "", "--gateway", "") // others of this package have the ports
	far := newStreet(t)
	var residents []*resident
	for i, uid := range []int{0, governed.UserID} {
		w := newWorld(t, m, uid)
		door := fmt.Sprintf("%s:%d", farhost.Near4, 7000+i)
		r := w.reside(wired + "  listen: [\"" + door + "\"]\n")
		r.expect("flow-open " + farGranted)
		r.expect("flow-say")
		r.expect("flow-listen " + door)
		if !knocks(t, far, door) {
			t.Errorf("%s was granted and nobody gets in", door)
		}
		residents = append(residents, r)
	}
	wardens := []int{residents[1].warden()}
	m.Pair.KillParent()
	farhost.Must(t, unix.Kill(wardens[0], unix.SIGKILL))
	for gone := time.Now().Add(10 * time.Second); unix.Kill(wardens[0], 0) == nil && time.Now().Before(gone); {
		time.Sleep(10 * time.Millisecond)
	}
	farhost.Must(t, unix.Kill(residents[0].warden(), unix.SIGKILL)) // the other one
	all := func(when string, open bool) {
		t.Helper()
		far.Quiet()
		for _, r := range residents {
			if got := r.do("flow-say"); (got == "ok") != open {
				t.Errorf("%s, an open flow of user %d answers %s", when, r.w.uid, got)
			}
			for _, a := range attempts {
				got := r.do(fmt.Sprintf("emit-%s %s %s", a.do, a.to, far.Link))
				if frames := far.Came(); (a.effect == nothing || !open) && len(frames) > 0 || a.effect == arrives && open && (len(frames) == 0 || got != "ok") {
					t.Errorf("%s, %s to %s of user %d answers %s, and the far host saw %q", when, a.do, a.to, r.w.uid, got, farhost.Hexes(frames))
				}
				far.Quiet()
			}
		}
	}
	all("without raypherd", true)
	for end := time.Now().Add(time.Minute); (residents[0].do("flow-say") == "ok" || residents[1].do("flow-say") == "ok") && time.Now().Before(end); {
		time.Sleep(100 * time.Millisecond)
	}
	all("when the visa has ended", false)
	for i := range residents {
		if door := fmt.Sprintf("%s:%d", farhost.Near4, 7000+i); knocks(t, far, door) {
			t.Errorf("%s is open when the visa has ended", door)
		}
	}
	if frames := far.Came(); len(frames) > 0 {
		t.Errorf("who knocks is answered when the visa has ended: %s", farhost.Hexes(frames))
	}
}

// knocks reports whether the far host gets a connection to this one.
func knocks(t *testing.T, far *farhost.Street, door string) (in bool) {
	farhost.In(t, far.Far, func() {
		c, err := net.DialTimeout("tcp", door, 500*time.Millisecond)
		if in = err == nil; in {
			c.Close()
		}
	})
	return in
}
