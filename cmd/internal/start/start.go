// Package start holds the two commands on which every start of an agent waits: run and warden. Two programs have them, and
// wire nothing else alike: cmd/raypher, where all commands are, and cmd/raypher-run, which has these alone.
package start

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/launch"
	"github.com/raypher/raypher/parent/relay"
	"github.com/raypher/raypher/parent/warden"
)

// RunFlags defines the flags of run.
func RunFlags(set *pflag.FlagSet, o *launch.Options) {
	set.SetInterspersed(false) // what follows the program is its own
	set.StringVar(&o.PolicyPath, "policy", "", "policy of this run, a file, or fleet:NAME for one of the host's controller (default: the host's)")
	set.StringVar(&o.ManifestPath, "manifest", "", "skill whose clawmanifest.json narrows the policy: its folder, or that file")
	set.StringVar(&o.ManifestSigners, "signers", "", "folder with the keys of those whose manifests are trusted (default: the host's)")
	set.StringVar(&o.Name, "name", "", "name of the agent (default: the program's)")
	set.StringVar(&o.Budget, "budget", "", "dollars that this run may spend on models in its life, like 2.50; what the cost control says is never exceeded")
	set.BoolVar(&o.DryRun, "dry-run", false, "refuse nothing, report what would have been refused, and which rules would allow it")
	set.StringVar(&o.ReportPath, "report", "", "in mode audit, and with --dry-run: write what would have been refused to this file, as JSON")
	set.IntVar(&o.TraceFD, "trace-fd", 0, "descriptor that takes the trace of a run in mode audit")
	_ = set.MarkHidden("trace-fd") // for raypher learn
	set.BoolVar(&o.Quiet, "quiet", false, "print neither the first line nor refused actions")
	set.BoolVar(&o.JSON, "json", false, "print the first line and refused actions as one JSON object a line")
}

// Run starts a program under the guard in place of this process. It returns only when that failed.
func Run(o launch.Options, program []string) *launch.Failure {
	switch {
	case len(program) == 0:
		return NotStarted(errors.New("run: no program: raypher run --policy policy.yaml -- program [arguments...]"))
	case o.Quiet && o.JSON:
		return NotStarted(errors.New("run: --quiet and --json exclude each other: choose one"))
	}
	if err := Outside(); err != nil {
		return NotStarted(fmt.Errorf("run: %w", err))
	}
	o.Argv = program
	return launch.Run(o)
}

// NotStarted is the failure of a run whose command line is wrong: never to be taken for the program's own exit status.
func NotStarted(err error) *launch.Failure { return &launch.Failure{Code: launch.CodeGuard, Err: err} }

// Outside refuses what is asked from inside an agent, where raypherd answers nothing of it.
func Outside() error {
	if os.Getenv(instance.AgentIDVariable) == "" {
		return nil
	}
	return errors.New("this is a governed program, to which raypherd and its journals are closed: ask from outside the agent")
}

// conversationFD is where `raypher run` leaves the warden's end of their conversation.
const conversationFD = 3

// WardenFlags are what a warden is told.
type WardenFlags struct {
	Socket string // of raypherd
	JSON   bool
	Trace  int // descriptors; 0: none
	Report int
}

// Define defines the flags of warden.
func (f *WardenFlags) Define(set *pflag.FlagSet) {
	set.StringVar(&f.Socket, "socket", "", "socket of raypherd")
	set.BoolVar(&f.JSON, "json", false, "print events as JSON")
	set.IntVar(&f.Trace, "trace-fd", 0, "descriptor for the trace")
	set.IntVar(&f.Report, "report-fd", 0, "descriptor for the report")
}

// ErrTold is an error of which the runner, or the person at the terminal, was told.
var ErrTold = errors.New("told")

// Warden is what `raypher run` starts beside each agent. It returns when the agent has gone.
func Warden(f WardenFlags) error {
	if domain, err := unix.GetsockoptInt(conversationFD, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || domain != unix.AF_UNIX {
		return errors.New("warden: this command is for `raypher run`, which starts it")
	}
	if err := warden.Harden(); err != nil {
		return err
	}
	err := warden.Run(context.Background(), warden.Options{
		Runner: warden.Inherited(conversationFD), Connect: warden.Dial(f.Socket), Output: os.Stderr,
		Relay: relay.NewClient(instance.RelayBeside(f.Socket)),
		Trace: warden.InheritedFile(f.Trace, "trace"), Report: warden.InheritedFile(f.Report, "report"),
		JSON: f.JSON, Color: term.IsTerminal(int(os.Stderr.Fd())) && os.Getenv("NO_COLOR") == "",
	})
	if err != nil {
		return ErrTold
	}
	return nil
}
