package mint

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/startconf"
)

// What a ceiling with require_attestation lets through: nothing without a result, and no visa that outlives it.
func TestRequireAttestation(t *testing.T) {
	expired := errors.New("the attestation result of c.example:1 expired at noon")
	for _, c := range []struct {
		name     string
		required bool
		attested Attested
		asked    uint32
		want     uint32 // seconds
		refused  string
	}{
		{name: "not required", attested: func() (time.Duration, error) { return 0, expired }, want: 120},
		{name: "not required, no controller", want: 120},
		{name: "attested for longer than a visa", required: true, attested: func() (time.Duration, error) { return time.Hour, nil }, want: 120},
		{name: "attested for less", required: true, attested: func() (time.Duration, error) { return 90*time.Second + time.Millisecond, nil }, want: 90},
		{name: "attested for less than asked", required: true, attested: func() (time.Duration, error) { return 90 * time.Second, nil }, asked: 100, want: 90},
		{name: "attested for more than asked", required: true, attested: func() (time.Duration, error) { return 90 * time.Second, nil }, asked: 60, want: 60},
		{name: "attested for less than a second", required: true, attested: func() (time.Duration, error) { return 999 * time.Millisecond, nil }, refused: "within a second"},
		{name: "expired", required: true, attested: func() (time.Duration, error) { return 0, expired }, refused: "expired at noon"},
		{name: "no controller", required: true, refused: "no controller stands in its start configuration"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := testCeiling
			if c.required {
				text += "require_attestation: true\n"
			}
			at := &clock{now: time.Now(), attested: c.attested}
			m, _ := newMintUnder(t, text, &startconf.Configuration{}, at)
			r := goodRequest(t)
			r.TtlSeconds = c.asked
			reply, err := m.Mint(context.Background(), r)
			if c.refused != "" {
				if !errors.Is(err, ErrUnattested) || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if reply.GetLifetimeSeconds() != c.want || reply.GetExpiresUnix() != at.now.Unix()+int64(c.want) {
				t.Errorf("%d seconds, until %d at %d; want %d seconds", reply.GetLifetimeSeconds(), reply.GetExpiresUnix(), at.now.Unix(), c.want)
			}
		})
	}
}

// A request that was decided before does not pass by the gate.
func TestRequireAttestationOfKnownRequests(t *testing.T) {
	at := &clock{now: time.Now(), attested: func() (time.Duration, error) { return time.Hour, nil }}
	m, _ := newMintUnder(t, testCeiling+"require_attestation: true\n", &startconf.Configuration{}, at)
	r := goodRequest(t)
	if _, err := m.Mint(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	m.opts.Attested = func() (time.Duration, error) { return 0, errors.New("over") }
	if taken, err := m.TryMint(r, func(*Ticket) { t.Error("answered") }); taken || !errors.Is(err, ErrUnattested) {
		t.Errorf("%v, %v", taken, err)
	}
}
