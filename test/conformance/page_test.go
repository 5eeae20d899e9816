package conformance_test

import (
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/raypher/raypher/test/conformance"
)

var update = flag.Bool("update", false, "write docs/conformance.md anew")

const page = "../../docs/conformance.md"

// holds is the same for raypher doctor.
const holds = "../../parent/doctor/holds.json"

// TestHolds: raypher doctor shows what the table says.
func TestHolds(t *testing.T) {
	want, err := json.MarshalIndent(conformance.Classes(), "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile(holds, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(holds)
	if err != nil || string(got) != string(want) {
		t.Errorf("parent/doctor/holds.json is not the table (%v): go test ./test/conformance -run 'TestPage|TestHolds' -update", err)
	}
}

// TestPage: the documentation shows the table as it is, with at least as many cases as were promised, each by a name of its own.
func TestPage(t *testing.T) {
	want := conformance.Page()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil || string(got) != want {
		t.Errorf("docs/conformance.md is not the table (%v): go test ./test/conformance -run TestPage -update", err)
	}
	cases := 0
	for _, s := range conformance.Settings() {
		cases += s.Count()
		seen := map[string]bool{}
		for _, section := range s.Sections {
			for _, c := range section.Cases {
				if seen[section.Class+c.Name] {
					t.Errorf("%s: two cases are named %q", s.Name, c.Name)
				}
				seen[section.Class+c.Name] = true
				if (c.Holds() != "both") != (c.Reason() != "") {
					t.Errorf("%s: %s: holds %s, reason %q", s.Name, c.Name, c.Holds(), c.Reason())
				}
				if strings.Contains(c.Want, "E") && c.Want != "killed" && c.Effect != "" && !strings.HasPrefix(c.Effect, "+w/") {
					t.Errorf("%s: %s is refused and has an effect beyond the file that it needed", s.Name, c.Name)
				}
			}
		}
	}
	if cases < 250 {
		t.Errorf("%d cases", cases)
	}
	t.Logf("%d cases", cases)
}
