package netguard

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/raypher/raypher/parent/dns"
	"github.com/raypher/raypher/policy"
)

const dnsClientEnvironment = "RAYPHER_NETGUARD_DNS"

// init makes this binary a DNS client: server, and how many questions it asks. It prints the median in microseconds.
func init() {
	server, count, found := strings.Cut(os.Getenv(dnsClientEnvironment), " ")
	n, err := strconv.Atoi(count)
	if !found || err != nil {
		return
	}
	var took []float64
	for range n {
		q := new(mdns.Msg)
		q.SetQuestion("api.example.com.", mdns.TypeA)
		start := time.Now()
		m, _, err := new(mdns.Client).Exchange(q, server)
		if err != nil || len(m.Answer) != 1 {
			fmt.Println("asking:", err, m)
			os.Exit(1)
		}
		took = append(took, float64(time.Since(start).Nanoseconds())/1e3)
		time.Sleep(12 * time.Millisecond) // below the rate that an agent may ask at
	}
	slices.Sort(took)
	fmt.Println(took[n/2])
	os.Exit(0)
}

// BenchmarkNames measures one question of a governed program, whose packets the kernel leads to the forwarder, which opens the address
// each time, against the same one to the upstream, which a rule grants as an address, in turns, and reports the medians.
func BenchmarkNames(b *testing.B) {
	for _, rules := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d rules", rules), func(b *testing.B) {
			w := newWorld(b)
			up := &resolver{addrs: map[string]netip.Addr{"api.example.com.": far4}}
			network := &policy.Network{Egress: []string{"private api.example.com:443"}}
			for i := range rules - 1 {
				network.Egress = append(network.Egress, fmt.Sprintf("n%d.example.net:443", i))
			}
			var outside, inside net.PacketConn
			outside, err := net.ListenPacket("udp", "127.0.0.1:0") // where the test's forwarder asks from
			must(b, err)
			w.in(b, w.near, func() {
				inside, err = net.ListenPacket("udp", "127.0.0.1:5399")
				must(b, err)
			})
			for _, p := range []net.PacketConn{outside, inside} {
				go (&mdns.Server{PacketConn: p, Handler: up}).ActivateAndServe()
				b.Cleanup(func() { p.Close() })
			}
			var f *dns.Server
			w.in(b, w.near, func() {
				f, err = dns.Listen(dns.Options{Upstreams: []string{outside.LocalAddr().String()}})
				must(b, err)
			})
			g := w.load(b, Options{DNSPort: f.Port()})
			f.Bind(func(proto uint8, local, remote netip.AddrPort) (dns.Agent, bool) {
				id, ok := g.Peer(proto, local, remote)
				return dns.Agent{CgroupID: id, Network: network, Mode: policy.Enforce}, ok
			}, g.GrantName)
			ctx, stop := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- f.Serve(ctx) }()
			b.Cleanup(func() { stop(); <-done })
			a := w.newAgent(b, "agent")
			arm(b, g, a, network, policy.Enforce)
			self, err := os.Executable()
			must(b, err)
			measure := func(cgroup int, server string) float64 {
				out, err := w.runIn(b, cgroup, []string{"env", dnsClientEnvironment + "=" + server + " 60", self})
				us, e := strconv.ParseFloat(strings.TrimSpace(out), 64)
				if err != nil || e != nil {
					b.Fatalf("%v: %s", err, out)
				}
				return us
			}
			outsider := w.newAgent(b, "outsider")
			arm(b, g, outsider, &policy.Network{Egress: []string{"127.0.0.1/32:5399"}}, policy.Enforce)
			var governed, direct []float64
			for range 5 {
				governed = append(governed, measure(a.fd, "10.200.0.1:53"))
				direct = append(direct, measure(outsider.fd, "127.0.0.1:5399"))
			}
			slices.Sort(governed)
			slices.Sort(direct)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(direct[2], "us-direct")
			b.ReportMetric(governed[2], "us-forwarder")
			b.ReportMetric(governed[2]-direct[2], "us-more")
		})
	}
}
