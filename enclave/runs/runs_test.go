package runs

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/raypher/raypher/enclave/mint"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/visa"
)

// clock is one that a test sets.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

func claims(key, agent string, expires time.Time) *visa.Claims {
	hash := sha256.Sum256([]byte(key))
	return &visa.Claims{
		Subject: "spiffe://d/ns/dev/agent/coder", Namespace: "dev", Handle: hash[:], ExpiresAt: expires.Unix(), Asserted: visa.Asserted{AgentID: agent},
	}
}

// A key is that of its run from its first visa to the end of its last.
func TestARunIsKnownWhileItsVisaLives(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	r := New(c.now)
	if _, ok := r.Find("key"); ok {
		t.Error("found before there was a visa")
	}
	r.Granted(claims("key", "a1", time.Unix(1060, 0)))
	want := Run{Namespace: "dev", Agent: "coder", ID: "a1"}
	if got, ok := r.Find("key"); !ok || got != want {
		t.Errorf("%+v, %v", got, ok)
	}
	if _, ok := r.Find("other"); ok {
		t.Error("another key is a run's")
	}
	r.Granted(claims("key", "a1", time.Unix(1120, 0)))
	r.Granted(claims("key", "a1", time.Unix(1070, 0))) // one for somebody else, which ends earlier
	c.Time = time.Unix(1119, 0)
	if _, ok := r.Find("key"); !ok {
		t.Error("lost while its visa lives")
	}
	c.Time = time.Unix(1120, 0)
	if _, ok := r.Find("key"); ok {
		t.Error("found after its last visa ended")
	}
}

// The budget of a run is the narrowest that one of its visas named: a later one widens nothing.
func TestABudgetIsNeverWidened(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	r := New(c.now)
	for _, step := range []struct{ named, want uint64 }{{0, 0}, {500, 500}, {900, 500}, {0, 500}, {300, 300}} {
		visa := claims("key", "a1", time.Unix(1060, 0))
		visa.Budget = step.named
		r.Granted(visa)
		if got, _ := r.Find("key"); got.Budget != step.want {
			t.Errorf("a visa with %d: %d, want %d", step.named, got.Budget, step.want)
		}
		if got := r.Budgets()["a1"]; got != step.want {
			t.Errorf("a visa with %d: %d is told of it, want %d", step.named, got, step.want)
		}
	}
}

// Another run cannot take a handle while the visa of its first one lives.
func TestAHandleIsOfOneRun(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	r := New(c.now)
	hash := journal.Hash(sha256.Sum256([]byte("key")))
	r.Granted(claims("key", "a1", time.Unix(1060, 0)))
	if err := r.Admit(hash, "a1"); err != nil {
		t.Error(err)
	}
	if err := r.Admit(hash, "a2"); !errors.Is(err, mint.ErrDenied) {
		t.Errorf("another run: %v", err)
	}
	r.Granted(claims("key", "a2", time.Unix(2000, 0)))
	if got, _ := r.Find("key"); got.ID != "a1" {
		t.Errorf("it is %q's now", got.ID)
	}
	c.Time = time.Unix(1060, 0)
	if err := r.Admit(hash, "a2"); err != nil {
		t.Errorf("after the end of the first one's visa: %v", err)
	}
}

// However many handles a parent invents, no more are kept than MaxRuns; those that ended make room.
func TestRunsAreBounded(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	r := New(c.now)
	for i := range uint64(MaxRuns) {
		key := binary.BigEndian.AppendUint64(nil, i)
		r.Granted(claims(string(key), "a", time.Unix(1060, 0)))
	}
	more := journal.Hash(sha256.Sum256([]byte("more")))
	if err := r.Admit(more, "b"); !errors.Is(err, mint.ErrRate) {
		t.Errorf("one more: %v", err)
	}
	r.Granted(claims("more", "b", time.Unix(1060, 0)))
	if len(r.runs) != MaxRuns {
		t.Errorf("%d are kept", len(r.runs))
	}
	c.Time = time.Unix(1061, 0)
	if err := r.Admit(more, "b"); err != nil {
		t.Errorf("after their end: %v", err)
	}
	if len(r.runs) != 0 {
		t.Errorf("%d are kept after their end", len(r.runs))
	}
}
