// Package governed starts agents for tests as a person does: with the built programs, a pair of raypherd and raypher-enclave, and
// `raypher run --json`, in network and mount namespaces of the test's own. Everything in it needs root.
package governed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/raypher/raypher/examples/stage"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/test/conformance"
)

// insideVariable is set for the test process that runs in its own namespaces: it names the folder with the programs.
const insideVariable = "RAYPHER_GOVERNED_INSIDE"

// backendVariable names raypherd's backend for pairs of which nothing else is asked; unset: the one that raypherd chooses.
const backendVariable = "RAYPHER_GOVERNED_BACKEND"

// Programs is the folder with the built programs, and with the probe; empty: not root.
var Programs string

// UserID is the plain user that runs agents. It needs no entry in the user database.
const UserID = 64103

// groupName is a group that every system has and nobody here is in: its members may run agents.
const groupName = "games"

// Main runs the tests of a package that starts agents, and returns the exit status: its TestMain ends with that.
func Main(m *testing.M) int {
	code, err := enter(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "governed:", err)
		return 1
	}
	return code
}

func enter(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return m.Run(), nil // each test skips, in words
	}
	if Programs = os.Getenv(insideVariable); Programs != "" {
		if err := furnish(); err != nil {
			return 1, err
		}
		code := m.Run()
		return code, closeShared()
	}
	built, err := build()
	defer os.RemoveAll(built)
	if err != nil {
		return 1, err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"="+built)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	var exit *exec.ExitError
	if err := cmd.Run(); errors.As(err, &exit) {
		return exit.ExitCode(), nil
	} else if err != nil {
		return 1, err
	}
	return 0, nil
}

// build puts the programs into a new folder that every user can read. The caller removes it, after a failure too.
func build() (string, error) {
	dir, err := os.MkdirTemp("", "raypher-governed-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	for name, from := range map[string]string{
		"raypher": "cmd/raypher-run", "raypher-cli": "cmd/raypher", "raypherd": "cmd/raypherd", "raypher-enclave": "cmd/raypher-enclave",
		"probe": "test/probe/program",
	} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "../../"+from)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return dir, nil
}

func furnish() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(loopback)
}

// Probe is the program that does what tests want done.
func Probe() string { return filepath.Join(Programs, "probe") }

// Machine is one pair, and a folder that every user can enter.
type Machine struct {
	Folder  string
	Pair    *stage.Pair
	Backend string // that was asked for; empty: none

	home *stage.Home
}

// Open starts a pair, raypherd with flags. The test is skipped without root.
func Open(t testing.TB, flags ...string) *Machine { return OpenBrief(t, 0, flags...) }

// OpenBrief is Open with visas of a lifetime, 0: the usual one.
func OpenBrief(t testing.TB, lifetime time.Duration, flags ...string) *Machine {
	t.Helper()
	needRoot(t)
	m, err := open(t.Context(), lifetime, flags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { m.tell(t) })
	return m
}

// shared is the pair of the tests that start none of their own.
var shared *Machine

// Shared is a pair that the tests of a package have together, one after the other: in an emulated machine to start one takes longer
// than most tests.
func Shared(t testing.TB) *Machine {
	t.Helper()
	needRoot(t)
	if shared == nil {
		m, err := open(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		shared = m
	}
	t.Cleanup(func() { shared.tell(t) })
	return shared
}

func closeShared() error {
	if shared == nil {
		return nil
	}
	return shared.close()
}

func needRoot(t testing.TB) {
	t.Helper()
	if Programs == "" {
		t.Skip("needs root: it makes namespaces and starts the guard")
	}
}

func open(ctx context.Context, lifetime time.Duration, flags ...string) (*Machine, error) {
	home, err := stage.NewHome()
	if err != nil {
		return nil, err
	}
	m := &Machine{Folder: filepath.Join(home.Root, "agents"), Backend: os.Getenv(backendVariable), home: home}
	if err := os.Mkdir(m.Folder, 0o755); err != nil {
		return nil, errors.Join(err, home.Close())
	}
	flags = append([]string{"--group", groupName}, flags...)
	if m.Backend != "" {
		flags = append(flags, "--backend", m.Backend)
	}
	if lifetime > 0 {
		m.Pair, err = stage.OpenBriefPair(ctx, Programs, home, lifetime, flags...)
	} else {
		m.Pair, err = stage.OpenPair(ctx, Programs, home, flags...)
	}
	if err != nil {
		return nil, errors.Join(err, home.Close())
	}
	return m, nil
}

func (m *Machine) close() error {
	m.Pair.Close()
	return m.home.Close()
}

// tell says what the pair wrote where a test failed.
func (m *Machine) tell(t testing.TB) {
	if t.Failed() {
		t.Logf("the pair's log:\n%s", m.Pair.Log())
	}
}

// CLI is the program that asks this machine's pair, with arguments.
func (m *Machine) CLI(arguments ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(Programs, "raypher"), arguments...)
	cmd.Env = append([]string{"HOME=" + m.Folder, "PATH=/usr/bin:/bin", "TERM=dumb"}, m.Pair.Environment()...)
	return cmd
}

// Agent is one run of a program under a policy.
type Agent struct {
	Cmd    *exec.Cmd
	policy string

	mutex  sync.Mutex
	stderr bytes.Buffer
}

// Prepare makes an agent ready: the text of a policy, a user, a folder to run in, a command. Nothing is started.
func (m *Machine) Prepare(policy string, uid int, folder string, argv ...string) (*Agent, error) {
	file, err := os.CreateTemp(m.Folder, "policy-*.yaml")
	if err != nil {
		return nil, err
	}
	_, err = file.WriteString(policy)
	if err := errors.Join(err, file.Chmod(0o644), file.Close()); err != nil {
		return nil, err
	}
	a := &Agent{policy: file.Name()}
	a.Cmd = m.CLI(append([]string{"run", "--json", "--policy", file.Name(), "--"}, argv...)...)
	a.Cmd.Dir, a.Cmd.Stderr, a.Cmd.WaitDelay = folder, a, 10*time.Second
	a.Cmd.Env = append(a.Cmd.Env, "HOME="+folder)
	if uid != 0 {
		group, err := user.LookupGroup(groupName)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(group.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		a.Cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid), Groups: []uint32{uint32(gid)}}}
	}
	return a, nil
}

// Write takes what comes from the standard error.
func (a *Agent) Write(text []byte) (int, error) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return a.stderr.Write(text)
}

// Said is the standard error so far.
func (a *Agent) Said() string {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	return a.stderr.String()
}

// Verdicts are those that were printed so far.
func (a *Agent) Verdicts() ([]journal.Verdict, error) { return conformance.Verdicts(a.Said()) }

// As is how root starts something as a user.
func As(uid int) *syscall.SysProcAttr {
	if uid == 0 {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
}
