package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/raypher/raypher/examples/scripted"
)

// ModelAddress is where the scripted model listens, inside the demonstration's network namespace.
const ModelAddress = "127.0.0.1:8080"

// Scene is one demonstration: an agent, a policy, and a script.
type Scene struct {
	Title    string
	Programs string // folder with raypher, raypherd and raypher-enclave
	Folder   string // with policy.yaml, which is enforced as it is, and script.json
	Name     string // of the agent
	Person   bool   // the agent is a plain user's, among whose belongings it lives; otherwise root's
	Control  bool   // run it without the guard first, to see that the attacks work
	Guard    bool   // run it under the guard
	Nitro    *Nitro // with an enclave in the laboratory; nil: one of tier software

	Furnish   func(*Home) (undo func() error, err error) // puts the agent into its home; may be nil
	Command   func(*Home) []string
	Env       func(*Home) []string
	Script    func(values map[string]string) (*scripted.Script, error) // nil: script.json
	Succeeded func(result string) bool                                 // reads a tool's result; nil: only the script's words count
	Limit     time.Duration                                            // of one act
}

// Perform runs the scene and reports on out. Whatever differs from the script is an error.
func (s *Scene) Perform(out io.Writer) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fmt.Fprintf(out, "== %s ==\n", s.Title)
	var outcomes []Outcome
	var problems []string
	if s.Control {
		var err error
		if outcomes, err = s.withoutGuard(ctx, out); err != nil {
			return fmt.Errorf("without the guard: %w", err)
		}
	}
	if s.Guard {
		var err error
		if problems, err = s.underGuard(ctx, out, &outcomes); err != nil {
			return fmt.Errorf("under the guard: %w", err)
		}
	}
	if differ := report(out, outcomes); differ > 0 {
		problems = append(problems, fmt.Sprintf("%d of %d steps differ from the policy", differ, len(outcomes)))
	}
	for _, problem := range problems {
		fmt.Fprintln(out, "FAILED:", problem)
	}
	if len(problems) > 0 {
		return ErrReported
	}
	if s.Guard {
		fmt.Fprintf(out, "\nAll %d steps ended as the policy says, and every block is proven.\n", len(outcomes))
	}
	return nil
}

func (s *Scene) withoutGuard(ctx context.Context, out io.Writer) (outcomes []Outcome, err error) {
	fmt.Fprintln(out, "\nFirst without the guard, in a scratch home: the attacks must work, or holding them would prove nothing.")
	err = s.onStage(func(set *set) error {
		script, err := s.load(set)
		if err != nil {
			return err
		}
		control, err := s.ungoverned(ctx, script.Ungoverned(), set)
		if err != nil {
			return err
		}
		outcomes = blank(script)
		judgeControl(outcomes, control)
		return nil
	})
	return outcomes, err
}

func (s *Scene) underGuard(ctx context.Context, out io.Writer, outcomes *[]Outcome) (problems []string, err error) {
	fmt.Fprintf(out, "\nNow under the guard, with %s:\n\n", s.policy())
	err = s.onStage(func(set *set) error {
		script, err := s.load(set)
		if err != nil {
			return err
		}
		if *outcomes == nil {
			*outcomes = blank(script)
		}
		for i := range *outcomes {
			(*outcomes)[i].Step = &script.Steps[i] // this act's home is another
		}
		problems, err = s.governed(ctx, out, script, set, *outcomes)
		return err
	})
	return problems, err
}

func (s *Scene) policy() string { return filepath.Join(s.Folder, "policy.yaml") }

// set is what one act has to itself.
type set struct {
	home     *Home
	hosts    *Hosts
	machine  *Machine // nil without a person
	policy   string   // path; with a person, the person's own copy
	programs string   // folder; with a person, where the person can reach it
}

// onStage gives play a fresh home and fresh hosts, and takes them away again.
func (s *Scene) onStage(play func(*set) error) (err error) {
	home, err := NewHome()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, home.Close()) }()
	set := &set{home: home, policy: s.policy(), programs: s.Programs}
	if s.Person {
		leave, perr := s.populate(set)
		if perr != nil {
			return perr
		}
		defer func() { err = errors.Join(err, leave()) }()
	}
	if s.Furnish != nil {
		undo, ferr := s.Furnish(home)
		if ferr != nil {
			return ferr
		}
		// Before the home is removed: what was mounted into it must not be.
		defer func() { err = errors.Join(err, undo()) }()
	}
	if err := UseResolver(home.Root); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dropResolver()) }()
	if set.hosts, err = OpenHosts(); err != nil {
		return err
	}
	defer set.hosts.Close()
	return play(set)
}

// populate makes the person, with a home, the machine around it, and the programs and the policy where it can reach them.
func (s *Scene) populate(set *set) (leave func() error, err error) {
	var undo []func() error
	leave = func() (err error) {
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
		return err
	}
	fail := func(err error) (func() error, error) { return nil, errors.Join(err, leave()) }
	home := set.home
	set.programs, set.policy = filepath.Join(home.Root, "programs"), home.Path(".config", "raypher", "policy.yaml")
	remove, err := Show(s.Programs, set.programs)
	if err != nil {
		return fail(err)
	}
	undo = append(undo, remove)
	text, err := os.ReadFile(s.policy())
	err = errors.Join(err, os.MkdirAll(filepath.Dir(set.policy), 0o755), os.WriteFile(set.policy, text, 0o644), home.settle())
	if err != nil {
		return fail(err)
	}
	if err := enrol(home); err != nil {
		return fail(err)
	}
	undo = append(undo, func() error { return dismiss(home) })
	if set.machine, err = OpenMachine(); err != nil {
		return fail(err)
	}
	undo = append(undo, set.machine.Close)
	return leave, nil
}

// load reads the script, in which each {{.Name}} stands for something of this act.
func (s *Scene) load(set *set) (*scripted.Script, error) {
	values := map[string]string{"Home": set.home.Dir, "Secret": Secret, "Root": set.home.Root, "Policy": set.policy}
	if set.machine != nil {
		values["Bystander"] = strconv.Itoa(set.machine.Bystander)
	}
	if s.Script != nil {
		return s.Script(values)
	}
	return scripted.Load(filepath.Join(s.Folder, "script.json"), values)
}

// ungoverned is the control run.
func (s *Scene) ungoverned(ctx context.Context, script *scripted.Script, set *set) (*act, error) {
	var log bytes.Buffer
	results, err := s.converse(ctx, script, set, nil, nil, &log)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, log.Bytes())
	}
	set.hosts.Close()
	return &act{script: script, results: results, arrivals: set.hosts.At("attacker"), succeeded: s.Succeeded}, nil
}

// governed runs the agent under the guard, with a pair of its own, and proves what was held.
func (s *Scene) governed(ctx context.Context, out io.Writer, script *scripted.Script, set *set, outcomes []Outcome) (problems []string, err error) {
	var flags []string
	if s.Person {
		flags = []string{"--group", personName}
	}
	pair, err := openPair(ctx, set.programs, set.home, s.Nitro, flags...)
	if err != nil {
		return nil, err
	}
	defer pair.Close()
	before, err := set.home.fingerprint()
	if err != nil {
		return nil, err
	}
	cli := pair.cli()
	run := []string{cli.Program, "run", "--policy", set.policy, "--name", s.Name, "--"}
	said := prefixed(out, "  ")
	person := newOperator(cli, script, said)
	leave := person.attend(ctx)
	results, err := s.converse(ctx, script, set, run, pair.Environment(), said)
	problems = leave()
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, pair.Log())
	}
	time.Sleep(evidenceSettles)
	pair.Close()
	set.hosts.Close()
	evidence, err := cli.Evidence(ctx, pair)
	if err != nil {
		return nil, err
	}
	arrivals := set.hosts.At("attacker")
	judgeGoverned(outcomes, &act{
		governed: true, script: script, results: results, arrivals: arrivals, succeeded: s.Succeeded, evidence: evidence,
	})
	for _, arrival := range arrivals {
		problems = append(problems, fmt.Sprintf("something reached the attacker's host: %s: %s", arrival.Network, cut(arrival.Text)))
	}
	after, err := set.home.fingerprint()
	if err != nil {
		return nil, err
	}
	problems = append(problems, changed(before, after)...)
	if set.machine != nil {
		problems = append(problems, set.machine.problems()...)
	}
	return append(problems, cli.prove(ctx, out, pair, set.home, outcomes)...), nil
}

// evidenceSettles covers the second over which equal verdicts are folded before their count is recorded.
const evidenceSettles = 1500 * time.Millisecond
