package nitro

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/parent/link"
)

// BenchmarkMint measures visas from an enclave in the laboratory: through its vsock device, synced to the journal of this host before they
// are released. The processor of that machine is emulated, which is what the figures are of; compare with parent/link.BenchmarkMint.
func BenchmarkMint(b *testing.B) {
	l := start(b, "", nil).connect(b)
	b.Run("1 caller", func(b *testing.B) { mint(b, l, 1) })
	b.Run("64 callers", func(b *testing.B) { mint(b, l, 64) })
}

// mint shares b.N calls among callers, and reports calls a second and how long one takes.
func mint(b *testing.B, l *link.Link, callers int) {
	var (
		wait  sync.WaitGroup
		mu    sync.Mutex
		took  []time.Duration
		calls = make(chan struct{}, b.N)
	)
	for range b.N {
		calls <- struct{}{}
	}
	close(calls)
	b.ResetTimer()
	began := time.Now()
	for i := range callers {
		request := mintRequest(b)
		request.Name = fmt.Sprintf("agent-%d", i) // each agent has a rate of its own
		wait.Go(func() {
			for range calls {
				called := time.Now()
				if _, err := l.Mint(b.Context(), request); err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				took = append(took, time.Since(called))
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	if b.Failed() {
		return
	}
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "visas/s")
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "ms-median")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "ms-p99")
}
