package events

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
)

// enclave stands at the other end of Record: it keeps what it takes, and can be made unreachable. The real one is part of
// the daemon's tests in cmd/raypherd.
type enclave struct {
	mu       sync.Mutex
	away     bool
	recorded []journal.Verdict
}

func (e *enclave) record(_ context.Context, verdicts [][]byte) ([]byte, uint64, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.away {
		return nil, 0, errors.New("away")
	}
	first := uint64(len(e.recorded))
	var good []journal.Verdict
	for _, data := range verdicts {
		v, err := journal.DecodeVerdict(data)
		if err != nil {
			return nil, 0, errors.Join(ErrRefused, err)
		}
		if v.Operation == "refuse" {
			return nil, 0, ErrRefused
		}
		good = append(good, v)
	}
	e.recorded = append(e.recorded, good...)
	return []byte("epoch"), first, nil
}

func (e *enclave) set(away bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.away = away
}

func (e *enclave) all() []journal.Verdict {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]journal.Verdict(nil), e.recorded...)
}

// run starts a hub; stop ends it and waits.
func run(t *testing.T, e *enclave, spool string) (h *Hub, stop func()) {
	t.Helper()
	h, err := New(Options{Record: e.record, Spool: spool, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	return h, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func verdict(agent, target string) journal.Verdict {
	return journal.Verdict{Time: time.Now().UnixNano(), AgentID: agent, Decision: journal.Block, Layer: "broker", Operation: "open-read", Target: target}
}

func sum(verdicts []journal.Verdict) (n int) {
	for _, v := range verdicts {
		n += int(v.Count)
	}
	return n
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func TestEqualVerdictsAreFolded(t *testing.T) {
	e := &enclave{}
	h, stop := run(t, e, filepath.Join(t.TempDir(), "spool"))
	var mu sync.Mutex
	var seen []journal.Verdict
	notify := func(v journal.Verdict) { mu.Lock(); defer mu.Unlock(); seen = append(seen, v) }
	for range 1000 {
		h.Report(verdict("a", "/etc/shadow"), notify)
	}
	h.Report(verdict("a", "/etc/passwd"), notify)
	h.Report(verdict("b", "/etc/shadow"), notify)
	eventually(t, "the folded verdicts were recorded", func() bool { return sum(e.all()) == 1002 })
	stop()
	if n := len(e.all()); n != 4 {
		t.Errorf("%d entries, want 4: the first of each kind and one with a count", n)
	}
	if first := e.all()[0]; first.Count != 1 || first.Target != "/etc/shadow" {
		t.Errorf("first entry %+v", first)
	}
	mu.Lock()
	defer mu.Unlock()
	if sum(seen) != 1002 || len(seen) != 4 {
		t.Errorf("seen %d verdicts in %d calls, want 1002 in 4", sum(seen), len(seen))
	}
}

func TestManyTargetsOfOneAgentAreBounded(t *testing.T) {
	e := &enclave{}
	h, stop := run(t, e, filepath.Join(t.TempDir(), "spool"))
	const tried = 20000
	other := verdict("flood", "10.0.0.1:443/tcp")
	other.Layer, other.Operation = "cgroup/connect4", "connect"
	for i := range tried {
		h.Report(verdict("flood", filepath.Join("/x", time.Duration(i).String())), nil)
	}
	h.Report(other, nil)
	h.Report(verdict("calm", "/etc/shadow"), nil)
	stop()
	if n := sum(e.all()); n != tried+2 {
		t.Errorf("entries stand for %d verdicts, want %d", n, tried+2)
	}
	// The burst, what the rate allows in this time, and one a second for the rest: the flood took seconds at most.
	if n := len(e.all()); n > burst+100 {
		t.Errorf("%d entries for one flood", n)
	}
	// What the agent did with another operation keeps its name.
	if !slices.ContainsFunc(e.all(), func(v journal.Verdict) bool { return v.AgentID == "flood" && v.Target == other.Target }) {
		t.Errorf("a flood of %s erased the name of a %s", verdict("", "").Operation, other.Operation)
	}
	calm := 0
	for _, v := range e.all() {
		if v.AgentID == "calm" {
			calm++
		}
	}
	if calm != 1 {
		t.Errorf("%d entries of the calm agent, want 1", calm)
	}
}

// However many operations an agent names, its entries are bounded, and none is uncounted.
func TestManyOperationsOfOneAgentAreBounded(t *testing.T) {
	e := &enclave{}
	h, stop := run(t, e, filepath.Join(t.TempDir(), "spool"))
	const operations, each = 4 * maxKinds, 2 * burst
	for i := range operations {
		for j := range each {
			v := verdict("flood", strconv.Itoa(j))
			v.Operation = "operation-" + strconv.Itoa(i)
			h.Report(v, nil)
		}
	}
	stop()
	if n := sum(e.all()); n != operations*each {
		t.Errorf("entries stand for %d verdicts, want %d", n, operations*each)
	}
	if n := len(e.all()); n > (maxKinds+1)*(burst+100)+operations*100 {
		t.Errorf("%d entries", n)
	}
}

func TestVerdictsOutliveAnEnclaveThatIsAway(t *testing.T) {
	spool := filepath.Join(t.TempDir(), "spool")
	e := &enclave{away: true}
	h, stop := run(t, e, spool)
	_, s := h.Subscribe("")
	h.Report(verdict("a", "/1"), nil)
	if got := <-s.C; got.Verdict.Target != "/1" || got.Epoch != nil {
		t.Errorf("subscriber got %+v, want the verdict without a place in the journal", got)
	}
	s.Close()
	eventually(t, "the verdict lies in the spool", func() bool { return h.Counters()["verdicts_spooled"] == 1 })
	stop()
	if n := len(e.all()); n != 0 {
		t.Fatalf("%d entries while away", n)
	}

	// The next raypherd finds them, with a torn frame at the end.
	f, err := os.OpenFile(spool, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Write([]byte{40, 0, 0, 0, 1, 2})
	f.Close()
	h, stop = run(t, e, spool)
	h.Report(verdict("a", "/2"), nil)
	eventually(t, "both lie in the spool", func() bool { return h.Counters()["verdicts_spooled"] == 2 })
	e.set(false)
	eventually(t, "both were recorded", func() bool { return len(e.all()) == 2 })
	h.Report(verdict("a", "/3"), nil)
	eventually(t, "the third was recorded", func() bool { return len(e.all()) == 3 })
	stop()
	for i, v := range e.all() {
		if want := "/" + string(rune('1'+i)); v.Target != want {
			t.Errorf("entry %d is %s, want %s: the order of reports", i, v.Target, want)
		}
	}
	if info, err := os.Stat(spool); err != nil || info.Size() != 0 {
		t.Errorf("spool after recording: %v, %v", info.Size(), err)
	}
}

func TestARefusedVerdictDoesNotHoldUpOthers(t *testing.T) {
	e := &enclave{}
	h, stop := run(t, e, filepath.Join(t.TempDir(), "spool"))
	bad := verdict("a", "/bad")
	bad.Operation = "refuse"
	invalid := verdict("a", "/invalid")
	invalid.Decision = "perhaps"
	for _, v := range []journal.Verdict{verdict("a", "/1"), bad, invalid, verdict("a", "/2")} {
		h.Report(v, nil)
	}
	eventually(t, "the good ones were recorded", func() bool { return len(e.all()) == 2 })
	stop()
	counters := h.Counters()
	if counters["verdicts_refused"] != 1 || counters["verdicts_invalid"] != 1 {
		t.Errorf("counters %v", counters)
	}
}

func TestLossIsRecorded(t *testing.T) {
	e := &enclave{}
	h, stop := run(t, e, filepath.Join(t.TempDir(), "spool"))
	h.Lost("a", 7)
	eventually(t, "the loss was recorded", func() bool { return len(e.all()) == 1 })
	stop()
	if v := e.all()[0]; v.Operation != "lost" || v.Count != 7 || v.AgentID != "a" {
		t.Errorf("recorded %+v", v)
	}
}

func TestSpoolIsBounded(t *testing.T) {
	s, err := openSpool(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	frame := make([]byte, maxFrame)
	for err = nil; err == nil; {
		err = s.append([][]byte{frame})
	}
	if !errors.Is(err, errSpoolFull) || s.end > maxSpool {
		t.Errorf("spool of %d bytes: %v", s.end, err)
	}
	if err := s.append([][]byte{make([]byte, maxFrame+1)}); err == nil {
		t.Error("a frame beyond its bound was taken")
	}
}

func TestSlowSubscriberIsTold(t *testing.T) {
	e := &enclave{}
	h, stop := run(t, e, filepath.Join(t.TempDir(), "spool"))
	defer stop()
	_, s := h.Subscribe("")
	_, other := h.Subscribe("nobody")
	for i := range 2 * queueLength {
		h.Report(verdict(time.Duration(i).String(), "/x"), nil)
	}
	eventually(t, "the slow one was ended", func() bool { return errors.Is(s.Err(), ErrBehind) })
	n := 0
	for range s.C {
		n++
	}
	if n != queueLength {
		t.Errorf("%d events before the end, want %d", n, queueLength)
	}
	if other.Err() != nil {
		t.Error(other.Err())
	}
	other.Close()
	latest, third := h.Subscribe("")
	defer third.Close()
	if len(latest) == 0 || len(latest) > historySize {
		t.Errorf("%d events of the past", len(latest))
	}
}

func FuzzSpool(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "seed")
	s, err := openSpool(path)
	if err != nil {
		f.Fatal(err)
	}
	s.append([][]byte{[]byte("one"), []byte("two")})
	s.close()
	seed, _ := os.ReadFile(path)
	f.Add(seed)
	f.Add(seed[:len(seed)-1])
	f.Add([]byte{255, 255, 255, 255, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "spool")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openSpool(path)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		n := s.count()
		if err := s.append([][]byte{[]byte("new")}); err != nil {
			t.Fatal(err)
		}
		all, err := s.peek(1 << 20)
		if err != nil || uint64(len(all)) != n+1 || string(all[n]) != "new" {
			t.Fatalf("%d of %d verdicts, %v", len(all), n+1, err)
		}
		s.drop(len(all))
		if s.count() != 0 || s.end != 0 {
			t.Fatal("not empty after everything was dropped")
		}
	})
}
