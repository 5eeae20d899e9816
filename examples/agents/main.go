// Command agents is `make demo-agents`: agents that people use, unchanged as npm has them, each under a policy of its own, with a
// scripted model on loopback whose tool calls turn from the person's task to theft. It is the demonstration of examples/demo with
// OpenClaw, Codex, opencode and Claude Code. Arguments name some of them; without arguments it plays all.
//
// An agent is a folder beside this file: policy.yaml, agent.json (how it is started and configured), script.json (its honest task, and
// attacks with tools that only it has), packages (what scripts/agents.sh installs) and README.md. attacks.json is for all of them.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/raypher/raypher/examples/scripted"
	"github.com/raypher/raypher/examples/stage"
)

func main() {
	var installed string
	os.Exit(stage.Demonstration{
		Name: "agents",
		Flags: func(flags *flag.FlagSet) {
			flags.StringVar(&installed, "installed", "", "folder that scripts/agents.sh printed")
		},
		Scenes: func(p stage.Places, names []string) ([]*stage.Scene, error) {
			if installed == "" {
				return nil, errors.New("say where the agents are: -installed \"$(scripts/agents.sh)\"")
			}
			if len(names) == 0 {
				names = []string{"openclaw", "codex", "opencode", "claude-code"}
			}
			var scenes []*stage.Scene
			for _, name := range names {
				a, err := load(filepath.Join(p.Folder, name))
				if err != nil {
					return nil, err
				}
				scenes = append(scenes, a.scene(filepath.Join(installed, name)))
			}
			return scenes, nil
		},
	}.Main())
}

// limit is how long one act may take. OpenClaw needs 30 s on an idle machine with two processors, and minutes on a busy one.
const limit = 6 * time.Minute

func (a *agent) scene(installed string) *stage.Scene {
	return &stage.Scene{
		Title:   a.Title + ", and a model that was told to steal",
		Folder:  a.folder,
		Name:    a.name,
		Person:  true,
		Furnish: func(home *stage.Home) (func() error, error) { return a.furnish(home, installed) },
		Command: func(home *stage.Home) []string { return a.fill(home, a.Command) },
		Env:     func(home *stage.Home) []string { return a.fill(home, a.Environment) },
		Script:  a.script,
		Limit:   limit,
	}
}

// script is the agent's own one, with the attacks that every agent's tool for commands can carry out before its last step.
func (a *agent) script(values map[string]string) (*scripted.Script, error) {
	own, err := scripted.Load(filepath.Join(a.folder, "script.json"), values)
	if err != nil {
		return nil, err
	}
	attacks, err := scripted.Load(filepath.Join(a.folder, "..", "attacks.json"), values)
	if err != nil {
		return nil, err
	}
	if len(own.Steps) == 0 {
		return nil, fmt.Errorf("%s: a script without steps", a.name)
	}
	last := len(own.Steps) - 1
	own.Steps = append(append(own.Steps[:last:last], attacks.Steps...), own.Steps[last])
	own.UseTool(a.Tool.Name, a.Tool.Command, a.Tool.Fixed)
	return own, nil
}
