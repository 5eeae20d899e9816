package approvals

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/internal/strictyaml"
	"github.com/raypher/raypher/journal"
)

// world is a desk with a journal and one warden in memory.
type world struct {
	t        *testing.T
	desk     *Desk
	mu       sync.Mutex
	recorded []*journal.Approval
	down     error // of the journal
	released chan release
}

type release struct {
	number   uint64
	approved bool
	until    int64
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, released: make(chan release, 100)}
	w.desk = New(Options{Proposals: t.TempDir() + "/proposals", Log: slog.New(slog.DiscardHandler), Record: func(_ context.Context, raw []byte) ([]byte, uint64, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.down != nil {
			return nil, 0, w.down
		}
		a, err := journal.DecodeApproval(raw)
		if err != nil {
			t.Error(err)
		}
		w.recorded = append(w.recorded, a)
		return []byte{1}, uint64(len(w.recorded)), nil
	}})
	t.Cleanup(w.desk.Close)
	return w
}

func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = err
}

func (w *world) asker() Asker {
	return Asker{
		AgentID: "a1", Subject: "spiffe://x/ns/n/agent/a", VisaID: func() []byte { return []byte{7} }, Closed: func() error { return nil },
		Release: func(_ journal.Question, number uint64, approved bool, until int64) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.recorded) == 0 {
				w.t.Error("released before it was on record")
			}
			w.released <- release{number, approved, until}
			return nil
		},
	}
}

var read = journal.Question{Operation: "open-read", Target: "/w/ask/file", Rule: "/w/ask/**", PID: 3, Comm: "cat"}

func (w *world) ask(number uint64, limit time.Duration) {
	w.t.Helper()
	if err := w.desk.Ask(w.asker(), number, read, boottime(), limit); err != nil {
		w.t.Fatal(err)
	}
}

var alice = journal.Person{UID: 1000, User: "alice", PID: 99}

func TestAnswers(t *testing.T) {
	for _, tt := range []struct {
		answer Answer
		want   string // decision, scope and seconds in the journal
		until  func(int64) bool
	}{
		{Answer{Approve: true}, "approve once", func(u int64) bool { return u == 0 }},
		{Answer{Approve: true, Scope: "run"}, "approve run", func(u int64) bool { return u == Always }},
		{Answer{Approve: true, Scope: "15m"}, "approve duration", func(u int64) bool {
			d := time.Duration(u - boottime())
			return d > 14*time.Minute && d <= 15*time.Minute
		}},
		{Answer{}, "deny once", func(u int64) bool { return u == 0 }},
	} {
		w := newWorld(t)
		w.ask(5, 0)
		if _, err := w.desk.Answer(t.Context(), "a1-5", tt.answer, alice); err != nil {
			t.Fatal(err)
		}
		r := <-w.released
		if r.number != 5 || r.approved != tt.answer.Approve || !tt.until(r.until) {
			t.Errorf("%+v releases %+v", tt.answer, r)
		}
		if a := w.recorded[0]; a.Decision+" "+a.Scope != tt.want || a.Who == nil || *a.Who != alice || a.Question != read || a.VisaID[0] != 7 {
			t.Errorf("%+v is recorded as %+v", tt.answer, a)
		}
		if _, err := w.desk.Answer(t.Context(), "a1-5", tt.answer, alice); !errors.Is(err, ErrNone) {
			t.Errorf("answered twice: %v", err)
		}
	}
}

func TestAnswersThatAreRefused(t *testing.T) {
	w := newWorld(t)
	w.ask(1, 0)
	for _, a := range []Answer{
		{Approve: true, Scope: "always"}, {Approve: true, Scope: "-1s"}, {Approve: true, Scope: "25h"}, {Approve: true, Scope: "10ms"},
		{Scope: "run"}, {Always: true},
	} {
		if _, err := w.desk.Answer(t.Context(), "a1-1", a, alice); !errors.Is(err, ErrInvalid) {
			t.Errorf("%+v: %v", a, err)
		}
	}
	w.fail(errors.New("the enclave is away"))
	for _, a := range []Answer{{Approve: true}, {}} {
		if _, err := w.desk.Answer(t.Context(), "a1-1", a, alice); !errors.Is(err, ErrRecorded) {
			t.Errorf("%+v without a journal: %v", a, err)
		}
	}
	select {
	case r := <-w.released:
		t.Errorf("released without being on record: %+v", r)
	default:
	}
	w.fail(nil)
	if _, err := w.desk.Answer(t.Context(), "a1-1", Answer{}, alice); err != nil {
		t.Errorf("the question did not stay: %v", err)
	}
}

func TestClosedAgentIsGrantedNothing(t *testing.T) {
	w := newWorld(t)
	from := w.asker()
	from.Closed = func() error { return errors.New("its visa has ended") }
	if err := w.desk.Ask(from, 1, read, boottime(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.desk.Answer(t.Context(), "a1-1", Answer{Approve: true}, alice); err == nil || len(w.recorded) != 0 {
		t.Errorf("%v, recorded %v", err, w.recorded)
	}
	if len(w.desk.List("")) != 1 {
		t.Error("the question is lost")
	}
}

func TestTimeout(t *testing.T) {
	w := newWorld(t)
	w.fail(errors.New("the enclave is away"))
	if err := w.desk.Ask(w.asker(), 1, read, boottime()-int64(time.Hour), time.Minute); err != nil { // it waited through a restart
		t.Fatal(err)
	}
	w.fail(nil)
	if r := <-w.released; r.approved {
		t.Error("a time-out approves")
	}
	if a := w.recorded[0]; a.Decision != journal.Timeout || a.Who != nil {
		t.Errorf("%+v", a)
	}
}

func TestWatchersSeeEachChange(t *testing.T) {
	w := newWorld(t)
	w.ask(1, 0)
	waiting, watcher, err := w.desk.Watch("")
	if err != nil || len(waiting) != 1 {
		t.Fatal(waiting, err)
	}
	w.ask(1, 0) // again after a reattachment: the same question
	w.ask(2, 0)
	w.desk.Withdraw("a1", 1)
	w.desk.Withdraw("a1", 9)
	w.desk.Forget("a1")
	for _, want := range []string{"a1-2 ", "a1-1 gone", "a1-2 gone"} {
		if c := <-watcher.C; c.Question.ID+" "+c.Over != want {
			t.Errorf("%s %s, want %s", c.Question.ID, c.Over, want)
		}
	}
	w.desk.Close()
	if _, open := <-watcher.C; open || watcher.Err() != nil {
		t.Error("the watcher is not ended")
	}
}

func TestSlowWatcher(t *testing.T) {
	w := newWorld(t)
	_, watcher, _ := w.desk.Watch("")
	for i := range uint64(watcherRoom + 2) {
		w.ask(i, 0)
		w.desk.Withdraw("a1", i)
	}
	if !errors.Is(watcher.Err(), ErrSlow) {
		t.Error(watcher.Err())
	}
}

func TestBoundPerAgent(t *testing.T) {
	w := newWorld(t)
	for i := range uint64(maxPerAgent) {
		w.ask(i, 0)
	}
	if err := w.desk.Ask(w.asker(), 1<<40, read, boottime(), 0); err == nil {
		t.Error("there is no bound")
	}
}

// TestProposals: what the agent chose is a string in the proposal, whatever it holds, and nothing else.
func TestProposals(t *testing.T) {
	w := newWorld(t)
	q := read
	q.Target = "/w/ask/x\"\n  deny: []\nremove: {filesystem: {deny: [/]}} # {a,b}*"
	if err := w.desk.Ask(w.asker(), 1, q, boottime(), 0); err != nil {
		t.Fatal(err)
	}
	recorded, err := w.desk.Answer(t.Context(), "a1-1", Answer{Approve: true, Always: true}, alice)
	if err != nil {
		t.Fatal(err)
	}
	all, err := w.desk.Proposals()
	if err != nil || len(all) != 1 || all[0].Path != recorded.Proposal {
		t.Fatal(all, err)
	}
	content := string(all[0].Content)
	if _, _, err := strictyaml.Load(strictyaml.File{Name: "p", What: "proposal", Limit: 1 << 16}, all[0].Content); err != nil {
		t.Errorf("%v:\n%s", err, content)
	}
	if strings.Count(content, "\nremove:") != 1 || strings.Contains(content, "\n  deny") || !strings.Contains(content, `\\{a\\,b\\}\\*`) {
		t.Errorf("%s", content)
	}
	if st, err := os.Stat(recorded.Proposal); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	if !w.recorded[0].Proposed {
		t.Error("the journal does not say that a change was proposed")
	}
}
