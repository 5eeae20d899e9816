package broker

import (
	"sync"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
)

func TestFold(t *testing.T) {
	var mutex sync.Mutex
	var got []journal.Verdict
	f := newFold(func(v journal.Verdict) {
		mutex.Lock()
		defer mutex.Unlock()
		got = append(got, v)
	})
	for i := range 100 {
		f.add(journal.Verdict{Decision: journal.Block, Operation: "open-read", Target: "/x", PID: uint32(i), Count: 1})
	}
	f.add(journal.Verdict{Decision: journal.Block, Operation: "open-read", Target: "/y", Count: 1})
	mutex.Lock()
	if len(got) != 2 {
		t.Errorf("%d verdicts at once, want the first of each kind: %+v", len(got), got)
	}
	mutex.Unlock()
	f.close()
	total := uint32(0)
	for _, v := range got {
		total += v.Count
	}
	if total != 101 || len(got) != 3 {
		t.Errorf("%d verdicts stand for %d, want 3 for 101", len(got), total)
	}
	f.add(journal.Verdict{Decision: journal.Block, Target: "/z", Count: 1})
	if len(got) != 4 {
		t.Error("a verdict after the end was lost")
	}
}

func TestFoldIsBounded(t *testing.T) {
	count := 0
	f := newFold(func(journal.Verdict) { count++ })
	for i := range 3 * maxFolds {
		f.add(journal.Verdict{Target: string(rune(i)) + "/" + itoa(i), Count: 1})
	}
	if len(f.open) > maxFolds || count != 3*maxFolds {
		t.Errorf("%d kept, %d reported", len(f.open), count)
	}
	f.close()
}

// TestFloodIsDelayed: an agent that is refused more different things than are told apart waits for its answers, and each name
// is reported. What is refused again waits for nothing.
func TestFloodIsDelayed(t *testing.T) {
	var mutex sync.Mutex
	names := map[string]bool{}
	f := newFold(func(v journal.Verdict) {
		mutex.Lock()
		defer mutex.Unlock()
		names[v.Target] = true
	})
	add := func(i int) { f.add(journal.Verdict{Decision: journal.Block, Target: itoa(i), Count: 1}) }
	for i := range reportBurst {
		add(i)
	}
	if len(names) != reportBurst {
		t.Fatalf("%d names at once, want %d", len(names), reportBurst)
	}
	late := make(chan struct{})
	go func() {
		defer close(late)
		add(reportBurst)
	}()
	for range 1000 {
		add(0)
	}
	f.mutex.Lock()
	if now := time.Now(); f.room(now) || f.reserve(now) == 0 {
		t.Error("there is room for more after a flood")
	}
	f.mutex.Unlock()
	<-late
	if !names[itoa(reportBurst)] {
		t.Error("an answer came before its refusal was reported")
	}
	go add(reportBurst + 1)
	f.close()
	add(reportBurst + 1)
	mutex.Lock()
	defer mutex.Unlock()
	if !names[itoa(reportBurst+1)] {
		t.Error("a name was lost at the end")
	}
}
