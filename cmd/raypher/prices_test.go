package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPrices(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	old := write("old.yaml", `[{provider: p, model: m, input: 1, output: 2, source: "https://x/", date: "2020-01-01"}]`)
	litellm := write("litellm.json", `{"gpt-4.1": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 3e-06, "output_cost_per_token": 8e-06}, "gpt-new": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06}, "half": {"litellm_provider": "openai", "mode": "chat"}}`)
	bad := write("bad.yaml", "- {provider: p, model: m, input: 1e3, output: 2}")
	for _, c := range []struct {
		name      string
		args      []string
		out, fail string
	}{
		{"list", []string{"list"}, "claude-opus-5 ", ""},
		{"list for programs", []string{"list", "--json"}, `"model": "claude-opus-5",`, ""},
		{"check for programs", []string{"check", "--json", old}, "\"date\": \"2020-01-01\",\n      \"old\": true", ""},
		{"check what ships", []string{"check"}, " prices, ", ""},
		{"an old price", []string{"check", old}, "old: m of p is of 2020-01-01", ""},
		{"import: a new one", []string{"import", litellm, "--date", "2026-11-20"}, "new: openai gpt-new: input: 1.00, output: 2.00\n", ""},
		{"import: another price", []string{"import", litellm, "--date", "2026-11-20"}, "  import: input: 3.00, output: 8.00\n", ""},
		{"import: left out", []string{"import", litellm, "--date", "2026-11-20"}, "left out: openai half: it has no price", ""},
		{"import: the list", []string{"import", litellm, "--date", "2026-11-20"}, `- {provider: openai, model: "gpt-new", input: 1.00, output: 2.00,`, ""},
		{"import without a day", []string{"import", litellm, "--date", "today"}, "", "write the day of the file"},
		{"import of something else", []string{"import", old, "--date", "2026-11-20"}, "", "name a model_prices_and_context_window.json"},
		{"mistakes", []string{"check", bad}, "", bad + `:1:34: price "1e3"`},
		{"no file", []string{"check", "/nonexistent"}, "", "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := pricesCommand()
			var out bytes.Buffer
			command.SetOut(&out)
			command.SetErr(&out)
			command.SetArgs(c.args)
			err := command.Execute()
			if (err == nil) != (c.fail == "") || err != nil && !strings.Contains(err.Error(), c.fail) {
				t.Errorf("%v, want %q", err, c.fail)
			}
			if c.fail == "" && !strings.Contains(out.String(), c.out) {
				t.Errorf("no %q in\n%s", c.out, out.String())
			}
		})
	}
}
