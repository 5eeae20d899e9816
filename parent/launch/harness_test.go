package launch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/parent/relay"
	"github.com/raypher/raypher/parent/warden"
	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/test/probe"
)

// The test binary plays every part: with one of these as its name or first argument it is a warden without raypherd, a runner,
// or the program that is guarded.
const (
	roleWarden = "raypher-test-warden"
	roleRunner = "raypher-test-runner"
	roleProbe  = "raypher-test-probe"
)

func TestMain(m *testing.M) {
	switch {
	case os.Args[0] == roleWarden:
		os.Exit(playWarden())
	case len(os.Args) > 1 && os.Args[1] == roleRunner:
		os.Exit(playRunner(os.Args[2:]))
	case len(os.Args) > 1 && os.Args[1] == roleProbe:
		os.Exit(probe.Main(os.Args[2:]))
	case len(os.Args) > 1 && strings.HasPrefix(os.Args[1], roleProbe+"-"): // a part of it: lines, i386
		os.Exit(probe.Main([]string{strings.TrimPrefix(os.Args[1], roleProbe+"-")}))
	}
	os.Exit(m.Run())
}

// playRunner is `raypher run` with a warden of this binary. Its arguments are the policy, the file for verdicts and the command.
func playRunner(args []string) int {
	flags := flag.NewFlagSet("runner", flag.ContinueOnError)
	loud := flags.Bool("loud", false, "print the bound line and verdicts")
	dry := flags.Bool("dry-run", false, "")
	signals := flags.Bool("signals", false, "let the warden decide signals")
	relayed := flags.Bool("relayed", false, "keep the warden from the agent, as Yama does")
	if flags.Parse(args) != nil {
		return 2
	}
	rest := flags.Args()
	play := []string{roleWarden}
	if *relayed {
		play = append(play, "--relayed")
	}
	failed := Run(Options{
		PolicyPath: rest[0], Socket: rest[1], Quiet: !*loud, DryRun: *dry, Warden: play, Argv: rest[2:],
		signals: *signals,
	})
	fmt.Fprintln(os.Stderr, "raypher:", failed)
	return failed.Code
}

// playWarden is a warden whose raypherd is a file: what the policy says is granted, verdicts are appended.
func playWarden() int {
	flags := flag.NewFlagSet("warden", flag.ContinueOnError)
	out := flags.String("socket", "", "file for verdicts")
	asJSON := flags.Bool("json", false, "")
	relayed := flags.Bool("relayed", false, "")
	if flags.Parse(os.Args[1:]) != nil {
		return 2
	}
	err := warden.Harden()
	if err == nil && *relayed {
		err = forbidLooking()
	}
	if err == nil {
		err = warden.Run(context.Background(), warden.Options{
			Runner: warden.Inherited(3), Output: os.Stderr, JSON: *asJSON,
			Connect: func(context.Context) (warden.Session, error) { return newFileSession(*out) },
			Relay:   relay.NewClient(*out + relaySuffix), Relayed: *relayed,
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "warden:", err)
		return 1
	}
	return 0
}

// fileSession stands in for raypherd.
type fileSession struct {
	file    *os.File
	answers chan *attend.ParentMessage
	once    sync.Once
	failed  error // the answer to the launch
	person  *person
}

func newFileSession(path string) (*fileSession, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	return &fileSession{file: file, answers: make(chan *attend.ParentMessage, 4)}, err
}

// Files beside the file for verdicts, for tests that need more of raypherd.
const (
	pidSuffix    = ".warden" // the warden's pid
	narrowSuffix = ".narrow" // a policy to which the permit is narrowed at the start
	expectSuffix = ".expect" // a policy that is expected to be granted and is not
)

func (s *fileSession) Send(m *attend.WardenMessage) error {
	switch {
	case m.Launch != nil:
		if s.failed = s.launch(m.Launch); s.failed != nil {
			close(s.answers)
		}
		return s.failed
	case m.Reported != nil:
		v, err := journal.DecodeVerdict(m.Reported.Verdict)
		if err != nil {
			return err
		}
		line, _ := json.Marshal(v)
		_, err = s.file.Write(append(line, '\n'))
		return err
	case m.Asked != nil, m.Withdrawn != nil:
		return s.ask(m)
	}
	return nil
}

func (s *fileSession) launch(l *attend.Launch) error {
	if err := os.WriteFile(s.file.Name()+pidSuffix, fmt.Append(nil, os.Getpid()), 0o644); err != nil {
		return err
	}
	permit, err := readPermit(l.Policy, l.DryRun)
	if err != nil {
		return err
	}
	terms := attend.Terms{
		Permit: permit.Canonical(), AgentSocket: s.file.Name() + ".sock",
		ClosedPaths: []string{filepath.Join(filepath.Dir(filepath.Dir(s.file.Name())), "state")},
	}
	expected := terms
	if raw, err := os.ReadFile(s.file.Name() + expectSuffix); err == nil {
		other, err := readPermit(raw, false)
		if err != nil {
			return err
		}
		expected.Permit = other.Canonical()
	}
	s.answers <- &attend.ParentMessage{Expected: &expected}
	s.answers <- &attend.ParentMessage{Granted: &attend.Granted{
		AgentID: "test", Subject: "spiffe://test/ns/test/agent/test", Tier: "software", Backend: "broker",
		Terms: terms, Visa: []byte("the visa"), VisaPath: s.file.Name() + ".visa",
	}}
	if raw, err := os.ReadFile(s.file.Name() + narrowSuffix); err == nil {
		narrowed, err := readPermit(raw, false)
		if err != nil {
			return err
		}
		s.answers <- &attend.ParentMessage{Narrowed: &attend.Narrowed{
			Permit: narrowed.Canonical(), Visa: []byte("a narrower visa"),
		}}
	}
	return nil
}

func readPermit(raw []byte, dry bool) (*policy.Policy, error) {
	p, err := policy.Parse("policy", raw)
	if err != nil {
		return nil, err
	}
	if p, err = p.Expand("/nonexistent"); err != nil {
		return nil, err
	}
	if dry {
		audit := *p
		audit.Mode = policy.Audit
		p = &audit
	}
	return p, nil
}

func (s *fileSession) Recv() (*attend.ParentMessage, error) {
	m, ok := <-s.answers
	if !ok && s.failed != nil {
		return &attend.ParentMessage{Refused: &attend.Refused{Reason: s.failed.Error()}}, nil
	}
	if !ok {
		return nil, io.EOF
	}
	return m, nil
}

func (s *fileSession) CloseSend() error {
	s.once.Do(func() { close(s.answers) })
	return nil
}

// agent is a guarded run of one test.
type agent struct {
	t        testing.TB
	self     string // a copy of this binary that every user may execute
	folder   string // the test's own, owned by the agent's user
	uid      int
	verdicts string
	policy   string
	flags    []string
	mounted  []string // file systems of the kernel in the folder, which keep their owners
}

// asUsers runs a test as root and as a plain user, or only as the user who runs the tests when that is not root.
func asUsers(t *testing.T, test func(t *testing.T, uid int)) {
	needLandlock(t)
	if os.Getuid() != 0 {
		t.Run("as this user", func(t *testing.T) { test(t, os.Getuid()) })
		return
	}
	t.Run("as root", func(t *testing.T) { test(t, 0) })
	t.Run("as a user", func(t *testing.T) { test(t, 65533) })
}

func needLandlock(t *testing.T) {
	t.Helper()
	if _, err := floor.ABI(); err != nil {
		t.Skip(err)
	}
}

// newAgent prepares a run under a policy in which FOLDER stands for the test's folder and SELF for the probe.
func newAgent(t testing.TB, uid int, text string) *agent {
	t.Helper()
	folder, err := os.MkdirTemp("", "raypher-launch-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	a := &agent{t: t, uid: uid, folder: folder, self: filepath.Join(folder, "probe")}
	a.verdicts, a.policy = filepath.Join(folder, "run/verdicts"), filepath.Join(folder, "policy.yaml")
	raw, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	a.write("probe", string(raw))
	a.must(os.Chmod(a.self, 0o755))
	a.write("run/verdicts", "")
	a.write("run/verdicts.visa", "")
	a.write("policy.yaml", a.expand(text))
	if os.Getenv(relayedVariable) != "" {
		a.relay()
	}
	return a
}

func (a *agent) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

func (a *agent) expand(text string) string {
	return strings.NewReplacer("FOLDER", a.folder, "SELF", a.self, "LIBRARIES", libraries).Replace(text)
}

// libraries lets a dynamically linked program start.
const libraries = "/usr/**, /lib/**, /lib64/**, /etc/**, /sys/kernel/mm/transparent_hugepage/**, /sys/fs/cgroup/**, /proc/**"

// write makes a file in the test's folder, and the folders above it.
func (a *agent) write(name, content string) string {
	a.t.Helper()
	path := filepath.Join(a.folder, name)
	a.must(os.MkdirAll(filepath.Dir(path), 0o755))
	a.must(os.WriteFile(path, []byte(content), 0o644))
	return path
}

func (a *agent) mkdir(name string) {
	a.t.Helper()
	a.must(os.MkdirAll(filepath.Join(a.folder, name), 0o755))
}

// command is the run of a program under the guard.
func (a *agent) command(argv ...string) *exec.Cmd {
	a.t.Helper()
	a.must(filepath.WalkDir(a.folder, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if onOtherDevice(a.folder, path) {
			return filepath.SkipDir
		}
		if slices.Contains(a.mounted, path) {
			return filepath.SkipDir
		}
		return os.Lchown(path, a.uid, a.uid)
	}))
	args := append([]string{roleRunner}, a.flags...)
	cmd := exec.Command(a.self, append(append(args, a.policy, a.verdicts), argv...)...)
	cmd.Dir = a.folder
	cmd.Env = append(os.Environ(), "HOME="+a.folder)
	if os.Getuid() == 0 && a.uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.uid)}}
	}
	return cmd
}

// onOtherDevice reports whether a file system that is mounted below root holds path.
func onOtherDevice(root, path string) bool {
	var here, there unix.Stat_t
	return unix.Lstat(root, &here) == nil && unix.Lstat(path, &there) == nil && here.Dev != there.Dev
}

// run runs a program to its end.
func (a *agent) run(argv ...string) (stdout, stderr string, code int) {
	a.t.Helper()
	cmd := a.command(argv...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	a.must(cmd.Start())
	timer := time.AfterFunc(60*time.Second, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		a.t.Fatal(err)
	}
	a.waitForWarden()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (a *agent) wardenPID() int {
	raw, err := os.ReadFile(a.verdicts + pidSuffix)
	if err != nil {
		return 0
	}
	pid := 0
	fmt.Sscan(string(raw), &pid)
	return pid
}

// waitForWarden waits until the warden has written its last verdict and ended.
func (a *agent) waitForWarden() {
	a.t.Helper()
	pid := a.wardenPID()
	if pid == 0 {
		return
	}
	for range 1000 {
		if unix.Kill(pid, 0) == unix.ESRCH || isZombie(pid) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	a.t.Fatalf("warden %d is still there", pid)
}

func isZombie(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(raw), ") Z ")
}

// reported are the verdicts, without what differs between runs.
func (a *agent) reported() []journal.Verdict {
	a.t.Helper()
	raw, err := os.ReadFile(a.verdicts)
	a.must(err)
	var all []journal.Verdict
	for line := range strings.Lines(string(raw)) {
		var v journal.Verdict
		a.must(json.Unmarshal([]byte(line), &v))
		all = append(all, v)
	}
	return all
}

// probe runs actions inside and returns what each one's system call answered.
func (a *agent) probe(actions []action) []string {
	a.t.Helper()
	raw, err := json.Marshal(actions)
	a.must(err)
	cmd := a.command(a.self, roleProbe)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(raw), &out, &errs
	a.must(cmd.Start())
	timer := time.AfterFunc(120*time.Second, func() { cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		a.t.Fatalf("probe: %v\n%s%s", err, out.String(), errs.String())
	}
	a.waitForWarden()
	var results []string
	if err := json.Unmarshal(out.Bytes(), &results); err != nil {
		a.t.Fatalf("probe: %v\n%s%s", err, out.String(), errs.String())
	}
	return results
}
