package dns

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/raypher/raypher/policy"
)

// BenchmarkForwarder measures one question over UDP through the forwarder, answered from what it keeps, against the same one asked of the
// upstream directly, in turns within one run, and reports the medians and how much longer the forwarder takes.
func BenchmarkForwarder(b *testing.B) {
	for _, rules := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("%d rules", rules), func(b *testing.B) {
			u := &upstream{records: zone(b, "api.example.com. 300 IN A 192.0.2.1")}
			direct := u.start(b)
			network := &policy.Network{Egress: []string{"api.example.com:443"}}
			for i := range rules - 1 {
				network.Egress = append(network.Egress, fmt.Sprintf("n%d.example.net:443", i))
			}
			s, err := Listen(Options{Upstreams: []string{direct},
				Lookup: func(uint8, netip.AddrPort, netip.AddrPort) (Agent, bool) {
					return Agent{CgroupID: 1, Network: network}, true
				},
				Grant: func(uint64, string, netip.Addr, uint16, time.Duration) error { return nil }})
			if err != nil {
				b.Fatal(err)
			}
			ctx, stop := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- s.Serve(ctx) }()
			b.Cleanup(func() { stop(); <-done })
			ask := func(server string) float64 {
				q := new(dns.Msg)
				q.SetQuestion("api.example.com.", dns.TypeA)
				start := time.Now()
				m, _, err := new(dns.Client).Exchange(q, server)
				if err != nil || len(m.Answer) != 1 {
					b.Fatalf("%s: %v %v", server, err, m)
				}
				return float64(time.Since(start).Nanoseconds()) / 1e3
			}
			through := fmt.Sprintf("127.0.0.1:%d", s.Port())
			ask(through)
			var own, others []float64
			for range 1000 {
				s.limits.agents[1].questions = bucket{} // it is not the rate that is measured
				own, others = append(own, ask(through)), append(others, ask(direct))
			}
			slices.Sort(own)
			slices.Sort(others)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(others[len(others)/2], "us-direct")
			b.ReportMetric(own[len(own)/2], "us-forwarder")
			b.ReportMetric(own[len(own)/2]-others[len(others)/2], "us-more")
		})
	}
}
