package policy

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestApprovalLimit(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"filesystem: {}":                                     DefaultApprovalTimeout,
		"approval: {}":                                       DefaultApprovalTimeout,
		"approval: {timeout: 90s}":                           90 * time.Second,
		"approval: {timeout: 2h, on_timeout: deny}":          2 * time.Hour,
		"approval: {on_timeout: wait}":                       0,
		"approval: {on_timeout: wait}\nfilesystem: {}":       0,
		"approval: {timeout: 1h0m0s}\nnetwork: {egress: []}": time.Hour,
	} {
		p, err := Parse("p.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got := p.ApprovalLimit(); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if again, err := ParseCanonical(p.Canonical()); err != nil || again.ApprovalLimit() != want {
			t.Errorf("%s: canonical %s: %v", text, p.Canonical(), err)
		}
	}
	short, _ := Parse("a", []byte("approval: {timeout: 300s}"))
	long, _ := Parse("b", []byte("approval: {timeout: 5m, on_timeout: deny}"))
	if short.Hash() != long.Hash() {
		t.Errorf("%s and %s are not the same policy", short.Canonical(), long.Canonical())
	}
}

func TestApprovalProblems(t *testing.T) {
	for _, tt := range []struct{ text, place, want string }{
		{"approval: {timeout: soon}", "1:21", "no time to wait"},
		{"approval: {timeout: 0s}", "1:21", "no time to wait"},
		{"approval: {timeout: 25h}", "1:21", "no time to wait"},
		{"approval: {timeout: 1500ms}", "1:21", "no time to wait"},
		{"approval:\n  on_timeout: allow", "2:15", "write deny or wait"},
		{"approval: {timeout: 5m, on_timeout: wait}", "1:21", "has no timeout"},
		{"approval: {always: true}", "1:12", "unknown key"},
		{"network: {require_approval: [10.0.0.1/8]}", "1:30", "bits set after the prefix"},
		{"network: {egress: [10.0.0.0/8], require_approval: [10.1.0.0/16]}", "1:52", `granted already by egress "10.0.0.0/8"`},
		{"network: {egress: ['*.b.example'], require_approval: ['a.b.example:443']}", "1:55", "granted already"},
		{"network: {default_action: allow, require_approval: [10.1.0.0/16]}", "1:53", "default_action: allow"},
	} {
		_, err := Parse("p.yaml", []byte(tt.text))
		if err == nil || !strings.Contains(err.Error(), "p.yaml:"+tt.place) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s %q", tt.text, err, tt.place, tt.want)
		}
	}
}

func TestAsks(t *testing.T) {
	p, err := Parse("p", []byte(`network: {egress: ["10.0.0.0/8:80"], require_approval: ["10.0.0.0/8:443", "*.example.com", "2001:db8::/32"]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		to    string
		names []string
		want  string
	}{
		{"10.1.2.3:443", nil, "10.0.0.0/8:443"}, {"[::ffff:10.1.2.3]:443", nil, "10.0.0.0/8:443"}, {"10.1.2.3:80", nil, ""},
		{"192.0.2.1:25", []string{"a.example.com"}, "*.example.com"}, {"192.0.2.1:25", []string{"example.com", "b.example.org"}, ""},
		{"[2001:db8::9]:1", nil, "2001:db8::/32"}, {"192.0.2.1:25", nil, ""},
	} {
		to := netip.MustParseAddrPort(tt.to)
		if rule, ok := p.Network.Asks(to.Addr(), to.Port(), tt.names...); rule != tt.want || ok != (tt.want != "") {
			t.Errorf("%s %v: %q %v, want %q", tt.to, tt.names, rule, ok, tt.want)
		}
	}
	wide, err := Parse("wide", []byte(`network: {egress: ["0.0.0.0/0"], require_approval: ["::/0", 127.0.0.0/8]}`)) // egress grants no loopback
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range map[string]bool{"127.0.0.1": true, "2001:db8::1": true, "::1": false, "169.254.169.254": false, "fe80::1%eth0": false, "64:ff9b::a9fe:a9fe": false} {
		if _, ok := wide.Network.Asks(netip.MustParseAddr(to), 80); ok != want {
			t.Errorf("%s under a wide rule: asks %v, want %v", to, ok, want)
		}
	}
	if !p.Network.AsksName("X.Example.com.") || p.Network.AsksName("example.com") || (*Network)(nil).AsksName("a.example.com") {
		t.Error("names that ask")
	}
}

// An inner policy may ask more and wait shorter, never the other way round.
func TestNarrowApprovals(t *testing.T) {
	for _, tt := range []struct {
		name, outer, inner string
		beyond             string // "": within
	}{
		{"asks where egress grants", "network: {egress: [10.0.0.0/8]}", "network: {require_approval: ['10.1.0.0/16:443']}", ""},
		{"asks where it asks", "network: {require_approval: [10.0.0.0/8]}", "network: {require_approval: [10.1.0.0/16]}", ""},
		{"grants where it asks", "network: {require_approval: [10.0.0.0/8]}", "network: {egress: [10.1.0.0/16]}", "the policy above asks a person"},
		{"asks beyond", "network: {egress: [10.0.0.0/8]}", "network: {require_approval: [192.0.2.1]}", "not granted"},
		{"grants beyond", "network: {require_approval: [10.0.0.0/8]}", "network: {egress: [192.0.2.1]}", "not granted"},
		{"asks under default allow", "network: {default_action: allow}", "network: {require_approval: [192.0.2.1]}", ""},
		{"inherits the destinations", "network: {require_approval: [10.0.0.0/8]}", "filesystem: {}", ""},
		{"shorter", "approval: {timeout: 5m}", "approval: {timeout: 1m}", ""},
		{"longer", "approval: {timeout: 5m}", "approval: {timeout: 6m}", "refuses after 5m"},
		{"for ever", "approval: {timeout: 5m}", "approval: {on_timeout: wait}", "refuses after 5m"},
		{"under for ever", "approval: {on_timeout: wait}", "approval: {timeout: 6m}", ""},
		{"inherits the time", "approval: {timeout: 7m}", "filesystem: {}", ""},
	} {
		outer, err := Parse("outer", []byte(tt.outer+"\n"))
		if err != nil {
			t.Fatal(tt.name, err)
		}
		inner, err := ParseIntent("inner", []byte(tt.inner+"\n"))
		if err != nil {
			t.Fatal(tt.name, err)
		}
		outer.Filesystem = &Filesystem{}
		result, err := Narrow(outer, inner)
		switch {
		case tt.beyond == "" && err != nil, tt.beyond != "" && (err == nil || !strings.Contains(err.Error(), tt.beyond)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.beyond)
		case err == nil && inner.Approval == nil && result.ApprovalLimit() != outer.ApprovalLimit():
			t.Errorf("%s: waits %s", tt.name, result.ApprovalLimit())
		}
	}
}
