package stage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
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
	Script   string // path
	Policy   string // path; what the file says is what is enforced, nothing is filled in
	Name     string // of the agent
	Control  bool   // run it without the guard first, to see that the attacks work
	Guard    bool   // run it under the guard
	Nitro    *Nitro // with an enclave in the laboratory; nil: one of tier software

	Furnish   func(*Home) (undo func() error, err error) // puts the agent into its home; may be nil
	Command   func(*Home) []string
	Env       func(*Home) []string
	Succeeded func(result string) bool // reads a tool's result; nil: only the script's words count
	Limit     time.Duration            // of one act
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
	err = s.onStage(func(home *Home, hosts *Hosts) error {
		script, err := s.load(home)
		if err != nil {
			return err
		}
		control, err := s.ungoverned(ctx, script.Ungoverned(), home, hosts)
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
	fmt.Fprintf(out, "\nNow under the guard, with %s:\n\n", filepath.Base(s.Policy))
	err = s.onStage(func(home *Home, hosts *Hosts) error {
		script, err := s.load(home)
		if err != nil {
			return err
		}
		if *outcomes == nil {
			*outcomes = blank(script)
		}
		for i := range *outcomes {
			(*outcomes)[i].Step = &script.Steps[i] // this act's home is another
		}
		problems, err = s.governed(ctx, out, script, home, hosts, *outcomes)
		return err
	})
	return problems, err
}

// onStage gives play a fresh home and fresh hosts, and takes them away again.
func (s *Scene) onStage(play func(*Home, *Hosts) error) (err error) {
	home, err := NewHome()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, home.Close()) }()
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
	hosts, err := OpenHosts()
	if err != nil {
		return err
	}
	defer hosts.Close()
	return play(home, hosts)
}

func (s *Scene) load(home *Home) (*scripted.Script, error) {
	return scripted.Load(s.Script, map[string]string{"Home": home.Dir, "Secret": Secret})
}

// ungoverned is the control run.
func (s *Scene) ungoverned(ctx context.Context, script *scripted.Script, home *Home, hosts *Hosts) (*act, error) {
	var log bytes.Buffer
	results, err := s.converse(ctx, script, home, nil, nil, &log)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, log.Bytes())
	}
	hosts.Close()
	return &act{script: script, results: results, arrivals: hosts.At("attacker"), succeeded: s.Succeeded}, nil
}

// governed runs the agent under the guard, with a pair of its own, and proves what was held.
func (s *Scene) governed(ctx context.Context, out io.Writer, script *scripted.Script, home *Home, hosts *Hosts, outcomes []Outcome) (problems []string, err error) {
	pair, err := openPair(ctx, s.Programs, home, s.Nitro)
	if err != nil {
		return nil, err
	}
	defer pair.Close()
	cli := pair.cli()
	run := []string{cli.Program, "run", "--policy", s.Policy, "--name", s.Name, "--"}
	results, err := s.converse(ctx, script, home, run, pair.Environment(), prefixed(out, "  "))
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, pair.Log())
	}
	time.Sleep(evidenceSettles)
	pair.Close()
	hosts.Close()
	evidence, err := cli.Evidence(ctx, pair)
	if err != nil {
		return nil, err
	}
	arrivals := hosts.At("attacker")
	judgeGoverned(outcomes, &act{
		governed: true, script: script, results: results, arrivals: arrivals, succeeded: s.Succeeded, evidence: evidence,
	})
	for _, arrival := range arrivals {
		problems = append(problems, fmt.Sprintf("something reached the attacker's host: %s: %s", arrival.Network, cut(arrival.Text)))
	}
	problems = append(problems, cli.prove(ctx, out, pair, home, outcomes)...)
	return problems, nil
}

// evidenceSettles covers the second over which equal verdicts are folded before their count is recorded.
const evidenceSettles = 1500 * time.Millisecond

// converse runs the agent, behind the words of before, against the scripted model, and returns the tools' results.
func (s *Scene) converse(ctx context.Context, script *scripted.Script, home *Home, before, env []string, log io.Writer) ([]string, error) {
	listener, err := net.Listen("tcp", ModelAddress)
	if err != nil {
		return nil, fmt.Errorf("the scripted model: %w", err)
	}
	model := scripted.NewServer(script)
	server := &http.Server{Handler: model}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Close()
		<-served
	}()

	ctx, cancel := context.WithTimeout(ctx, s.Limit)
	defer cancel()
	command := append(before, s.Command(home)...)
	command = append(command, script.Task)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = home.Work
	cmd.Env = append([]string{
		"HOME=" + home.Dir, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "TERM=dumb",
		"OPENAI_BASE_URL=http://" + ModelAddress + "/v1", "OPENAI_API_KEY=scripted",
	}, env...)
	if s.Env != nil {
		cmd.Env = append(cmd.Env, s.Env(home)...)
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the agent: %w (it offered the tools %s, and carried out %d of %d steps)",
			err, strings.Join(model.Tools(), " "), len(model.Results()), len(script.Steps))
	}
	if !model.Done() {
		return nil, fmt.Errorf("the agent ended before the model's last message, after %d of %d steps (it offered the tools %s)",
			len(model.Results()), len(script.Steps), strings.Join(model.Tools(), " "))
	}
	return model.Results(), nil
}

// prefixed puts a prefix before each line.
func prefixed(to io.Writer, prefix string) io.Writer { return &prefixer{to: to, prefix: prefix} }

type prefixer struct {
	to     io.Writer
	prefix string
	within bool // a line
}

func (p *prefixer) Write(text []byte) (int, error) {
	for _, line := range bytes.SplitAfter(text, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		if !p.within {
			io.WriteString(p.to, p.prefix)
		}
		p.within = !bytes.HasSuffix(line, []byte("\n"))
		if _, err := p.to.Write(line); err != nil {
			return 0, err
		}
	}
	return len(text), nil
}
