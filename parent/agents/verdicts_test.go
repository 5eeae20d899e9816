package agents

import (
	"testing"

	"github.com/raypher/raypher/parent/dns"
	"github.com/raypher/raypher/parent/guard/net"
)

// Where nothing grants it, there is no rule to name; what is said instead is the terminal's to choose.
func TestRuleOfARefusal(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{nameRule(dns.NotGranted), ""},
		{nameRule(dns.OtherNames), dns.OtherNames},
		{reasonRule(netguard.NotGranted), ""},
		{reasonRule(netguard.Expired), "the visa has ended"},
	} {
		if tt.got != tt.want {
			t.Errorf("rule %q, want %q", tt.got, tt.want)
		}
	}
}

// TestReportedByWarden: in mode audit a refused connect is one verdict, and none is left out because of another's.
func TestReportedByWarden(t *testing.T) {
	for _, c := range []struct {
		operation, path string
		want            bool
	}{
		{"connect-unix", "/var/run/nscd/socket", true},
		{"connect-unix", "/run/a/b.sock", false}, // 13 bytes: as long as an IPv4 address with its final zero
		{"connect-unix", "/run/a/bc.sock", false},
		{"connect-unix", "/run/a/bcd.sock", true},
		{"connect-unix", "@abstract", false},
		{"connect-unix", "", false},
		{"sendto-unix", "/var/run/nscd/socket", false},
		{"connect", "", false},
	} {
		if got := reportedByWarden(netguard.Event{Operation: c.operation, Path: c.path}); got != c.want {
			t.Errorf("%s %s: %v", c.operation, c.path, got)
		}
	}
}
