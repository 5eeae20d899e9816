package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

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
--run-dir.

The exit status is the program's; 125 when the guard could not be set up, 126 when the program cannot
be executed or the policy does not let it, 127 when it is not found. In all three cases it was not
started.`,
		Example: `  raypher run --policy policy.yaml -- bash
  raypher run --policy policy.yaml --manifest clawmanifest.json -- openclaw agent --local -m "hello"
  raypher run --policy policy.yaml --dry-run -- make`,
		Args:                  cobra.ArbitraryArgs,
		DisableFlagsInUseLine: true,
		RunE: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return notStarted(errors.New("run: no program: raypher run --policy policy.yaml -- program [arguments...]"))
			case o.Quiet && o.JSON:
				return notStarted(errors.New("run: --quiet and --json exclude each other: choose one"))
			}
			if err := outside(); err != nil {
				return notStarted(fmt.Errorf("run: %w", err))
			}
			o.Argv = args
			err := launch.Run(o)
			var f *launch.Failure
			if errors.As(err, &f) {
				return &exitError{code: f.Code, err: f.Err}
			}
			return err
		},
	}
	flags := c.Flags()
	flags.SetInterspersed(false) // what follows the program is its own
	flags.StringVar(&o.PolicyPath, "policy", "", "policy of this run (default: the host's)")
	flags.StringVar(&o.ManifestPath, "manifest", "", "skill whose clawmanifest.json narrows the policy: its folder, or that file")
	flags.StringVar(&o.ManifestSigners, "signers", "", "folder with the keys of those whose manifests are trusted (default: the host's)")
	flags.StringVar(&o.Name, "name", "", "name of the agent (default: the program's)")
	flags.BoolVar(&o.DryRun, "dry-run", false, "refuse nothing, report what would have been refused")
	flags.BoolVar(&o.Quiet, "quiet", false, "print neither the first line nor refused actions")
	flags.BoolVar(&o.JSON, "json", false, "print them as one JSON object a line")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return notStarted(fmt.Errorf("run: %w: see raypher run --help", err))
	})
	return c
}

// notStarted is the failure of a run whose command line is wrong: never to be taken for the program's own exit status.
func notStarted(err error) error { return &exitError{code: launch.CodeGuard, err: err} }
