package rate

import (
	"fmt"
	"testing"
	"time"
)

func TestMemoryIsBounded(t *testing.T) {
	k := NewKeyed(1, 1)
	for i := range 3 * MaxSubjects {
		k.Take(fmt.Sprint(i), time.Unix(1, 0))
	}
	if len(k.byKey) > MaxSubjects || k.order.Len() > MaxSubjects {
		t.Errorf("%d subjects remembered", len(k.byKey))
	}
}

// A bucket empties, fills with time and no further than it holds, and a clock that goes backwards fills nothing.
func TestBuckets(t *testing.T) {
	k := NewKeyed(2, 5)
	at := time.Unix(1000, 0)
	take := func(subject string, want int) {
		t.Helper()
		got := 0
		for k.Take(subject, at) {
			got++
		}
		if got != want {
			t.Errorf("%s at %s: %d taken, want %d", subject, at.UTC(), got, want)
		}
	}
	take("a", 10)
	take("b", 10)
	at = at.Add(3 * time.Second)
	take("a", 6)
	at = at.Add(time.Hour)
	take("a", 10)
	at = at.Add(-time.Minute)
	take("a", 0)
}
