package lease_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
)

func TestGrantSignAndOpen(t *testing.T) {
	operator, stranger := leasetest.NewOperator(t), leasetest.NewOperator(t)
	g := leasetest.Grant(t, software(t, t.TempDir()), 7, 1234, 100)
	g.Namespace, g.Unit = "prod", lease.MicroUSD
	signed := operator.Sign(t, g)
	got, err := lease.Open(signed, [][]byte{stranger.Public, operator.Public})
	if err != nil {
		t.Fatal(err)
	}
	if got.Version != 7 || got.Cap != 1234 || got.Namespace != "prod" || got.Anchor != g.Anchor || got.Leases() != 13 {
		t.Errorf("%+v", got)
	}
	if _, err := lease.Open(signed, [][]byte{stranger.Public}); !errors.Is(err, lease.ErrSignature) {
		t.Errorf("a foreign key: %v", err)
	}
	for i := range signed {
		bent := bytes.Clone(signed)
		bent[i] ^= 1
		if _, err := lease.Open(bent, [][]byte{operator.Public}); !errors.Is(err, lease.ErrMalformed) && !errors.Is(err, lease.ErrSignature) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
}

// The leases of a grant add up to its cap.
func TestAmountsAddUp(t *testing.T) {
	for _, c := range []struct{ most, size, leases uint64 }{
		{100, 1, 100}, {100, 100, 1}, {100, 30, 4}, {1, 1, 1}, {1000, 1, 1000}, {lease.MaxCap, lease.MaxCap / 999, 1000},
	} {
		g := &lease.Grant{Cap: c.most, Lease: c.size}
		var sum uint64
		for n := uint64(1); n <= g.Leases(); n++ {
			if sum += g.Amount(n); sum+g.Left(n) != c.most {
				t.Fatalf("%+v: after %d leases %d and %d", c, n, sum, g.Left(n))
			}
		}
		if sum != c.most || g.Leases() != c.leases || g.Amount(0) != 0 || g.Amount(g.Leases()+1) != 0 || g.Left(g.Leases()+1) != 0 {
			t.Errorf("%+v: %d leases make %d", c, g.Leases(), sum)
		}
	}
}

func TestGrantBounds(t *testing.T) {
	operator, a := leasetest.NewOperator(t), software(t, t.TempDir())
	for _, c := range []struct {
		name   string
		change func(*lease.Grant)
		want   string
	}{
		{"version 0", func(g *lease.Grant) { g.Version = 0 }, "version"},
		{"no month", func(g *lease.Grant) { g.Period = "2026" }, "write a month"},
		{"another month", func(g *lease.Grant) { g.Period = "2026-10" }, "within 2026-10"},
		{"beyond the month", func(g *lease.Grant) { g.NotAfter++ }, "within 2026-11"},
		{"before the month", func(g *lease.Grant) { g.NotBefore-- }, "within 2026-11"},
		{"over before it begins", func(g *lease.Grant) { g.NotAfter = g.NotBefore }, "one after the other"},
		{"no unit", func(g *lease.Grant) { g.Unit = "euro" }, "unit"},
		{"no cap", func(g *lease.Grant) { g.Cap = 0 }, "cap"},
		{"a cap beyond all money", func(g *lease.Grant) { g.Cap = lease.MaxCap + 1 }, "cap"},
		{"no lease", func(g *lease.Grant) { g.Lease = 0 }, "lease"},
		{"a lease above the cap", func(g *lease.Grant) { g.Lease = g.Cap + 1 }, "lease"},
		{"leases that wear the counter out", func(g *lease.Grant) { g.Cap, g.Lease = 1001, 1 }, "wears out"},
		{"no anchor", func(g *lease.Grant) { g.Anchor = [32]byte{} }, "raypher grant status"},
		{"a long namespace", func(g *lease.Grant) { g.Namespace = strings.Repeat("n", 129) }, "namespace"},
	} {
		g := leasetest.Grant(t, a, 1, 100, 1)
		c.change(g)
		if _, err := lease.Sign(g, operator.Key); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	operator := leasetest.NewOperator(f)
	f.Add(operator.Sign(f, leasetest.Grant(f, software(f, f.TempDir()), 1, 100, 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, _, err := lease.Read(data); err != nil && !errors.Is(err, lease.ErrMalformed) {
			t.Errorf("error without a kind: %v", err)
		}
	})
}
