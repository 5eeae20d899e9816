package prices_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/cost/prices"
	"github.com/raypher/raypher/internal/strictyaml"
)

// TestSnapshot: the list that ships can be read, and each price names who says so.
func TestSnapshot(t *testing.T) {
	list, err := prices.Snapshot(cost.ParseRate)
	if err != nil {
		t.Fatal(err)
	}
	m, err := list.Find("anthropic", "claude-haiku-5-5")
	if err != nil || m.Cost(prices.Usage{Input: 100_000, Output: 1000}) != 10_500 || m.Cost(prices.Usage{Input: 100_001}) != 50_001 {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := list.Find("anthropic", "claude-haiku"); err == nil {
		t.Error("a price for a name that is not there")
	}
}

func TestListMistakes(t *testing.T) {
	const good = `{provider: p, model: m, input: 1, output: 2, source: "https://x/", date: "2026-11-05"}`
	for text, want := range map[string]string{
		"":                                    "empty price list",
		"a: 1":                                "where a list is wanted",
		"- " + good + "\n- " + good:           "2:3: m of p stands twice",
		"- {provider: p, model: m, input: 1}": "output is missing",
		"- {provider: p, model: m, input: 1, output: 2}":                   "a price that nobody can check",
		"- " + strings.Replace(good, "2026-11-05", "5.11.2026", 1):         "a price that nobody can check",
		"- " + strings.Replace(good, "https", "http", 1):                   "a price that nobody can check",
		"- " + strings.Replace(good, "input: 1", "input: -1", 1):           `price "-1"`,
		"- " + strings.Replace(good, "input: 1", "input: 1000001", 1):      "use at most 1000000",
		"- " + strings.Replace(good, "input: 1", "inputs: 1, input: 1", 1): `unknown key "inputs"`,
	} {
		_, err := prices.Parse("f", []byte(text), cost.ParseRate)
		var all strictyaml.Errors
		if !errors.As(err, &all) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	text, err := os.ReadFile("snapshot.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := prices.Parse("f", text, cost.ParseRate)
		if err != nil {
			return
		}
		for _, m := range list.Models {
			if m.Worst(1000, 1000) < m.Cost(prices.Usage{Input: 1000, Output: 1000}) {
				t.Errorf("%+v", m)
			}
		}
	})
}
