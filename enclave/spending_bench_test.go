package enclave

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/ledger"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// BenchmarkReserveSettleSocket is one call from its reservation to its settlement, by many callers, with the journal's store at the other end of
// a unix socket, which writes each batch to a file and syncs it. enclave/ledger has the same without a socket.
func BenchmarkReserveSettleSocket(b *testing.B) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // as raypher-enclave does
	for _, callers := range []int{256, 2048} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			r := serve(b)
			client, _ := r.good(b)
			file, err := os.Create(filepath.Join(b.TempDir(), "journal"))
			if err != nil {
				b.Fatal(err)
			}
			defer file.Close()
			keepStoreOf(b, client, func(batch *enclavev1.Batch) {
				var all []byte
				for _, raw := range batch.GetEntries() {
					all = append(all, raw...)
				}
				if _, err := file.Write(append(all, batch.GetSignedHead()...)); err != nil {
					b.Error(err)
				}
				if err := file.Sync(); err != nil {
					b.Error(err)
				}
			})
			if _, err := client.InstallControl(b.Context(), &enclavev1.InstallControlRequest{Source: []byte("{version: 2, time_zone: UTC, monthly_budget_usd: 1000000}")}); err != nil {
				b.Fatal(err)
			}
			var number atomic.Uint64
			call := func() error {
				n := number.Add(1)
				c := callOf(0, 100)
				for i := range 8 {
					c.ID[i] = byte(n >> (8 * i))
				}
				if err := r.spends.Reserve(b.Context(), c); err != nil {
					return err
				}
				return r.spends.Settle(b.Context(), c.ID, cost.Amount(40), 5)
			}
			if err := call(); err != nil { // the grant and its first lease
				b.Fatal(err)
			}
			var all sync.WaitGroup
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			for range callers {
				all.Go(func() {
					for left.Add(-1) >= 0 {
						if err := call(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
			if got := r.spends.Ledger().Balance(ledger.Host, ""); got.Held != 0 {
				b.Errorf("%s held", got.Held)
			}
		})
	}
}
