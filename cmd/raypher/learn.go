package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cmd/internal/start"
	"github.com/raypher/raypher/draft"
	"github.com/raypher/raypher/manifest"
	"github.com/raypher/raypher/parent/launch"
	"github.com/raypher/raypher/trace"
)

// codeIncomplete ends learn when the draft was made and something that the runs did is missing in it.
const codeIncomplete = 3

// What learn writes into its folder.
const (
	learnedPolicy = "policy.yaml"
	learnedTrace  = "trace.jsonl"
)

// learnOptions are the flags of learn.
type learnOptions struct {
	out, name, risky string
	merge            []string
	many             int
}

func learnCommand() *cobra.Command {
	var o learnOptions
	c := &cobra.Command{
		Use:   "learn [flags] [--] program [arguments...]",
		Short: "Run a program in mode audit and draft the narrowest policy for what it did",
		Long: `learn runs a program in mode audit, in which nothing is refused, and drafts from what it did the narrowest policy.yaml and
clawmanifest.json that let it do the same again. With --merge, what earlier runs did counts too; without a program, nothing else does.

Paths are folded to patterns by the rules in docs/learning.md. What is risky (keys, credentials, sockets that act with other
rights, cloud metadata, files that other programs run) is marked and, unless --risky says otherwise, withheld: it stands in the policy
as a comment. Read the draft before you use it: it grants whatever the program did.

The exit status is 0 when the draft is complete, 3 when something that was done is missing in it, 1 when there is none, and 125, 126
or 127 when the program was not started, as with raypher run. What the program itself ended with is printed.`,
		Example: `  raypher learn -- python3 agent.py
  raypher learn --merge raypher-learned --out raypher-learned -- python3 agent.py --other-task
  raypher run --policy raypher-learned/policy.yaml -- python3 agent.py`,
		Args:                  cobra.ArbitraryArgs,
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			return learn(c.ErrOrStderr(), o, args)
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().StringVar(&o.out, "out", "raypher-learned", "folder for policy.yaml, clawmanifest.json and trace.jsonl")
	c.Flags().StringArrayVar(&o.merge, "merge", nil, "trace of an earlier run, or the folder that learn wrote; may be repeated")
	c.Flags().StringVar(&o.name, "name", "", "name of the agent and of the skill (default: the program's)")
	c.Flags().StringVar(&o.risky, "risky", string(draft.Comment), "what becomes of risky rules: comment (withheld), ask (a person is asked; files only), keep")
	c.Flags().IntVar(&o.many, "many", 8, "entries of one folder that become a pattern for all of them")
	return c
}

// learn runs, drafts and writes.
func learn(out io.Writer, o learnOptions, argv []string) error {
	if err := o.check(argv); err != nil {
		return &exitError{codeUsage, fmt.Errorf("learn: %w", err)}
	}
	var traces []*trace.Trace
	for _, path := range o.merge {
		t, err := readTrace(path)
		if err != nil {
			return usageError(err)
		}
		traces = append(traces, t)
	}
	folder, err := openFolder(o.out) // before the run, which could put another in its place
	if err != nil {
		return fmt.Errorf("learn: --out: %w", err)
	}
	defer folder.Close()
	said := ""
	if len(argv) > 0 {
		t, ended, err := observedRun(o.name, argv)
		if err != nil {
			return err
		}
		said = ended
		traces = append(traces, t)
	}
	all := trace.Merge(traces...)
	d := draft.New(all, draft.Options{Risky: draft.Risky(o.risky), Many: o.many})
	m := o.manifest(d, all)
	if err := o.write(folder, d, m, all, len(traces)); err != nil {
		return fmt.Errorf("learn: %w", err)
	}
	o.tell(out, d, m, all, len(traces), said)
	if d.Lost != "" {
		return &exitError{code: codeIncomplete}
	}
	return nil
}

func (o learnOptions) check(argv []string) error {
	switch draft.Risky(o.risky) {
	case draft.Comment, draft.Ask, draft.Keep:
	default:
		return fmt.Errorf("--risky %s: it is comment, ask or keep", o.risky)
	}
	if o.many < 2 {
		return fmt.Errorf("--many %d: at least 2", o.many)
	}
	if len(argv) == 0 && len(o.merge) == 0 {
		return errors.New("no program, and no --merge: raypher learn -- program [arguments...]")
	}
	if len(argv) > 0 {
		if err := start.Outside(); err != nil {
			return err
		}
	}
	for _, name := range []string{learnedTrace, learnedPolicy, manifest.FileName} {
		file := filepath.Join(o.out, name)
		if _, err := os.Lstat(file); err == nil && !o.merges(o.out) {
			return fmt.Errorf("%s exists: merge what was learned with --merge %s, or name another folder with --out", file, o.out)
		}
	}
	return nil
}

// openFolder makes a folder, unless it is there, and opens it.
func openFolder(name string) (*os.Root, error) {
	if err := os.MkdirAll(name, 0o755); err != nil {
		return nil, err
	}
	return os.OpenRoot(name)
}

// merges reports whether what lies in a folder is merged, so that it can be replaced.
func (o learnOptions) merges(folder string) bool {
	for _, path := range o.merge {
		if filepath.Clean(tracePath(path)) == filepath.Join(folder, learnedTrace) {
			return true
		}
	}
	return false
}

// tracePath is the trace that a word on the command line means.
func tracePath(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return filepath.Join(path, learnedTrace)
	}
	return path
}

func readTrace(path string) (*trace.Trace, error) {
	path = tracePath(path)
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("trace: %w: name a trace, or the folder that raypher learn wrote", err)
	}
	defer file.Close()
	t, err := trace.Read(file)
	if err != nil {
		return nil, fmt.Errorf("trace %s: %w", path, err)
	}
	return t, nil
}

// write writes the three files. The trace comes first: the others can be made of it again.
func (o learnOptions) write(folder *os.Root, d *draft.Draft, m *manifest.Manifest, t *trace.Trace, runs int) error {
	text, err := t.Encode()
	if err != nil {
		return err
	}
	head := fmt.Sprintf("Drafted by raypher learn on %s from %d %s of: %s", time.Now().Format(time.DateOnly), runs, plural(runs, "run"), strings.Join(t.Argv, " "))
	policyText := d.YAML(head, "It grants what was done and nothing else. Read it, above all what is marked: note is granted, risky is what it says below.")
	if _, err := d.Policy(); err != nil {
		return fmt.Errorf("the draft is no policy, which is a mistake of this program: %w", err)
	}
	manifestText, err := m.Encode()
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		text []byte
	}{{learnedTrace, text}, {learnedPolicy, policyText}, {manifest.FileName, manifestText}} {
		if err := replace(folder, file.name, file.text); err != nil {
			return fmt.Errorf("write %s: %w: was %s taken away during the run? Run it again with another --out", file.name, err, o.out)
		}
	}
	return nil
}

// replace puts a file into a folder, in place of what has its name. It follows no link: the run may have left one there.
func replace(folder *os.Root, name string, text []byte) error {
	fresh := name + ".new"
	if err := folder.RemoveAll(fresh); err != nil {
		return err
	}
	file, err := folder.OpenFile(fresh, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return folder.Rename(fresh, name)
}

// manifest is the draft as what a skill asks for. It cannot say what listens, sockets, system calls and what a person is asked about.
func (o learnOptions) manifest(d *draft.Draft, t *trace.Trace) *manifest.Manifest {
	asks := manifest.Permissions{Filesystem: &manifest.Filesystem{Read: []string{}, Write: []string{}}, Network: &manifest.Network{Egress: []string{}}, Exec: []string{}}
	for _, r := range d.Granted() {
		if r.Grade == draft.GradeRisky && d.Risky != draft.Keep {
			continue
		}
		switch r.List {
		case draft.ListRead:
			asks.Filesystem.Read = append(asks.Filesystem.Read, r.Pattern)
		case draft.ListWrite:
			asks.Filesystem.Write = append(asks.Filesystem.Write, r.Pattern)
		case draft.ListExec:
			asks.Exec = append(asks.Exec, r.Pattern)
		case draft.ListEgress:
			asks.Network.Egress = append(asks.Network.Egress, r.Pattern)
		}
	}
	return &manifest.Manifest{SkillID: skillName(o.name, t.Argv), Version: "0.1.0", Asks: asks}
}

// skillName is a name that a manifest may have.
func skillName(name string, argv []string) string {
	if name == "" && len(argv) > 0 {
		name = filepath.Base(argv[0])
	}
	name = strings.Trim(strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)) {
			return r
		}
		return '-'
	}, name), ".-_")
	if name == "" {
		name = "learned"
	}
	return name[:min(len(name), 128)]
}

// tell sums up what was drafted.
func (o learnOptions) tell(out io.Writer, d *draft.Draft, m *manifest.Manifest, t *trace.Trace, runs int, ended string) {
	say := func(format string, args ...any) { fmt.Fprintf(out, "raypher: "+format+"\n", args...) }
	if ended != "" {
		say("the program ended with %s; the draft covers what it did until then", ended)
	}
	granted, withheld := d.Granted(), d.Withheld()
	say("learned from %d %s: %d different things became %d rules", runs, plural(runs, "run"), len(t.Entries), len(granted))
	const most = 12
	shown := 0
	for _, r := range granted {
		if r.Grade == draft.GradeNone {
			continue
		}
		if shown++; shown <= most {
			word := string(r.Grade)
			if r.Grade == draft.GradeRisky {
				word += ", " + map[draft.Risky]string{draft.Ask: "a person is asked", draft.Keep: "granted"}[d.Risky]
			}
			say("  %s %s (%s: %s)", r.List, terminal(r.Pattern), word, r.Why)
		}
	}
	if shown > most {
		say("  and %d more with a note: see %s", shown-most, filepath.Join(o.out, learnedPolicy))
	}
	for i, r := range withheld {
		if i == most {
			say("  and %d more that are withheld", len(withheld)-most)
			break
		}
		say("  withheld: %s %s (risky: %s)", r.List, terminal(r.Pattern), r.Why)
	}
	for i, text := range d.Beyond {
		if i == most/2 {
			say("  and %d more that no policy grants", len(d.Beyond)-i)
			break
		}
		say("  not granted: %s", terminal(text))
	}
	if n := len(m.Asks.Filesystem.Read) + len(m.Asks.Filesystem.Write) + len(m.Asks.Exec) + len(m.Asks.Network.Egress); n < len(granted) {
		say("a manifest cannot ask for %d of the rules: sockets, listening, system calls, what a person is asked about", len(granted)-n)
	}
	if d.Lost != "" {
		say("INCOMPLETE: %s", terminal(d.Lost))
	}
	say("%s, %s and %s are in %s; next:", learnedPolicy, manifest.FileName, learnedTrace, o.out)
	say("  raypher policy explain %s", filepath.Join(o.out, learnedPolicy))
	say("  raypher run --policy %s -- %s", filepath.Join(o.out, learnedPolicy), terminal(shellWords(t.Argv)))
}

// shellWords are arguments as a POSIX shell reads them.
func shellWords(argv []string) string {
	words := make([]string, len(argv))
	for i, word := range argv {
		if words[i] = word; word == "" || strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:,=@%+") != "" {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

// terminal is text that an agent chose, so that it cannot speak to the terminal.
func terminal(text string) string {
	return strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) { // also what turns the direction of writing
			return '?'
		}
		return r
	}, text)
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}

// notStartedCode reports whether a code of raypher run says that the program was not started. The trace tells it apart from a
// program's own status: there is none.
func notStartedCode(code int) bool {
	return code == launch.CodeGuard || code == launch.CodeNotExecutable || code == launch.CodeNotFound
}
