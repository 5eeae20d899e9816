package netguard

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// hook is one of the guard's programs as the kernel counts it.
type hook struct {
	*ebpf.Program
	name string
}

// hooks are the programs that are attached.
func (g *Guard) hooks(b *testing.B) (all []hook) {
	for _, l := range g.links {
		info, err := l.Info()
		must(b, err)
		p, err := ebpf.NewProgramFromID(info.Program)
		must(b, err)
		b.Cleanup(func() { p.Close() })
		about, err := p.Info()
		must(b, err)
		all = append(all, hook{p, about.Name})
	}
	return all
}

// BenchmarkHooks is what each program takes for itself, in nanoseconds of its best round with the kernel's own clock in it (some 50 ns), and
// how often it runs: for each datagram of a flow, each datagram to another port, each request, each mebibyte of a stream.
func BenchmarkHooks(b *testing.B) {
	const rounds = 60
	for _, c := range []struct {
		name, do, to string
		count        int
	}{
		{"one flow", "bench-send", "10.77.0.2:20000", 2000},
		{"fresh ports", "bench-ports", "10.77.0.2:20000", 2000},
		{"request", "bench-request", "10.77.0.2:8080", 100},
		{"stream over loopback", "bench-stream", "127.0.0.1:8080", 32},
		{"stream over a veth", "bench-stream", "10.77.0.2:8080", 32},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b)
			to := mustAddr(c.to)
			w.answering(b, at(to.Addr(), 8080))
			g := w.load(b, Options{})
			a := w.newAgent(b, "agent")
			n := &policy.Network{Egress: []string{c.to}}
			if strings.HasPrefix(c.name, "fresh") {
				n.Egress = []string{to.Addr().String()}
			}
			for i := range 999 {
				n.Egress = append(n.Egress, fmt.Sprintf("10.%d.%d.0/24", 100+i/256, i%256))
			}
			arm(b, g, a, n, policy.Enforce)
			p, hooks := w.startProbe(b, a.fd), g.hooks(b)
			counting, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
			must(b, err)
			defer counting.Close()
			best, runs := map[string]float64{}, map[string]float64{}
			for range rounds {
				before := map[string]*ebpf.ProgramStats{}
				for _, h := range hooks {
					before[h.name], err = h.Stats()
					must(b, err)
				}
				measured(b, p, action{Do: c.do, To: to, Data: fmt.Sprint(c.count)})
				for _, h := range hooks {
					now, err := h.Stats()
					must(b, err)
					ran := now.RunCount - before[h.name].RunCount
					took := float64(now.Runtime-before[h.name].Runtime) / max(float64(ran), 1)
					runs[h.name] += float64(ran)
					if old, ok := best[h.name]; ran > 0 && (!ok || took < old) {
						best[h.name] = took
					}
				}
				time.Sleep(time.Millisecond)
			}
			for name, took := range best {
				b.ReportMetric(took, "ns/"+name)
				b.ReportMetric(runs[name]/rounds/float64(c.count), "runs/"+name)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
