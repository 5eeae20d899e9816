package netguard

import (
	"net"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// BenchmarkGuard measures one governed operation against the same one ungoverned, in turns within one run, by CPU time,
// and reports medians: of governed/ungoverned with the guard loaded, and of ungoverned with the guard loaded/without it.
func BenchmarkGuard(b *testing.B) {
	for _, c := range []struct {
		name, do string
		rules    int
	}{
		{"connect and close, 1 rule", "bench-connect", 1},
		{"connect and close, 100 rules", "bench-connect", 100},
		{"datagram", "bench-send", 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			const rounds, each = 101, 500
			w := newWorld(b)
			w.in(b, w.near, func() {
				l, err := net.Listen("tcp", "127.0.0.1:8080")
				must(b, err)
				b.Cleanup(func() { l.Close() })
				go func() {
					for {
						c, err := l.Accept()
						if err != nil {
							return
						}
						c.Close()
					}
				}()
				u, err := net.ListenPacket("udp", "127.0.0.1:8080")
				must(b, err)
				b.Cleanup(func() { u.Close() })
			})
			plain := w.startProbe(b, -1)
			measure := func(p *probe) float64 {
				o := p.do(action{Do: c.do, To: mustAddr("127.0.0.1:8080"), Data: strconv.Itoa(each)})
				ns, err := strconv.ParseFloat(o.Data, 64)
				if o.Err != "" || err != nil {
					b.Fatalf("probe: %+v", o)
				}
				return ns
			}
			var without, ungoverned, governed, ratio []float64
			for range rounds {
				without = append(without, measure(plain))
			}
			g := w.load(b, Options{})
			a := w.newAgent(b, "agent")
			n := &policy.Network{Egress: []string{"127.0.0.1/32:8080"}}
			for i := range c.rules - 1 {
				n.Egress = append(n.Egress, "10."+strconv.Itoa(i)+".0.0/16:443")
			}
			arm(b, g, a, n, policy.Enforce)
			agent := w.startProbe(b, a.fd)
			for range rounds {
				u, g := measure(plain), measure(agent)
				ungoverned, governed, ratio = append(ungoverned, u), append(governed, g), append(ratio, g/u)
			}
			b.ReportMetric(median(ratio), "governed/ungoverned")
			b.ReportMetric(median(ungoverned)/median(without), "loaded/unloaded")
			b.ReportMetric(median(ungoverned), "ns/ungoverned")
			b.ReportMetric(median(governed), "ns/governed")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// BenchmarkArm measures giving an agent its rules, and taking them back.
func BenchmarkArm(b *testing.B) {
	w := newWorld(b)
	g := w.load(b, Options{})
	a := w.newAgent(b, "agent")
	n := &policy.Network{}
	for i := range 100 {
		n.Egress = append(n.Egress, "10."+strconv.Itoa(i)+".0.0/16:443")
	}
	for b.Loop() {
		arm(b, g, a, n, policy.Enforce)
		must(b, g.Disarm(a.id))
	}
}

// BenchmarkLoad measures loading and attaching the guard.
func BenchmarkLoad(b *testing.B) {
	w := newWorld(b)
	for b.Loop() {
		w.in(b, w.near, func() {
			g, err := Load(Options{CgroupPath: w.cgroupPath})
			must(b, err)
			must(b, g.Close())
		})
	}
}

// bench does one thing Data times and says how many nanoseconds of CPU one took, which other load on the machine changes
// less than the time on the clock.
func bench(a action) (string, error) {
	n, err := strconv.Atoi(a.Data)
	if err != nil {
		return "", err
	}
	family, to := sockaddr(a)
	udp, err := socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(udp)
	start, err := cpuTime()
	if err != nil {
		return "", err
	}
	for range n {
		if a.Do == "bench-send" {
			if err := unix.Sendto(udp, []byte("x"), 0, to); err != nil {
				return "", err
			}
			continue
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		// Reset at close: no port stays in TIME_WAIT, however often this runs.
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return "", err
		}
		if err := unix.Connect(fd, to); err != nil {
			return "", err
		}
		unix.Close(fd)
	}
	end, err := cpuTime()
	return strconv.FormatInt((end-start)/int64(n), 10), err
}

func cpuTime() (int64, error) {
	var r unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &r)
	return r.Utime.Nano() + r.Stime.Nano(), err
}
