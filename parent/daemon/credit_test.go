package daemon

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// An operator sees the counter, installs a grant for it, and finds it in force after raypherd and its enclave have started again.
func TestAGrantReachesTheEnclave(t *testing.T) {
	p := newPair(t).start()
	before, err := p.operator().DescribeGrant(t.Context(), &parentv1.OperatorDescribeGrantRequest{})
	if err != nil || len(before.GetAnchor()) != 32 || before.GetAnchorTier() != "software" || !strings.Contains(before.GetClosed(), "no grant is installed") {
		t.Fatalf("%v, %v", before, err)
	}
	key, made, err := ceiling.DevelopmentKey(filepath.Join(p.paths.State, "enclave"))
	if err != nil || made {
		t.Fatalf("operator key: made %v, %v", made, err)
	}
	g := &lease.Grant{
		Version: 1, Period: lease.PeriodOf(time.Now()), Unit: lease.MicroUSD, Cap: 1_000_000, Lease: 10_000, Anchor: [32]byte(before.GetAnchor()), Baseline: before.GetCounter(),
	}
	if g.NotBefore, g.NotAfter, err = lease.Month(g.Period); err != nil {
		t.Fatal(err)
	}
	signed := leasetest.Operator{Key: key}.Sign(t, g)
	installed, err := p.operator().InstallGrant(t.Context(), &parentv1.OperatorInstallGrantRequest{Grant: signed})
	if err != nil || installed.GetClosed() != "" || installed.GetLeft() != 1_000_000 {
		t.Fatalf("%v, %v", installed, err)
	}
	if _, err := p.operator().InstallGrant(t.Context(), &parentv1.OperatorInstallGrantRequest{Grant: leasetest.NewOperator(t).Sign(t, g)}); err == nil || !strings.Contains(err.Error(), "not signed by an operator key") {
		t.Errorf("a foreign key: %v", err)
	}
	if err := p.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.start()
	again, err := p.operator().DescribeGrant(t.Context(), &parentv1.OperatorDescribeGrantRequest{})
	if err != nil || string(again.GetGrant()) != string(signed) || again.GetClosed() != "" || again.GetTaken() != 0 {
		t.Errorf("after a restart: %v, %v", again, err)
	}
}
