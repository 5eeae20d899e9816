package spend

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/audit"
)

// shelf is a journal in memory.
type shelf struct {
	ids     []journal.EpochID
	records map[journal.EpochID][]audit.Record
}

func (s *shelf) Epochs() []journal.EpochID { return s.ids }

func (s *shelf) Entries(f audit.Filter) iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) {
		for _, r := range s.records[*f.Epoch] {
			if r.Index >= f.From && slices.Contains(f.Types, r.Entry.Type) && !yield(r, nil) {
				return
			}
		}
	}
}

func (s *shelf) epoch() {
	id := journal.EpochID{byte(len(s.ids) + 1)}
	s.ids = append(s.ids, id)
	if s.records == nil {
		s.records = map[journal.EpochID][]audit.Record{}
	}
	s.put(journal.TypeEpoch, time.Unix(0, 0), nil)
}

func (s *shelf) put(t journal.Type, at time.Time, payload []byte) {
	id := s.ids[len(s.ids)-1]
	s.records[id] = append(s.records[id], audit.Record{Epoch: id, Index: uint64(len(s.records[id])), Entry: journal.Entry{Type: t, Time: at.UnixNano(), Payload: payload}})
}

func (s *shelf) reserve(t *testing.T, n byte, agent, model string, at time.Time, worst uint64) {
	t.Helper()
	payload, err := (&journal.Reservation{ID: journal.RequestID{n}, Namespace: "dev", Agent: agent, Run: "r", Provider: "openai", Model: model, Worst: worst, Tokens: 9}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	s.put(journal.TypeReservation, at, payload)
}

func (s *shelf) settle(t *testing.T, e journal.Settlement, at time.Time) {
	t.Helper()
	payload, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	s.put(journal.TypeSettlement, at, payload)
}

// TestBook: every way for a call to end, over a restart, read in two steps; days are those of the zone.
func TestBook(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	late := time.Date(2026, 11, 22, 23, 30, 0, 0, time.UTC) // the 23rd in Berlin
	s, book := new(shelf), (*Book)(nil)
	book = NewBook(s)
	lines := func(zone *time.Location) string {
		t.Helper()
		all, err := book.Lines(context.Background(), "2026-11", zone)
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		for _, l := range all {
			text = append(text, fmt.Sprintf("%s %s %s: %d calls, %d spent, %d held, %d tokens", l.Day, l.Agent, l.Model, l.Calls, l.Spent, l.Held, l.Tokens))
		}
		return strings.Join(text, "\n")
	}
	s.epoch()
	s.reserve(t, 1, "coder", "m", late, 100)
	s.settle(t, journal.Settlement{ID: journal.RequestID{1}, Outcome: journal.Settled, Actual: 40, Tokens: 7}, late)
	s.settle(t, journal.Settlement{ID: journal.RequestID{1}, Outcome: journal.Settled, Actual: 40, Tokens: 7, Again: true}, late)
	s.reserve(t, 2, "coder", "m", late, 50)
	s.settle(t, journal.Settlement{ID: journal.RequestID{2}, Outcome: journal.Kept}, late)
	s.reserve(t, 3, "coder", "m", late, 60)
	s.settle(t, journal.Settlement{ID: journal.RequestID{3}, Outcome: journal.Withdrawn}, late)
	s.reserve(t, 4, "tester", "n", late, 30)
	if got, want := lines(berlin), "2026-11-23 coder m: 2 calls, 90 spent, 0 held, 7 tokens\n2026-11-23 tester n: 0 calls, 0 spent, 30 held, 0 tokens"; got != want {
		t.Errorf("\n%s, want\n%s", got, want)
	}
	s.epoch() // the open call is kept
	s.reserve(t, 5, "coder", "m", late.AddDate(0, 0, 1), 10)
	want := "2026-11-23 coder m: 2 calls, 90 spent, 0 held, 7 tokens\n2026-11-23 tester n: 1 calls, 30 spent, 0 held, 0 tokens\n2026-11-24 coder m: 0 calls, 0 spent, 10 held, 0 tokens"
	if got := lines(berlin); got != want {
		t.Errorf("\n%s, want\n%s", got, want)
	}
	if got, want := lines(time.UTC), strings.ReplaceAll(strings.ReplaceAll(want, "11-23", "11-22"), "11-24", "11-23"); got != want {
		t.Errorf("in UTC:\n%s, want\n%s", got, want)
	}
	if all, err := book.Lines(context.Background(), "2026-10", time.UTC); err != nil || len(all) != 0 {
		t.Errorf("another month: %v, %v", all, err)
	}
}

// TestCalls: each call once, ended ones in the order of their ends, open ones last.
func TestCalls(t *testing.T) {
	s, at := new(shelf), time.Unix(1000, 0)
	s.epoch()
	s.reserve(t, 1, "coder", "m", at, 100)
	s.reserve(t, 2, "coder", "m", at.Add(time.Second), 50)
	s.settle(t, journal.Settlement{ID: journal.RequestID{2}, Outcome: journal.Settled, Actual: 20, Tokens: 7}, at.Add(3*time.Second))
	s.epoch()
	s.reserve(t, 3, "coder", "m", at.Add(5*time.Second), 60)
	list := func(since time.Time) string {
		t.Helper()
		var text []string
		err := Calls(context.Background(), s, since.UnixNano(), func(c *Call) error {
			text = append(text, fmt.Sprintf("%d %s %d at %d", c.ID[0], c.Outcome, c.Spent, c.Index))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(text, ", ")
	}
	if got, want := list(time.Unix(0, 0)), "2 settled 20 at 2, 1 kept 100 at 1, 3 open 0 at 1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := list(at.Add(time.Second)), "2 settled 20 at 2, 3 open 0 at 1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
