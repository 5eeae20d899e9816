package dns

import (
	"net/netip"

	"github.com/raypher/raypher/policy"
)

// reserved says what an address is that no name may open, or nothing.
func reserved(a netip.Addr) string {
	what, _ := policy.Reserved(a)
	return what
}
