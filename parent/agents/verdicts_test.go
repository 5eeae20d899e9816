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
