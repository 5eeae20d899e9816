package doctor

import (
	"bytes"
	"strings"
	"testing"
)

// TestHolds: the report says what the backend in force holds, and why not what it does not.
func TestHolds(t *testing.T) {
	for backend, unheld := range map[string]int{"broker": 1, "lsm": 0} {
		r := &Report{Backend: backend, Holds: classes(backend)}
		cases, held, apart := 0, 0, 0
		for _, c := range r.Holds {
			cases, held, apart = cases+c.Cases, held+c.Held, apart+len(c.Apart)
			for _, u := range c.Apart {
				if u.Reason == "" || u.Case == "" || u.Holds != "lsm" && u.Holds != "broker" {
					t.Errorf("%s: %+v", c.Class, u)
				}
			}
		}
		if len(r.Holds) < 20 || cases < 250 || apart < unheld || cases-held < unheld || backend == "lsm" && held != cases {
			t.Errorf("%s: %d classes, holds %d of %d cases, %d apart", backend, len(r.Holds), held, cases, apart)
		}
		var out bytes.Buffer
		if err := r.Print(&out, false); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"holds ", "rename and link", "docs/conformance.md"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %s lacks %q", backend, out.String(), want)
			}
		}
		if said := strings.Contains(out.String(), "not held mapping for execution: what was mapped for reading"); said != (backend == "broker") {
			t.Errorf("%s: %s", backend, out.String())
		}
	}
}
