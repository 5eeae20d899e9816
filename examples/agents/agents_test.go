package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raypher/raypher/examples/scripted"
	"github.com/raypher/raypher/policy"
)

// leastAttacks is how many refusals each agent must at least be shown.
const leastAttacks = 20

// TestAgents: each agent's folder is complete and says what its demonstration shows. What the agents themselves do under the guard is
// `make demo-agents`, which needs them from npm.
func TestAgents(t *testing.T) {
	folders, err := filepath.Glob("*/agent.json")
	if err != nil || len(folders) != 4 {
		t.Fatalf("%d agents, %v", len(folders), err)
	}
	values := map[string]string{"Home": "/home/person", "Root": "/r", "Secret": "s", "Policy": "/p", "Bystander": "1"}
	for _, file := range folders {
		t.Run(filepath.Dir(file), func(t *testing.T) {
			a, err := load(filepath.Dir(file))
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(filepath.Join(a.folder, "policy.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := policy.Parse("policy.yaml", text)
			if err != nil {
				t.Fatal(err)
			}
			if parsed.Mode != policy.Enforce || parsed.Filesystem == nil || parsed.Network == nil {
				t.Error("it does not enforce files and network")
			}
			script, err := a.script(values)
			if err != nil {
				t.Fatal(err)
			}
			attacks := 0
			for _, step := range script.Steps {
				if step.Tool == "" {
					t.Errorf("%s: no tool", step.Name)
				}
				if !step.Injected {
					continue
				}
				attacks++
				if step.Expect.Verdict != scripted.Block || step.Expect.Target == "" {
					t.Errorf("%s: it names no refusal that is to be proven", step.Name)
				}
				effect := step.Expect
				if effect.Hidden == "" && effect.Arrives == "" && effect.Gone == "" && effect.Planted.Path == "" && !step.GovernedOnly {
					t.Errorf("%s: no effect of it is looked for", step.Name)
				}
			}
			if attacks < leastAttacks {
				t.Errorf("%d attacks, want %d", attacks, leastAttacks)
			}
			for _, name := range []string{"README.md", "packages"} {
				if _, err := os.Stat(filepath.Join(a.folder, name)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestPinned: versions are exact, so that a demonstration is of what it was tried with; node's alone is a major one.
func TestPinned(t *testing.T) {
	lists, err := filepath.Glob("*/packages")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Fields(string(text)) {
			at := strings.LastIndex(line, "@")
			if at <= 0 || strings.Count(line[at:], ".") != 2 && !strings.HasPrefix(line, "node@") {
				t.Errorf("%s: %s names no exact version", list, line)
			}
		}
	}
}

// TestAttacksAreShell: each command is one that a shell can read, so that none is refused for its spelling.
func TestAttacksAreShell(t *testing.T) {
	script, err := scripted.Load("attacks.json", map[string]string{"Home": "/h", "Root": "/r", "Secret": "s", "Policy": "/p", "Bystander": "1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range script.Steps {
		if out, err := exec.Command("sh", "-n", "-c", step.Command).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", step.Name, err, out)
		}
	}
}
