package link_test

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/attest/tpm/tpmtest"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/link"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// The sandboxed enclave process has a counter of leases in each tier, takes a grant for it over its service, and has both again
// after a restart.
func TestCredit(t *testing.T) {
	for _, tier := range []string{journal.TierSoftware, journal.TierTPM} {
		t.Run(tier, func(t *testing.T) {
			o := localOf(t, tier)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			local, err := link.StartLocal(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { local.Close() }()
			signed := signGrant(t, ctx, local, o.State, tier)
			installed, err := local.InstallGrant(ctx, signed)
			if err != nil || installed.GetClosed() != "" || installed.GetLeft() != 1000 {
				t.Fatalf("%v, %v", installed, err)
			}
			local.Close()
			if local, err = link.StartLocal(ctx, o); err != nil {
				t.Fatal(err)
			}
			again, err := local.DescribeGrant(ctx)
			if err != nil || again.GetClosed() != "" || !bytes.Equal(again.GetGrant(), signed) || again.GetHighestVersion() != 1 || !bytes.Equal(again.GetAnchor(), installed.GetAnchor()) {
				t.Errorf("after a restart: %v, %v", again, err)
			}
			// The link shows it the journal by itself: then it knows the grant's month, and what may be spent.
			for {
				spending, err := local.DescribeSpending(ctx, &enclavev1.DescribeSpendingRequest{})
				if err != nil || local.Unread() != nil {
					t.Fatalf("%v, %v", err, local.Unread())
				}
				if !spending.GetUnread() {
					if spending.GetPeriod() != lease.PeriodOf(time.Now()) || spending.GetFollowsSize() == 0 || len(spending.GetControl()) == 0 {
						t.Errorf("%v", spending)
					}
					break
				}
				time.Sleep(time.Millisecond)
			}
			// The sandbox reads no zones of the host: they are in the program.
			control := []byte("{version: 9, time_zone: Europe/Berlin, monthly_budget_usd: 5}")
			if s, err := local.InstallControl(ctx, &enclavev1.InstallControlRequest{Source: control}); err != nil || s.GetHighestVersion() != 9 {
				t.Errorf("%v, %v", s, err)
			}
		})
	}
}

// TestEndInOrder: the journal of an enclave that is told to end is stored up to the end, for the last that it writes is a snapshot.
func TestEndInOrder(t *testing.T) {
	dir := folder(t)
	store, err := audit.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	var log bytes.Buffer // read when the process has ended and its log was followed to the end
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	local, err := link.StartLocal(ctx, link.LocalOptions{
		Development: true, Binary: enclaveBinary, Socket: filepath.Join(dir, "run", "enclave.sock"), State: filepath.Join(dir, "state"),
		Keys: filepath.Join(dir, "keys"), Store: store, Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := local.Close(); err != nil {
		t.Error(err)
	}
	if said := log.String(); strings.Contains(said, "store detached") || strings.Contains(said, "connecting again") || strings.Contains(said, "ERROR") {
		t.Error(said)
	}
}

// signGrant signs 1000 visas as the operator of development, for what the enclave says of its counter.
func signGrant(t *testing.T, ctx context.Context, local *link.Local, state, tier string) []byte {
	t.Helper()
	s, err := local.DescribeGrant(ctx)
	if err != nil || s.GetAnchorTier() != tier || s.GetAnchorError() != "" || len(s.GetAnchor()) != 32 {
		t.Fatalf("%v, %v", s, err)
	}
	key, _, err := ceiling.DevelopmentKey(state)
	if err != nil {
		t.Fatal(err)
	}
	g := &lease.Grant{
		Version: 1, Period: lease.PeriodOf(time.Now()), Unit: lease.Visas, Cap: 1000, Lease: 10, Anchor: [32]byte(s.GetAnchor()), Baseline: s.GetCounter(),
	}
	if g.NotBefore, g.NotAfter, err = lease.Month(g.Period); err != nil {
		t.Fatal(err)
	}
	return leasetest.Operator{Key: key}.Sign(t, g)
}

// localOf are the options of an enclave of a tier in folders of its own, with a journal.
func localOf(t *testing.T, tier string) link.LocalOptions {
	t.Helper()
	dir := folder(t)
	store, err := audit.Open(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	o := link.LocalOptions{
		Development: true, Binary: enclaveBinary, Socket: filepath.Join(dir, "run", "enclave.sock"), State: filepath.Join(dir, "state"),
		Keys: filepath.Join(dir, "keys"), Store: store, Log: slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	}
	if tier == journal.TierTPM {
		o.TPMDevice = tpmtest.Start(t, tpmtest.NewCA(t).Make(t)).Socket
	}
	return o
}
