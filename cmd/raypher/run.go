package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cmd/internal/start"
	"github.com/raypher/raypher/parent/launch"
)

func runCommand() *cobra.Command {
	var o launch.Options
	c := &cobra.Command{
		Use:   "run [flags] [--] program [arguments...]",
		Short: "Run a program, and all that it starts, under the guard",
		Long: `run puts itself under the guard and then becomes the program: terminal, job control, pid and exit
status are the program's own. One line on the standard error says each refused action.

Where raypherd runs, members of its group run agents as themselves. Where it does not, root gets a
private pair for this run. RAYPHER_RUN_DIR names the run folder of a raypherd that was started with
--run-dir; if that one does not answer, nothing is run.

The exit status is the program's; 125 when the guard could not be set up, 126 when the program cannot
be executed or the policy does not let it, 127 when it is not found. In all three cases it was not
started.`,
		Example: `  raypher run --policy policy.yaml -- bash
  raypher run --policy policy.yaml --manifest clawmanifest.json -- openclaw agent --local -m "hello"
  raypher run --policy policy.yaml --dry-run -- make`,
		Args:                  cobra.ArbitraryArgs,
		DisableFlagsInUseLine: true,
		RunE:                  func(_ *cobra.Command, args []string) error { return notStarted(start.Run(o, args)) },
	}
	start.RunFlags(c.Flags(), &o)
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return notStarted(start.NotStarted(fmt.Errorf("run: %w: see raypher run --help", err)))
	})
	return c
}

// notStarted ends this process with the code of a run whose program was not started.
func notStarted(f *launch.Failure) error { return &exitError{code: f.Code, err: f.Err} }
