package dns

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// TestConnectionsAreShared: an agent that opens connections and says nothing leaves the others theirs.
func TestConnectionsAreShared(t *testing.T) {
	greedy := netip.MustParseAddr("127.0.0.7")
	f := start(t, Agent{}, Options{Lookup: func(_ uint8, _, remote netip.AddrPort) (Agent, bool) {
		if remote.Addr() == greedy {
			return Agent{CgroupID: 7}, true
		}
		return Agent{CgroupID: 8}, true
	}})
	address := f.server.address("127.0.0.1")
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: greedy.AsSlice()}, Timeout: 10 * time.Second}
	for range 2 * maxConnections {
		c, err := from.DialContext(t.Context(), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	client := dns.Client{Net: "tcp", Timeout: 5 * time.Second}
	for range 2 * maxConnectionsOne { // what is closed is given back
		m := new(dns.Msg)
		m.SetQuestion("other.example.com.", dns.TypeA)
		if _, _, err := client.Exchange(m, address); err != nil {
			t.Fatalf("an agent with no connection: %v", err)
		}
	}
}
