package journal

import (
	"reflect"
	"strings"
	"testing"

	"github.com/raypher/raypher/internal/strictcbor"
)

func reservation(change func(*Reservation)) *Reservation {
	r := &Reservation{
		ID: RequestID{1, 2}, Namespace: "dev", Agent: "coder", Run: "a1", Provider: "openai", Model: "gpt-4.1-mini",
		Worst: 123_456, Tokens: 70_000, Control: Hash{3}, Prices: Hash{4},
	}
	if change != nil {
		change(r)
	}
	return r
}

func settlement(change func(*Settlement)) *Settlement {
	s := &Settlement{ID: RequestID{1, 2}, Outcome: Settled, Actual: 100, Tokens: 900}
	if change != nil {
		change(s)
	}
	return s
}

func TestReservationsAndSettlements(t *testing.T) {
	r := reservation(nil)
	raw, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	general := strictcbor.Encode(wireReservation{r.ID, r.Namespace, r.Agent, r.Run, r.Provider, r.Model, r.Worst, r.Tokens, r.Control, r.Prices})
	if string(raw) != string(general) {
		t.Errorf("%x, a general encoder writes %x", raw, general)
	}
	if again, err := DecodeReservation(raw); err != nil || !reflect.DeepEqual(r, again) {
		t.Errorf("%+v, %v", again, err)
	}
	for name, s := range map[string]*Settlement{
		"settled":   settlement(nil),
		"kept":      settlement(func(s *Settlement) { s.Outcome, s.Actual, s.Tokens = Kept, 0, 0 }),
		"withdrawn": settlement(func(s *Settlement) { s.Outcome, s.Actual, s.Tokens, s.Again = Withdrawn, 0, 0, true }),
		"free":      settlement(func(s *Settlement) { s.Actual, s.Tokens = 0, 0 }),
	} {
		raw, err := s.Encode()
		if err != nil {
			t.Fatal(name, err)
		}
		if again, err := DecodeSettlement(raw); err != nil || !reflect.DeepEqual(s, again) {
			t.Errorf("%s: %+v, %v", name, again, err)
		}
	}
	for name, change := range map[string]func(*Reservation){
		"no id":            func(r *Reservation) { r.ID = RequestID{} },
		"no namespace":     func(r *Reservation) { r.Namespace = "" },
		"a long agent":     func(r *Reservation) { r.Agent = strings.Repeat("a", MaxSpender+1) },
		"a run in colours": func(r *Reservation) { r.Run = "\x1b[31m" },
		"no model":         func(r *Reservation) { r.Model = "" },
		"too much":         func(r *Reservation) { r.Worst = MaxSpending + 1 },
		"too many tokens":  func(r *Reservation) { r.Tokens = MaxSpending + 1 },
	} {
		if _, err := reservation(change).Encode(); err == nil {
			t.Errorf("%s is encoded", name)
		}
	}
	for name, change := range map[string]func(*Settlement){
		"no id":           func(s *Settlement) { s.ID = RequestID{} },
		"no outcome":      func(s *Settlement) { s.Outcome = 0 },
		"a later outcome": func(s *Settlement) { s.Outcome = 4 },
		"kept for less":   func(s *Settlement) { s.Outcome = Kept },
		"too much":        func(s *Settlement) { s.Actual = MaxSpending + 1 },
	} {
		if _, err := settlement(change).Encode(); err == nil {
			t.Errorf("%s is encoded", name)
		}
	}
}

func FuzzDecodeSpending(f *testing.F) {
	raw, _ := reservation(nil).Encode()
	f.Add(raw)
	raw, _ = settlement(nil).Encode()
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if r, err := DecodeReservation(raw); err == nil {
			if again, err := r.Encode(); err != nil || string(again) != string(raw) {
				t.Errorf("%+v encodes to %x, not %x (%v)", r, again, raw, err)
			}
		}
		if s, err := DecodeSettlement(raw); err == nil {
			if again, err := s.Encode(); err != nil || string(again) != string(raw) {
				t.Errorf("%+v encodes to %x, not %x (%v)", s, again, raw, err)
			}
		}
	})
}
