// Command raypher is the CLI: it runs agents under the guard and reads, checks and proves what the guard did.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cmd/internal/usage"
)

// exitError ends the process with a code that is not 1, after its message was printed. An empty message prints nothing.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// ExitCode implements usage.Coded.
func (e *exitError) ExitCode() int { return e.code }

// version is set by the linker.
var version = "unknown"

func main() {
	root := &cobra.Command{
		Use:           "raypher",
		Short:         "The guard for AI agents",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Long: `The guard for AI agents: run puts a program under it, the other commands read, check and prove what it did.

$RAYPHER_RUN_DIR names the run folder of a raypherd that was started with --run-dir; without it the commands talk to the
host's, at /run/raypher.`,
	}
	root.AddCommand(commands(os.Args[1:])...)
	usage.Explain(root)
	c, err := root.ExecuteC()
	if err == nil {
		return
	}
	err = usage.OfCobra(c, err)
	if msg := err.Error(); msg != "" {
		fmt.Fprintln(os.Stderr, "raypher:", msg)
	}
	os.Exit(usage.ExitCode(err))
}
