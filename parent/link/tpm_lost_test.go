package link_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/visa"

	attest "github.com/raypher/raypher/attest/tpm"
)

// A TPM that loses power while it signs: every visa that a caller got is in the journal, the rest are errors, and with the TPM back
// the same key goes on in a new epoch that names the old one.
func TestTPMVanishesWhileMinting(t *testing.T) {
	ca := tpmtest.NewCA(t)
	machine := ca.Make(t)
	device := tpmtest.Start(t, machine)
	dir := folder(t)
	store, err := audit.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	o := link.LocalOptions{
		Binary: enclaveBinary, Socket: filepath.Join(dir, "run", "enclave.sock"), State: filepath.Join(dir, "state"),
		Keys: filepath.Join(dir, "keys"), TPMDevice: device.Socket, Development: true, Store: store, Log: slog.New(slog.DiscardHandler),
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	local, err := link.StartLocal(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()

	var mu sync.Mutex
	var granted [][]byte
	var callers sync.WaitGroup
	enough := make(chan struct{})
	for range 8 {
		asked := request(t, "agent")
		callers.Go(func() {
			for {
				reply, err := local.Mint(ctx, asked)
				if err != nil {
					return
				}
				mu.Lock()
				if granted = append(granted, reply.GetVisa()); len(granted) == 50 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-ctx.Done():
		t.Fatal("no visas")
	}
	device.Stop()
	callers.Wait()
	select {
	case <-local.Ended():
	case <-ctx.Done():
		t.Fatal("the enclave goes on without its TPM")
	}

	o.TPMDevice = tpmtest.Start(t, machine).Socket
	again, err := link.StartLocal(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	key := mintsTier(t, ctx, again, journal.TierTPM)
	for _, data := range granted {
		claims, err := visa.Verify(data, visa.Options{Keys: []*journal.Key{key}})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := store.Visa(claims.ID); err != nil {
			t.Errorf("a visa that was granted is not in the journal: %v", err)
		}
	}
	reports, err := store.Verify(evidence.Options{Keys: []*journal.Key{key}, Verifiers: map[string]evidence.KeyVerifier{journal.TierTPM: attest.PinnedKey{}}})
	if err != nil || len(reports) != 2 {
		t.Errorf("%d epochs, %v", len(reports), err)
	}
}
