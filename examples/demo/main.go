// Command demo is `make demo`: an agent that executes whatever a model says, a model that follows a script of honest and
// injected tool calls, once without the guard and once under it, on hosts that it makes itself. It ends with a table of what
// was tried and what held it, and with status 1 if anything differs from the policy. Then the same agent talks to a model that charges, with
// a budget that runs out in the middle of their conversation.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/raypher/raypher/examples/agentloop"
	"github.com/raypher/raypher/examples/stage"
)

func main() {
	var laboratory string
	os.Exit(stage.Demonstration{
		Name: "demo",
		Flags: func(flags *flag.FlagSet) {
			flags.StringVar(&laboratory, "nitro", "", "folder of an enclave that scripts/nitro-lab has booted just now, with measurements.json: tier nitro instead of software")
		},
		Scenes: func(p stage.Places, _ []string) ([]*stage.Scene, error) {
			return []*stage.Scene{scene(p, laboratory)}, nil
		},
		Money: func(p stage.Places) *stage.Budget {
			if laboratory != "" {
				return nil // its enclave reaches no provider
			}
			return budget(p)
		},
	}.Main())
}

func scene(p stage.Places, laboratory string) *stage.Scene {
	s := &stage.Scene{
		Title:     "An agent with real tools, and a model that was told to steal",
		Folder:    p.Folder,
		Name:      "demo",
		Furnish:   func(home *stage.Home) (func() error, error) { return furnish(p, home) },
		Command:   command,
		Succeeded: succeeded,
		Limit:     2 * time.Minute,
	}
	if laboratory != "" {
		s.Nitro = &stage.Nitro{Folder: laboratory, Ceiling: filepath.Join(filepath.Dir(p.Folder), "ceiling.yaml")}
	}
	return s
}

// budget is the same agent, with a model that charges for each message.
func budget(p stage.Places) *stage.Budget {
	return &stage.Budget{
		Title:   "The same agent with a model that charges, and a budget that ends in the middle of their conversation",
		Folder:  p.Folder,
		Name:    "demo",
		Small:   "0.025",
		Large:   "0.50",
		Furnish: func(home *stage.Home) (func() error, error) { return furnish(p, home) },
		Command: command,
	}
}

func furnish(p stage.Places, home *stage.Home) (undo func() error, err error) {
	return func() error { return nil }, install(filepath.Join(p.Programs, "demo-agent"), home.Path("bin", "agent"))
}

func command(home *stage.Home) []string { return []string{home.Path("bin", "agent")} }

// install copies the agent into the home, so that the policy can name it there.
func install(from, to string) error {
	program, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("%w: run make first", err)
	}
	return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, program, 0o755))
}

func succeeded(result string) bool {
	var r agentloop.Result
	return json.Unmarshal([]byte(result), &r) == nil && r.OK
}
