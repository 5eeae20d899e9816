package e2e

import (
	"encoding/json"
	"testing"
)

// TestCountedCalls: raypherd --count-calls tells how often agents made each system call; without it none is counted.
func TestCountedCalls(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags []string
		want  bool
	}{{"counted", []string{"--count-calls"}, true}, {"not counted", nil, false}} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, c.flags...)
			if o := m.run(ordinary, "/bin/true"); o.code != 0 {
				t.Fatalf("%+v", o)
			}
			var status struct {
				Counters map[string]json.Number `json:"counters"`
			}
			if err := json.Unmarshal([]byte(m.raypher("status", "--json").stdout), &status); err != nil {
				t.Fatal(err)
			}
			all, counted := status.Counters["calls"]
			if n, _ := all.Int64(); counted != c.want || counted && n == 0 {
				t.Errorf("calls: %q of %v", all, status.Counters)
			}
			if n, _ := status.Counters["calls_exit_group"].Int64(); (n > 0) != c.want {
				t.Errorf("%d calls of exit_group", n)
			}
		})
	}
}
