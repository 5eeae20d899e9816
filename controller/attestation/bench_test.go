package attestation_test

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/raypher/raypher/controller/store/storetest"
	"github.com/raypher/raypher/journal"
)

// BenchmarkDecision is one challenge and one appraisal of a Nitro document, by 32 enclaves at once: two synced transactions, a signature over
// the result, and the checks of the document. What the enclave does is in it too: it signs its document on P-384.
func BenchmarkDecision(b *testing.B) {
	for _, c := range []struct {
		name string
		url  func() string
	}{
		{"sqlite", func() string { return filepath.Join(b.TempDir(), "controller.db") }},
		{"postgresql", func() string { return storetest.Postgres(b) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b, c.url(), nil)
			const enclaves = 32
			all := make([]*enclave, enclaves)
			for i := range all {
				name := fmt.Sprintf("host-%d", i)
				w.add(b, name, journal.TierNitro, callerOf(name), false)
				all[i] = w.enclave(b, name)
			}
			b.ResetTimer()
			before := processorTime(b)
			var next atomic.Int64
			var work sync.WaitGroup
			for _, e := range all {
				work.Go(func() {
					for next.Add(1) <= int64(b.N) {
						if _, err := w.Attest(e.ctx(), w.good(b, e, w.nonce(b, e))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			work.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op") // without PostgreSQL's own
		})
	}
}

// processorTime is what this process has used, on all processors.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
