package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestEndpoints(t *testing.T) {
	n := files(`network: {egress: ["A.example.com:443", "*.Example.org.", 10.0.0.0/8, "192.0.2.1:53", "2001:db8::1", "[2001:db8::/32]:443"], listen: [80, "127.0.0.1:81", "0.0.0.0:82", "[::]:83", "::1"]}`).Network
	want := []Endpoint{
		{Host: "*.example.org", Rule: "*.example.org"},
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Rule: "10.0.0.0/8"},
		{Prefix: netip.MustParsePrefix("192.0.2.1/32"), Port: 53, Rule: "192.0.2.1:53"},
		{Prefix: netip.MustParsePrefix("2001:db8::1/128"), Rule: "2001:db8::1"},
		{Prefix: netip.MustParsePrefix("2001:db8::/32"), Port: 443, Rule: "[2001:db8::/32]:443"},
		{Host: "a.example.com", Port: 443, Rule: "a.example.com:443"},
	}
	got := n.Endpoints()
	for _, e := range want {
		if !slices.Contains(got, e) {
			t.Errorf("%+v is missing in %+v", e, got)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d endpoints", len(got))
	}
	listen := []Endpoint{
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Port: 80, Rule: "80"},
		{Prefix: netip.MustParsePrefix("::/0"), Port: 80, Rule: "80"},
		{Prefix: netip.MustParsePrefix("127.0.0.1/32"), Port: 81, Rule: "127.0.0.1:81"},
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Port: 82, Rule: "0.0.0.0:82"},
		{Prefix: netip.MustParsePrefix("::/0"), Port: 83, Rule: "[::]:83"},
		{Prefix: netip.MustParsePrefix("::1/128"), Rule: "::1"},
	}
	got = n.ListenEndpoints()
	for _, e := range listen {
		if !slices.Contains(got, e) {
			t.Errorf("%+v is missing in %+v", e, got)
		}
	}
	got = files(`network: {ingress: [80, "10.0.0.0/8:81", "[2001:db8::1]:82", "192.0.2.0/24"]}`).Network.IngressEndpoints()
	if want := []Endpoint{
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Port: 81, Rule: "10.0.0.0/8:81"},
		{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Rule: "192.0.2.0/24"},
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Port: 80, Rule: "80"},
		{Prefix: netip.MustParsePrefix("::/0"), Port: 80, Rule: "80"},
		{Prefix: netip.MustParsePrefix("2001:db8::1/128"), Port: 82, Rule: "[2001:db8::1]:82"},
	}; !slices.Equal(got, want) {
		t.Errorf("ingress %+v, want %+v", got, want)
	}
	var none *Network
	if none.Endpoints() != nil || none.ListenEndpoints() != nil || none.IngressEndpoints() != nil || none.MatchHosts("a.com") != nil {
		t.Error("no section has endpoints")
	}
}

func TestMatchHost(t *testing.T) {
	n := files(`network: {egress: [a.com, "b.com:443", "b.com:80", "*.c.com", localhost, 10.0.0.0/8]}`).Network
	for name, want := range map[string]int{
		"a.com": 1, "A.COM.": 1, "b.com": 2, "x.c.com": 1, "x.y.c.com": 1, "c.com": 0, "xc.com": 0, ".c.com": 0, "x.a.com": 0,
		"a.com..": 0, "": 0, ".": 0, "10.0.0.1": 0, "localhost": 1, "a.com\x00": 0, "ａ.com": 0, "*.c.com": 0,
	} {
		matches := n.MatchHosts(name)
		if indexed := n.Hosts().Match(name); len(indexed) != want || want == 1 && indexed[0] != matches[0] {
			t.Errorf("%q by the index: %v", name, indexed)
		}
		first, ok := n.MatchHost(name)
		if len(matches) != want || ok != (want > 0) || (ok && first != matches[0]) {
			t.Errorf("%q: %v", name, matches)
		}
	}
}

// TestNameOpens is which addresses a name opens by which rules, whoever answers for it.
func TestNameOpens(t *testing.T) {
	n := files(`network: {egress: ["a.com:443", "private A.com.:445", "private *.c.com", 10.0.0.0/8]}`).Network
	for _, c := range []struct {
		name, addr string
		want       []string
	}{
		{"a.com", "192.0.2.1", []string{"a.com:443", "private a.com:445"}},
		{"a.com", "10.0.0.1", []string{"private a.com:445"}},
		{"a.com", "::ffff:10.0.0.1", []string{"private a.com:445"}},
		{"a.com", "172.31.255.255", []string{"private a.com:445"}},
		{"a.com", "172.32.0.0", []string{"a.com:443", "private a.com:445"}},
		{"a.com", "192.168.0.1", []string{"private a.com:445"}},
		{"a.com", "100.64.0.1", []string{"private a.com:445"}},
		{"a.com", "100.128.0.1", []string{"a.com:443", "private a.com:445"}},
		{"a.com", "fd00::1", []string{"private a.com:445"}},
		{"a.com", "fec0::1", []string{"private a.com:445"}},
		{"a.com", "64:ff9b::a00:1", []string{"private a.com:445"}}, // NAT64 of 10.0.0.1
		{"a.com", "2002:a00:1::", []string{"private a.com:445"}},   // 6to4 of 10.0.0.1
		{"a.com", "2001:db8::1", []string{"a.com:443", "private a.com:445"}},
		{"x.c.com", "10.0.0.1", []string{"private *.c.com"}},
		{"x.c.com", "127.0.0.1", nil},
		{"x.c.com", "169.254.169.254", nil},
		{"x.c.com", "fd00:ec2::254", nil},
		{"c.com", "192.0.2.1", nil},
		{"d.com", "192.0.2.1", nil},
	} {
		var got []string
		for _, e := range n.NameOpens(c.name, netip.MustParseAddr(c.addr)) {
			got = append(got, e.String())
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s, answered with %s: %q, want %q", c.name, c.addr, got, c.want)
		}
	}
}

func TestMatchUnix(t *testing.T) {
	n := &Network{Unix: []string{"/run/*.sock", "/run/d/**"}}
	for path, want := range map[string]string{"/run/a.sock": "/run/*.sock", "/run/d/x/y": "/run/d/**", "/run/x/a.sock": "", "run/a.sock": "", "": ""} {
		if rule, ok := n.MatchUnix(path); rule != want || ok != (want != "") {
			t.Errorf("%q: %q %v", path, rule, ok)
		}
	}
	if _, ok := (*Network)(nil).MatchUnix("/run/a.sock"); ok {
		t.Error("no section grants a socket")
	}
}

// TestPrefixInclusionAgainstReference tries all 256 addresses of the last byte.
func TestPrefixInclusionAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	random := func() netip.Prefix {
		p, _ := netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(256))}).Prefix(24 + r.IntN(9))
		return p
	}
	covered := 0
	for range 5000 {
		inner := random()
		var outer []netip.Prefix
		for range r.IntN(12) {
			outer = append(outer, random())
		}
		want := true
		for i := range 256 {
			addr := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
			if inner.Contains(addr) && !slices.ContainsFunc(outer, func(p netip.Prefix) bool { return p.Contains(addr) }) {
				want = false
			}
		}
		var rules []Endpoint
		for _, p := range outer {
			rules = append(rules, Endpoint{Prefix: p})
		}
		if got := newReach(rules, 0).covers(Endpoint{Prefix: inner}); got != want {
			t.Fatalf("%v in %v: %v, want %v", inner, outer, got, want)
		}
		if want {
			covered++
		}
	}
	t.Logf("%d of 5000 covered", covered)
}

func TestSyscalls(t *testing.T) {
	for _, c := range []struct {
		arch, name string
		number     int
		ok         bool
	}{
		{"amd64", "read", 0, true}, {"arm64", "read", 63, true}, {"amd64", "open", 2, true}, {"arm64", "open", 0, false},
		{"amd64", "openat2", 437, true}, {"arm64", "openat2", 437, true}, {"amd64", "nosuch", 0, false}, {"386", "read", 0, false},
	} {
		if n, ok := SyscallNumber(c.arch, c.name); ok != c.ok || (ok && n != c.number) {
			t.Errorf("%s %s: %d %v", c.arch, c.name, n, ok)
		}
	}
	names := Syscalls()
	if len(names) < 350 || !slices.IsSorted(names) || slices.Contains(names, "arch_specific_syscall") {
		t.Errorf("%d names", len(names))
	}
	p := files("syscalls: {bpf: log}")
	if p.SyscallAction("bpf") != SyscallLog || p.SyscallAction("read") != SyscallAllow {
		t.Error("actions")
	}
}
