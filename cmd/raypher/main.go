// Command raypher is the CLI: it runs agents under the guard and reads, checks and proves what the guard did.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
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

// version is set by the linker.
var version = "unknown"

func main() {
	root := &cobra.Command{
		Use:           "raypher",
		Short:         "The guard for AI agents",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(commands()...)
	for _, c := range root.Commands() {
		if c.HasSubCommands() {
			refuseUnknown(c)
		}
	}
	err := root.Execute()
	if err == nil {
		return
	}
	code := 1
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintln(os.Stderr, "raypher:", msg)
	}
	os.Exit(code)
}

// refuseUnknown makes a command that only groups others fail on a word that is none of them. Cobra would print the help and
// succeed, which a script takes for a yes.
func refuseUnknown(c *cobra.Command) {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		return &exitError{code: 2, err: fmt.Errorf("%s: no command %q: see %s --help", c.CommandPath(), args[0], c.CommandPath())}
	}
}
