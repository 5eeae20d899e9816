package lease_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/enclave/lease"
)

// month is a grant of ten visas in ten leases for a month in Berlin.
func (b *bench) month(version uint64, period string, baseline uint64) *lease.Grant {
	b.t.Helper()
	g := b.grant(version, 10, 1)
	g.Period, g.Zone, g.Baseline = period, "Europe/Berlin", baseline
	var err error
	if g.NotBefore, g.NotAfter, err = lease.MonthIn(period, g.Zone); err != nil {
		b.t.Fatal(err)
	}
	return g
}

// until lets time pass up to a moment.
func (b *bench) until(moment string) {
	b.t.Helper()
	at, err := time.Parse(time.RFC3339, moment)
	if err != nil {
		b.t.Fatal(err)
	}
	b.clock.Pass(at.Sub(b.clock.Now()))
}

// TestAhead: grants that were signed for several months come into force by themselves, each when its month begins in its zone and never
// earlier; what was left of the month before is gone, what the counter says is all that is known, and a restart forgets none of it.
func TestAhead(t *testing.T) {
	b := newBench(t)
	r, err := b.anchor.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	at := r.Counter
	b.install(b.month(100, "2026-12", at+15)) // five more than November's own leases need
	b.refused(1, lease.ErrNoCredit, "begins at 2026-11-30T23:00:00Z")
	b.install(b.month(1, "2026-11", at))
	b.install(b.month(200, "2027-01", at+30))
	b.spends(1)
	topUp := b.month(2, "2026-11", at+1)
	b.install(topUp)
	b.spends(2)
	if _, err := b.ledger.Install(t.Context(), b.operator.Sign(t, b.month(150, "2027-02", at+45))); !errors.Is(err, lease.ErrVersion) {
		t.Errorf("an older version for a later month: %v", err)
	}
	b.until("2026-11-30T22:59:59Z")
	b.spends(1)
	if s := b.status(); s.Grant.Period != "2026-11" || s.Counter != at+4 {
		t.Errorf("%+v", s)
	}
	b.restart()
	b.until("2026-11-30T23:00:00Z")
	b.spends(1)
	if s := b.status(); s.Grant.Period != "2026-12" || s.Counter != at+16 || s.Left != 9 || s.Version != 100 {
		t.Errorf("%+v", s)
	}
	if ahead := b.ledger.Ahead(); len(ahead) != 1 || ahead[0].Period != "2027-01" {
		t.Errorf("%v", ahead)
	}
	if _, err := b.ledger.Install(t.Context(), b.operator.Sign(t, topUp)); !errors.Is(err, lease.ErrVersion) {
		t.Errorf("November's again: %v", err)
	}
	b.restart()
	b.spends(9)
	b.refused(1, lease.ErrExhausted, "0 of 10 left")
	b.until("2027-01-15T00:00:00Z")
	b.spends(10)
	b.refused(1, lease.ErrExhausted, "0 of 10 left")
	b.until("2027-02-01T00:00:00Z")
	b.refused(1, lease.ErrNoCredit, "install the next one")
	if f := b.journal.Replay(t, b.operator); f.Grant().Period != "2027-01" || f.Handed() != 10 {
		t.Errorf("the journal says %+v", f.Grant())
	}
}

// TestMonthsOfAZone: a grant's bounds lie in the month of its zone.
func TestMonthsOfAZone(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		zone, from, to, want string
	}{
		{"Europe/Berlin", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z", ""},
		{"", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", ""},
		{"", "2026-10-31T23:00:00Z", "2026-11-30T23:00:00Z", "within 2026-11"},
		{"America/New_York", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "within 2026-11"},
		{"Mars/Olympus", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "use an IANA name"},
		{"Local", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "use an IANA name"},
	} {
		g := b.grant(1, 10, 1)
		g.Zone = c.zone
		for _, bound := range []struct {
			text string
			to   *int64
		}{{c.from, &g.NotBefore}, {c.to, &g.NotAfter}} {
			at, err := time.Parse(time.RFC3339, bound.text)
			if err != nil {
				t.Fatal(err)
			}
			*bound.to = at.Unix()
		}
		signed, err := lease.Sign(g, b.operator.Key)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.zone, err)
		}
		if err != nil {
			continue
		}
		if read, err := lease.Open(signed, [][]byte{b.operator.Public}); err != nil || read.Zone != c.zone {
			t.Errorf("%s: %+v, %v", c.zone, read, err)
		}
	}
}
