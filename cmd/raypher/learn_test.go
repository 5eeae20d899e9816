package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cmd/internal/usage"
)

// learnCLI runs learn and returns what it printed, and its exit code.
func learnCLI(t *testing.T, args ...string) (said string, code int) {
	t.Helper()
	c := &cobra.Command{Use: "raypher"}
	c.AddCommand(learnCommand())
	usage.Explain(c)
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&out)
	c.SetArgs(append([]string{"learn"}, args...))
	c.SilenceErrors, c.SilenceUsage = true, true
	if err := c.Execute(); err != nil {
		code = usage.ExitCode(err)
		out.WriteString(err.Error())
	}
	return out.String(), code
}

// aTrace writes a trace as somebody else may have made it.
func aTrace(t *testing.T, folder string, lines ...string) {
	t.Helper()
	head := `{"raypher_trace":1,"argv":["sh","-c","a | b; it's"],"home":"/root","started":"2026-01-01T00:00:00Z"}`
	text := strings.Join(append([]string{head}, lines...), "\n") + "\n"
	if err := os.WriteFile(filepath.Join(folder, learnedTrace), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestLearnSaysNothingForeign: what a trace says is for reading: it neither speaks to the terminal nor hides in a file, and its command
// can be put into a shell as it was.
func TestLearnSaysNothingForeign(t *testing.T) {
	folder := t.TempDir()
	aTrace(t, folder, `{"op":"open-read","access":"r","path":"/srv/a\u202egnp.\u001b[2J"}`,
		`{"op":"exec","access":"x","path":"/srv/\u202ea/bash"}`, `{"op":"x\u001b[2J\u202e","target":"y"}`, `{"end":{"entries":1,"lost":1,"why":"\u001b[2Jnothing"}}`)
	said, code := learnCLI(t, "--merge", folder, "--out", folder)
	if code != codeIncomplete || !strings.Contains(said, `-- sh -c 'a | b; it'\''s'`) {
		t.Errorf("status %d:\n%s", code, said)
	}
	text, err := os.ReadFile(filepath.Join(folder, learnedPolicy))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"the terminal": said, "the policy": string(text)} {
		if strings.ContainsAny(text, "\u202e\x1b") {
			t.Errorf("%s gets control characters:\n%q", name, text)
		}
	}
	if said, code := policyLine(t, "check", filepath.Join(folder, learnedPolicy)); code != 0 {
		t.Errorf("the draft is no policy: %s", said)
	}
}

func policyLine(t *testing.T, args ...string) (said string, code int) {
	out, problems, code := policyCLI(t, "", args...)
	return out + problems, code
}

// TestLearnReplacesNothingElse: what learn did not write stays, and a link in its folder leads it nowhere.
func TestLearnReplacesNothingElse(t *testing.T) {
	const end = `{"end":{"entries":0,"lost":0}}`
	learned := t.TempDir()
	aTrace(t, learned, end)
	for _, name := range []string{learnedPolicy, learnedTrace, "clawmanifest.json"} {
		folder := t.TempDir()
		file := filepath.Join(folder, name)
		if err := os.WriteFile(file, []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
		if said, code := learnCLI(t, "--merge", learned, "--out", folder); code != codeUsage || !strings.Contains(said, name+" exists") {
			t.Errorf("over %s: status %d, %s", name, code, said)
		}
		if text, err := os.ReadFile(file); err != nil || string(text) != "mine" {
			t.Errorf("%s was replaced: %q, %v", name, text, err)
		}
	}
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{learnedPolicy, learnedPolicy + ".new", "clawmanifest.json"} {
		if err := os.Symlink(victim, filepath.Join(learned, name)); err != nil {
			t.Fatal(err)
		}
	}
	if said, code := learnCLI(t, "--merge", learned, "--out", learned); code != 0 {
		t.Errorf("status %d: %s", code, said)
	}
	if text, err := os.ReadFile(victim); err != nil || string(text) != "mine" {
		t.Errorf("it wrote through a link: %.40q, %v", text, err)
	}
}
