package enclave

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// A grant reaches the enclave over its service: with a store, signed by an operator key, for its counter; else nothing changes.
func TestInstallGrant(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	ctx := t.Context()
	before, err := client.DescribeGrant(ctx, &enclavev1.DescribeGrantRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if len(before.GetAnchor()) != 32 || before.GetAnchorTier() != "software" || before.GetAnchorError() != "" || !strings.Contains(before.GetClosed(), "no grant is installed") {
		t.Errorf("%v", before)
	}
	key, _, err := ceiling.DevelopmentKey(r.opts.State)
	if err != nil {
		t.Fatal(err)
	}
	g := &lease.Grant{
		Version: 1, Period: lease.PeriodOf(time.Now()), Unit: lease.MicroUSD, Cap: 5_000_000, Lease: 50_000,
		Anchor: [32]byte(before.GetAnchor()), Baseline: before.GetCounter(),
	}
	if g.NotBefore, g.NotAfter, err = lease.Month(g.Period); err != nil {
		t.Fatal(err)
	}
	signed := (leasetest.Operator{Key: key}).Sign(t, g)
	foreign := leasetest.NewOperator(t).Sign(t, g)
	install := func(signed []byte) (*enclavev1.GrantStatus, error) {
		return client.InstallGrant(ctx, &enclavev1.InstallGrantRequest{Grant: signed})
	}
	if _, err := install(signed); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "no store is attached") {
		t.Errorf("without a store: %v", err)
	}
	keepStore(t, client)
	for name, c := range map[string]struct {
		signed []byte
		want   codes.Code
	}{"a foreign key": {foreign, codes.PermissionDenied}, "garbage": {[]byte("x"), codes.InvalidArgument}, "nothing": {nil, codes.InvalidArgument}} {
		if _, err := install(c.signed); status.Code(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The epoch's own first entries are still on their way.
	for r.journal.Size() == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	size := r.journal.Size()
	after, err := install(signed)
	if err != nil {
		t.Fatal(err)
	}
	if string(after.GetGrant()) != string(signed) || after.GetLeft() != 5_000_000 || after.GetTaken() != 0 || after.GetClosed() != "" || after.GetHighestVersion() != 1 {
		t.Errorf("%v", after)
	}
	if r.journal.Size() != size+1 {
		t.Errorf("%d entries after %d", r.journal.Size(), size)
	}
	call := &ledger.Call{ID: journal.RequestID{1}, Namespace: "dev", Agent: "coder", Run: "run", Provider: "openai", Model: "m", Worst: 1}
	if err := r.spends.Reserve(ctx, call); err != nil {
		t.Error(err)
	}
	if after, err = client.DescribeGrant(ctx, &enclavev1.DescribeGrantRequest{}); err != nil || after.GetTaken() != 1 || after.GetOpen() != 49_999 || after.GetLeft() != 4_950_000 {
		t.Errorf("%v, %v", after, err)
	}
	if r.journal.Size() != size+3 { // a lease, and the reservation
		t.Errorf("%d entries after %d", r.journal.Size(), size)
	}
	g.Version, g.Period, g.Baseline = 2, lease.PeriodOf(time.Unix(g.NotAfter, 0)), g.Baseline+g.Leases()
	if g.NotBefore, g.NotAfter, err = lease.Month(g.Period); err != nil {
		t.Fatal(err)
	}
	later := (leasetest.Operator{Key: key}).Sign(t, g)
	if after, err = install(later); err != nil || string(after.GetGrant()) != string(signed) || len(after.GetAhead()) != 1 || string(after.GetAhead()[0]) != string(later) {
		t.Errorf("a grant of the month to come: %v, %v", after, err)
	}
}
