// Command demo is `make demo`: an agent that executes whatever a model says, a model that follows a script of honest and
// injected tool calls, once without the guard and once under it, on hosts that it makes itself. It ends with a table of what
// was tried and what held it, and with status 1 if anything differs from the policy.
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
	err := stage.Play(os.Args[1:], scene)
	if err != nil {
		if !errors.Is(err, stage.ErrReported) {
			fmt.Fprintln(os.Stderr, "demo:", err)
		}
		os.Exit(1)
	}
}

func scene(arguments []string) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	programs := flags.String("programs", "bin", "folder with raypher, raypherd, raypher-enclave and demo-agent")
	folder := flags.String("folder", "examples/demo", "folder with policy.yaml and script.json")
	control := flags.Bool("control", true, "run the agent without the guard first, in a scratch home")
	guard := flags.Bool("guard", true, "run the agent under the guard")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	bin, err := filepath.Abs(*programs)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(*folder)
	if err != nil {
		return err
	}
	play := stage.Scene{
		Title:    "An agent with real tools, and a model that was told to steal",
		Programs: bin,
		Policy:   filepath.Join(dir, "policy.yaml"),
		Script:   filepath.Join(dir, "script.json"),
		Name:     "demo",
		Control:  *control,
		Guard:    *guard,
		Furnish: func(home *stage.Home) (func() error, error) {
			return func() error { return nil }, install(filepath.Join(bin, "demo-agent"), home.Path("bin", "agent"))
		},
		Command:   func(home *stage.Home) []string { return []string{home.Path("bin", "agent")} },
		Succeeded: succeeded,
		Limit:     2 * time.Minute,
	}
	return play.Perform(os.Stdout)
}

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
