package broker

import (
	"sync"
	"testing"

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
