package sequencer

import (
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	for _, c := range []struct {
		name string
		last pace
		want time.Duration
	}{
		{"nothing yet", pace{}, 0},
		{"a key in memory", pace{30 * time.Microsecond, 500}, 0},
		{"a lone caller on a slow device", pace{60 * time.Millisecond, 1}, 0},
		{"many callers on a slow device", pace{20 * time.Millisecond, 500}, 2500 * time.Microsecond},
		{"a device that has trouble", pace{10 * time.Second, 500}, maxLinger},
	} {
		if got := c.last.linger(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
