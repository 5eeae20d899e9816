// Package bypass holds programs that try to get out of the guard, class by class (docs/bypasses.md). Each runs as a person would
// run it, with the built programs; whether it got out is seen from outside.
package bypass

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/test/governed"
)

func TestMain(m *testing.M) { os.Exit(governed.Main(m)) }

// limit is how long one agent may take.
const limit = 3 * time.Minute

// narrow grants a tree, a glob and two programs.
const narrow = `
mode: enforce
filesystem:
  read: [PROGRAM, /sys/kernel/mm/transparent_hugepage/**, /sys/fs/cgroup/**, /proc/self/**, FOLDER/r/**, FOLDER/w/**, "FOLDER/g/*.txt"]
  write: [FOLDER/w/**, "FOLDER/g/*.txt"]
  exec: [PROGRAM]
network: {unix: [FOLDER/sock/yes]}
`

// everything is the widest policy: only what no policy opens is closed.
const everything = `
mode: enforce
filesystem: {read: ["/**"], write: ["/**"], exec: ["/**", PROGRAM]}
network: {unix: ["/**"]}
`

// world is one test's machine, folder and user.
type world struct {
	*governed.Machine
	t       *testing.T
	uid     int
	folder  string
	program string
}

// asUsers runs a test as root and as a plain user, on the pair that these tests share.
func asUsers(t *testing.T, test func(w *world)) {
	t.Helper()
	m := governed.Shared(t)
	for name, uid := range map[string]int{"as root": 0, "as a user": governed.UserID} {
		t.Run(name, func(t *testing.T) { test(newWorld(t, m, uid)) })
	}
}

func newWorld(t *testing.T, m *governed.Machine, uid int) *world {
	t.Helper()
	root, err := os.MkdirTemp(m.Folder, "bypass-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Machine: m, t: t, uid: uid, folder: filepath.Join(root, "f"), program: filepath.Join(root, "probe")}
	raw, err := os.ReadFile(governed.Probe())
	w.must(errors.Join(err, os.Chmod(root, 0o755), os.WriteFile(w.program, raw, 0o755)))
	for _, name := range []string{"r/file", "w/file", "g/a.txt"} {
		w.write(name, "granted")
	}
	for _, name := range []string{"no/file", "no/a.txt"} {
		w.write(name, "secret")
	}
	w.must(os.Mkdir(filepath.Join(w.folder, "sock"), 0o755))
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) path(name string) string { return filepath.Join(w.folder, name) }

func (w *world) write(name, content string) {
	w.t.Helper()
	w.must(os.MkdirAll(filepath.Dir(w.path(name)), 0o755))
	w.must(os.WriteFile(w.path(name), []byte(content), 0o644))
}

// prepare makes an agent that does actions, one for each line of its standard input.
func (w *world) prepare(policy string, argv ...string) *governed.Agent {
	w.t.Helper()
	w.must(filepath.WalkDir(w.folder, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, w.uid, w.uid))
	}))
	text := strings.NewReplacer("FOLDER", w.folder, "PROGRAM", w.program).Replace(policy)
	a, err := w.Prepare(text, w.uid, w.folder, argv...)
	w.must(err)
	return a
}

// do has one agent do actions, each a line of words, and returns their answers.
func (w *world) do(policy string, actions ...string) []string {
	w.t.Helper()
	answers, _ := w.played(policy, actions...)
	return answers
}

// played is do, and returns the agent too.
func (w *world) played(policy string, actions ...string) ([]string, *governed.Agent) {
	w.t.Helper()
	a := w.prepare(policy, w.program, "lines")
	replacer := strings.NewReplacer("FOLDER", w.folder, "PROGRAM", w.program)
	a.Cmd.Stdin = strings.NewReader(replacer.Replace(strings.Join(actions, "\n")) + "\n")
	var out bytes.Buffer
	a.Cmd.Stdout = &out
	w.must(a.Cmd.Start())
	late := time.AfterFunc(limit, func() { _ = a.Cmd.Process.Kill() })
	defer late.Stop()
	if err := a.Cmd.Wait(); err != nil {
		w.t.Fatalf("the agent: %v\n%s%s", err, out.String(), a.Said())
	}
	answers := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(answers) != len(actions) {
		w.t.Fatalf("%d answers to %d actions: %q\n%s", len(answers), len(actions), answers, a.Said())
	}
	return answers, a
}

// expect has one agent do actions and compares the answers; each line is "action => answer", or several that will do, with | between.
func (w *world) expect(policy string, lines ...string) {
	w.t.Helper()
	var actions, wanted []string
	for _, line := range lines {
		action, want, found := strings.Cut(line, " => ")
		if !found {
			want = "ok"
		}
		actions, wanted = append(actions, action), append(wanted, want)
	}
	for i, answer := range w.do(policy, actions...) {
		if !slices.Contains(strings.Split(wanted[i], "|"), answer) {
			w.t.Errorf("%s: answered %s, want %s", actions[i], answer, wanted[i])
		}
	}
}

// unchanged wants files outside the grant as they were, and nothing beside them.
func (w *world) unchanged() {
	w.t.Helper()
	entries, err := os.ReadDir(w.path("no"))
	w.must(err)
	if len(entries) != 2 {
		w.t.Errorf("outside the grant lies %v", entries)
	}
	for _, name := range []string{"no/file", "no/a.txt"} {
		raw, err := os.ReadFile(w.path(name))
		info, statErr := os.Lstat(w.path(name))
		if err != nil || statErr != nil || string(raw) != "secret" || info.Mode() != 0o644 {
			w.t.Errorf("%s: %q, %v, %v", name, raw, err, info)
		}
	}
	if raw, err := os.ReadFile(w.path("r/file")); err != nil || string(raw) != "granted" {
		w.t.Errorf("r/file: %q, %v", raw, err)
	}
}

// sleeper starts a process outside every agent, of the world's user.
func (w *world) sleeper() *exec.Cmd {
	w.t.Helper()
	cmd := exec.Command(w.program, "victim")
	cmd.SysProcAttr = governed.As(w.uid)
	in, err := cmd.StdinPipe()
	w.must(err)
	w.must(cmd.Start())
	w.t.Cleanup(func() { in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// fileOf reads a file of a process in /proc.
func fileOf(pid int, name string) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
