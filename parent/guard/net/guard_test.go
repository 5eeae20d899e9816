package netguard

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// TestGuard is the specification of what an agent may reach: for each policy and action, what the program sees, what the
// far end saw, and which hook reported it.
func TestGuard(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{"10.77.0.2:80", "10.77.0.2:81", "10.77.1.2:80", "10.77.1.2:81", "[fd77::2]:80", "[fd77::2]:81"} {
		w.serve(t, w.far, mustAddr(a))
	}
	for _, a := range []string{"127.0.0.1:8080", "[::1]:8080", "127.0.0.1:50051", "[::1]:50051"} {
		w.serve(t, w.near, mustAddr(a))
	}
	w.capture(t)
	g := w.load(t, Options{Own: ownEnds})
	events := record(t, g)

	drop := policy.Network{OnDeny: policy.Blackhole}
	reject := policy.Network{OnDeny: policy.Reject}
	with := func(n policy.Network, egress ...string) policy.Network {
		n.Egress = egress
		return n
	}
	for _, c := range []struct {
		name   string
		policy policy.Network
		mode   policy.Mode
		do     string
		to     string
		err    string // what the program gets; empty: the far end's answer
		layer  string // of the event; empty: there is none
	}{
		// Granted: the answer comes back.
		{"granted address, tcp", with(drop, "10.77.0.2/32"), "", "tcp", "10.77.0.2:80", "", ""},
		{"granted address, udp", with(drop, "10.77.0.2/32"), "", "udp", "10.77.0.2:80", "", ""},
		{"granted address, connected udp", with(drop, "10.77.0.2/32"), "", "udp-connected", "10.77.0.2:80", "", ""},
		{"granted address, sendmmsg", with(drop, "10.77.0.2/32"), "", "sendmmsg", "10.77.0.2:80", "", ""},
		{"granted address, mapped tcp", with(drop, "10.77.0.2/32"), "", "tcp-mapped", "10.77.0.2:80", "", ""},
		{"granted address, mapped udp", with(drop, "10.77.0.2/32"), "", "udp-mapped", "10.77.0.2:80", "", ""},
		{"granted address, fast open", with(drop, "10.77.0.2/32"), "", "fastopen", "10.77.0.2:80", "", ""},
		{"granted prefix", with(drop, "10.77.0.0/16"), "", "tcp", "10.77.1.2:80", "", ""},
		{"granted port", with(drop, "10.77.0.2/32:80"), "", "tcp", "10.77.0.2:80", "", ""},
		{"granted ipv6, tcp", with(drop, "[fd77::2]:80"), "", "tcp", "[fd77::2]:80", "", ""},
		{"granted ipv6, udp", with(drop, "fd77::/64"), "", "udp", "[fd77::2]:80", "", ""},
		{"granted loopback", with(drop, "127.0.0.1/32:8080"), "", "tcp", "127.0.0.1:8080", "", ""},
		{"raypherd's own port", drop, "", "tcp", "127.0.0.1:50051", "", ""},
		{"somebody else's, the same over IPv6", reject, "", "tcp", "[::1]:50051", refused, "cgroup/connect6"},
		{"default allow", policy.Network{DefaultAction: policy.Allow}, "", "tcp", "10.77.0.2:81", "", ""},
		{"default allow, and an own rule for loopback", policy.Network{DefaultAction: policy.Allow, Egress: []string{"127.0.0.0/8"}}, "", "tcp", "127.0.0.1:8080", "", ""},
		{"a wide rule, and an own one for every port", with(drop, "0.0.0.0/0:8080", "127.0.0.1"), "", "tcp", "127.0.0.1:8080", "", ""},
		{"a wide rule for every port, and an own one", with(drop, "0.0.0.0/0", "127.0.0.1:8080"), "", "tcp", "127.0.0.1:8080", "", ""},

		// Reserved ranges are in no wide rule: this host, its link, groups, what clouds keep secrets behind.
		{"default allow leaves out loopback", policy.Network{DefaultAction: policy.Allow}, "", "tcp", "127.0.0.1:8080", silence, "cgroup_skb/egress"},
		{"default allow leaves out metadata", policy.Network{DefaultAction: policy.Allow, OnDeny: policy.Reject}, "", "tcp", "169.254.169.254:80", refused, "cgroup/connect4"},
		{"default allow leaves out metadata, mapped", policy.Network{DefaultAction: policy.Allow, OnDeny: policy.Reject}, "", "tcp-mapped", "169.254.169.254:80", refused, "cgroup/connect6"},
		{"a wide rule leaves out loopback", with(drop, "0.0.0.0/0"), "", "tcp", "127.0.0.1:8080", silence, "cgroup_skb/egress"},
		{"a wide rule of one port leaves out loopback", with(drop, "0.0.0.0/0:8080"), "", "tcp", "127.0.0.1:8080", silence, "cgroup_skb/egress"},
		{"a wide ipv6 rule leaves out loopback", with(drop, "::/0"), "", "tcp", "[::1]:8080", silence, "cgroup_skb/egress"},
		{"a wide rule leaves out multicast", with(reject, "0.0.0.0/0"), "", "udp", "224.0.0.251:5353", refused, "cgroup/sendmsg4"},
		{"a wide rule leaves out broadcast", with(reject, "0.0.0.0/0"), "", "udp", "255.255.255.255:9", refused, "cgroup/sendmsg4"},
		{"a wide rule leaves out what NAT64 carries to metadata", with(reject, "::/0"), "", "tcp", "[64:ff9b::a9fe:a9fe]:80", refused, "cgroup/connect6"},

		// A long prefix with one port does not hide a short one with another.
		{"short prefix behind a long one", with(drop, "10.77.0.2/32:80", "10.77.0.0/16:81"), "", "tcp", "10.77.0.2:81", "", ""},
		{"any port behind a long prefix", with(drop, "10.77.0.2/32:80", "10.77.0.0/16"), "", "tcp", "10.77.0.2:81", "", ""},
		{"long prefix with its port only", with(drop, "10.77.0.2/32:80", "10.77.0.0/16:81"), "", "tcp", "10.77.1.2:80", silence, "cgroup_skb/egress"},

		// Not granted, in a black hole: silence, whatever way it is tried.
		{"black hole, tcp", drop, "", "tcp", "10.77.0.2:80", silence, "cgroup_skb/egress"},
		{"black hole, other port", with(drop, "10.77.0.2/32:80"), "", "tcp", "10.77.0.2:81", silence, "cgroup_skb/egress"},
		{"black hole, udp", drop, "", "udp", "10.77.0.2:80", silence, "cgroup_skb/egress"},
		{"black hole, connected udp", drop, "", "udp-connected", "10.77.0.2:80", silence, "cgroup_skb/egress"},
		{"black hole, sendmmsg", drop, "", "sendmmsg", "10.77.0.2:80", silence, "cgroup_skb/egress"},
		{"black hole, fast open", drop, "", "fastopen", "10.77.0.2:80", silence, "cgroup_skb/egress"},
		{"black hole, mapped fast open", drop, "", "fastopen-mapped", "10.77.0.2:80", silence, "cgroup_skb/egress"},
		{"black hole, mapped tcp", drop, "", "tcp-mapped", "10.77.0.2:80", silence, "cgroup_skb/egress"},
		{"black hole, mapped udp", drop, "", "udp-mapped", "10.77.0.2:80", silence, "cgroup_skb/egress"},
		{"black hole, ipv6 tcp", drop, "", "tcp", "[fd77::2]:80", silence, "cgroup_skb/egress"},
		{"black hole, ipv6 udp", drop, "", "udp", "[fd77::2]:80", silence, "cgroup_skb/egress"},
		{"black hole, loopback", drop, "", "tcp", "127.0.0.1:8080", silence, "cgroup_skb/egress"},
		{"black hole, loopback as 0.0.0.0", drop, "", "tcp", "0.0.0.0:8080", silence, "cgroup_skb/egress"},
		{"black hole, loopback as ::", drop, "", "tcp", "[::]:8080", silence, "cgroup_skb/egress"},
		{"ipv4 rules grant no ipv6", with(drop, "0.0.0.0/0"), "", "tcp", "[fd77::2]:80", silence, "cgroup_skb/egress"},
		{"ipv6 rules grant no ipv4", with(drop, "::/0"), "", "tcp-mapped", "10.77.0.2:80", silence, "cgroup_skb/egress"},
		{"dns without a forwarder", with(drop, "10.77.0.2/32"), "", "udp", "10.77.0.2:53", silence, "cgroup_skb/egress"},

		// Not granted, rejected: EPERM from the call.
		{"reject, tcp", reject, "", "tcp", "10.77.0.2:80", refused, "cgroup/connect4"},
		{"reject, udp", reject, "", "udp", "10.77.0.2:80", refused, "cgroup/sendmsg4"},
		{"reject, connected udp", reject, "", "udp-connected", "10.77.0.2:80", refused, "cgroup/connect4"},
		{"reject, fast open", reject, "", "fastopen", "10.77.0.2:80", refused, "cgroup/connect4"},
		{"reject, mapped fast open", reject, "", "fastopen-mapped", "10.77.0.2:80", refused, "cgroup/connect6"},
		{"reject, mapped tcp", reject, "", "tcp-mapped", "10.77.0.2:80", refused, "cgroup/connect6"},
		{"reject, mapped udp", reject, "", "udp-mapped", "10.77.0.2:80", refused, "cgroup/sendmsg4"},
		{"reject, ipv6 tcp", reject, "", "tcp", "[fd77::2]:80", refused, "cgroup/connect6"},
		{"reject, ipv6 udp", reject, "", "udp", "[fd77::2]:80", refused, "cgroup/sendmsg6"},

		// Sockets that are refused altogether, whatever the rules.
		{"raw socket", with(drop, "0.0.0.0/0"), "", "raw", "10.77.0.2:0", refused, "cgroup/sock_create"},
		{"ping socket", with(drop, "0.0.0.0/0"), "", "icmp", "10.77.0.2:0", refused, "cgroup/sock_create"},
		{"udplite socket", with(drop, "0.0.0.0/0"), "", "udplite", "10.77.0.2:80", refused, "cgroup/sock_create"},
		{"mptcp socket", with(drop, "0.0.0.0/0"), "", "mptcp", "10.77.0.2:80", "EPROTONOSUPPORT", ""},

		// The other modes let it through; audit reports.
		{"audit", drop, policy.Audit, "tcp", "10.77.0.2:80", "", "cgroup/connect4"},
		{"audit, udp", drop, policy.Audit, "udp", "10.77.0.2:80", "", "cgroup/sendmsg4"},
		{"permissive", drop, policy.Permissive, "tcp", "10.77.0.2:80", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := w.newAgent(t, "table")
			mode := c.mode
			if mode == "" {
				mode = policy.Enforce
			}
			arm(t, g, a, &c.policy, mode)
			defer g.Disarm(a.id)
			p := w.startProbe(t, a.fd)
			w.forget()
			events.forget()
			patience := answerPatience
			if c.err == silence {
				patience = silencePatience
			}
			o := p.do(action{Do: c.do, To: mustAddr(c.to), Data: "hello", Patience: patience})
			arrived, packets := w.forget()
			packets = slices.DeleteFunc(packets, isLater)
			if c.err == "" {
				if o.Err != "" || o.Data != "you said hello" {
					t.Errorf("program: %+v, want the answer", o)
				}
			} else {
				if o.Err != c.err {
					t.Errorf("program: %+v, want %s", o, c.err)
				}
				if len(arrived) != 0 || len(packets) != 0 {
					t.Errorf("the far end saw %q, packets %q; want nothing", arrived, packets)
				}
			}
			if c.layer == "" {
				if e := events.of(a); len(e) != 0 {
					t.Errorf("events %+v; want none", e)
				}
				return
			}
			e := events.wait(t, c.layer, func(e Event) bool { return e.Layer == c.layer && e.CgroupID == a.id })
			if e.PID != uint32(p.cmd.Process.Pid) || e.Comm == "" || e.Mode != mode || e.Reason != NotGranted {
				t.Errorf("event %+v; want pid %d, mode %s", e, p.cmd.Process.Pid, mode)
			}
			wantErrno := int32(0)
			if c.err == refused {
				wantErrno = 1
			}
			if e.Errno != wantErrno {
				t.Errorf("event says errno %d; the program got %q", e.Errno, o.Err)
			}
			if late := time.Since(e.Time); late > 10*time.Second || late < 0 {
				t.Errorf("event is dated %v ago", late)
			}
			if to := strings.Replace(strings.Replace(c.to, "0.0.0.0", "127.0.0.1", 1), "[::]", "[::1]", 1); !strings.Contains(c.name, "socket") && e.Destination.String() != to {
				t.Errorf("event names %v, want %s", e.Destination, to)
			}
		})
	}
}

// isLater tells a segment that opens no TCP flow: one of the case before may come late, while what leaks begins with a SYN.
func isLater(packet string) bool {
	b, err := hex.DecodeString(packet)
	if err != nil || len(b) < 20 {
		return false
	}
	header, proto := int(b[0]&0xf)*4, b[9]
	if b[0]>>4 == 6 && len(b) >= 40 {
		header, proto = 40, b[6]
	}
	const flags, syn = 13, 0x02
	return proto == unix.IPPROTO_TCP && len(b) > header+flags && b[header+flags]&syn == 0
}
