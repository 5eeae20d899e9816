package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/test/probe"
)

// Guard starts agents.
type Guard interface {
	// Backend is the one that decides about files: Broker or LSM.
	Backend() string
	// Launch prepares the run of a program under a policy, as a user, in a folder. Its standard input and output are the program's;
	// nothing is started yet.
	Launch(policy string, uid int, folder string, argv []string) (Run, error)
}

// Run is one agent.
type Run interface {
	// Command is what starts the agent.
	Command() *exec.Cmd
	// Verdicts are those that were told so far.
	Verdicts() ([]journal.Verdict, error)
	// Close waits for what remains of a run that has ended.
	Close() error
}

// patience bounds the wait for one answer and for the verdicts; an emulated machine takes its time.
const patience = time.Minute

// Play plays all cases of a setting for one user, in a folder below parent, with the probe's program, and tells each deviation. An
// error means that the setting could not be played.
func Play(g Guard, s Setting, uid int, parent, program string, deviates func(Case, string)) error {
	w, err := newWorld(parent, program, uid)
	if err != nil {
		return err
	}
	defer w.Close()
	if s.Furnish != nil {
		if err := s.Furnish(w); err != nil {
			return fmt.Errorf("furnish %s: %w", s.Name, err)
		}
	}
	if err := w.give(); err != nil {
		return err
	}
	run, err := g.Launch(w.expand(s.Policy), uid, w.Folder, []string{w.Program, "serve"})
	if err != nil {
		return fmt.Errorf("launch %s: %w", s.Name, err)
	}
	return play(g.Backend(), s, w, run, deviates)
}

// play speaks with the probe.
func play(backend string, s Setting, w *World, run Run, deviates func(Case, string)) error {
	cmd := run.Command()
	ask, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	watchdog := time.AfterFunc(5*patience, func() { _ = cmd.Process.Kill() })
	defer watchdog.Stop()
	a := &attempt{backend: backend, setting: s, world: w, run: run, deviates: deviates, ask: json.NewEncoder(ask), answers: json.NewDecoder(answers)}
	err = a.cases()
	if err == nil {
		err = a.verdicts()
	}
	ask.Close()
	_, _ = io.Copy(io.Discard, answers)
	ended := cmd.Wait()
	err = errors.Join(err, run.Close())
	var exit *exec.ExitError
	switch {
	case s.Dies && err == nil && (!errors.As(ended, &exit) || exit.ExitCode() >= 0):
		deviates(s.Sections[0].Cases[0], fmt.Sprintf("the agent ended with %v, want it killed", ended))
	case !s.Dies && ended != nil:
		err = errors.Join(err, fmt.Errorf("%s: the agent: %w", s.Name, ended))
	}
	return err
}

// attempt is one agent that plays a setting.
type attempt struct {
	backend  string
	setting  Setting
	world    *World
	run      Run
	deviates func(Case, string)
	ask      *json.Encoder
	answers  *json.Decoder
	wanted   []string        // reports
	byReport map[string]Case // whose they are
}

// applies reports whether a case is for this user and machine.
func (a *attempt) applies(c Case) bool {
	if c.arch != "" && c.arch != runtime.GOARCH {
		return false
	}
	if c.setsAttribute() && !a.world.attributes {
		return false
	}
	return !c.scoped || a.backend == LSM || floor.SignalsHeld()
}

func (a *attempt) cases() error {
	a.byReport = map[string]Case{}
	before, err := a.world.look()
	if err != nil {
		return err
	}
	for _, section := range a.setting.Sections {
		for _, c := range section.Cases {
			if !a.applies(c) {
				continue
			}
			if before, err = a.one(c, before); err != nil {
				return err
			}
		}
	}
	return nil
}

// one plays a case and returns the state after it.
func (a *attempt) one(c Case, before state) (state, error) {
	request := make([][]byte, len(c.Do))
	for i := range c.Do {
		request[i] = []byte(a.world.expand(c.Do[i]))
	}
	want := c.under(a.backend, a.world.uid)
	if c.scoped && c.lsm != nil && a.backend == LSM && floor.SignalsHeld() {
		want.report = "" // Landlock's scopes refuse before the hook
	}
	var answer string
	err := a.ask.Encode(request)
	if err == nil {
		err = a.answers.Decode(&answer)
	}
	if a.setting.Dies && err != nil {
		answer, err = "killed", nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: the agent does not answer: %w", a.setting.Name, c.Name, err)
	}
	if answer == probe.ErrNoCall || c.late && answer == "ENOSYS" {
		return before, nil
	}
	if answer != want.want {
		a.deviates(c, fmt.Sprintf("%q answered %s, want %s", c.Do, answer, want.want))
	}
	after, err := a.world.look()
	if err != nil {
		return nil, err
	}
	changed := before.changes(after)
	for end := time.Now().Add(5 * time.Second); changed != want.effect && strings.Contains(want.effect, "reached") && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond) // the peer of a socket counts in its own time
		if after, err = a.world.look(); err != nil {
			return nil, err
		}
		changed = before.changes(after)
	}
	if changed != want.effect {
		a.deviates(c, fmt.Sprintf("%q changed %q, want %q", c.Do, changed, want.effect))
	}
	if want.report != "" {
		report := a.world.expand(want.report)
		a.wanted = append(a.wanted, report)
		a.byReport[report] = c
	}
	return after, nil
}

// verdicts compares what was reported with what the cases want. Equal ones may be folded. What a raypherd tells takes a while.
func (a *attempt) verdicts() error {
	slices.Sort(a.wanted)
	a.wanted = slices.Compact(a.wanted)
	var got []string
	for end := time.Now().Add(patience / 4); ; time.Sleep(20 * time.Millisecond) {
		all, err := a.run.Verdicts()
		if err != nil {
			return err
		}
		got = nil
		for _, v := range all {
			got = append(got, a.report(v))
		}
		slices.Sort(got)
		got = slices.Compact(got)
		missing := slices.ContainsFunc(a.wanted, func(r string) bool { return !slices.Contains(got, r) })
		if !missing || time.Now().After(end) {
			break
		}
	}
	for _, report := range a.wanted {
		if !slices.Contains(got, report) {
			a.deviates(a.byReport[report], "not reported: "+report)
		}
	}
	for _, report := range got {
		if !slices.Contains(a.wanted, report) {
			a.deviates(Case{Name: "(all)"}, "reported and not wanted: "+report)
		}
	}
	return nil
}

// report is a verdict as the table writes it.
func (a *attempt) report(v journal.Verdict) string {
	short := func(text string) string { return strings.ReplaceAll(text, a.world.Folder+"/", "") }
	target := strings.Replace(short(v.Target), fmt.Sprintf("/proc/%d/", v.PID), "/proc/SELFPID/", 1)
	if shell, err := filepath.EvalSymlinks("/bin/sh"); err == nil && target == shell {
		target = "SHELL"
	}
	text := v.Operation + " " + target
	if v.Rule != "" {
		text += " | " + short(v.Rule)
	}
	if want := a.setting.Decision; v.Decision != want && (want != "" || v.Decision != journal.Block) {
		text = v.Decision + " " + text
	}
	return text
}
