package launch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/relay"
)

// The whole guard once more with a warden that the kernel keeps from its agent, as Yama does. Here a seccomp filter does it, so
// that it is tried on every kernel; test/vm does it with Yama.

// relayedVariable makes every agent of a test process a relayed one.
const relayedVariable = "RAYPHER_TEST_RELAYED"

const relaySuffix = ".relay" // the relay's socket, beside the file for verdicts

// TestRelayed: nothing of the guard depends on the warden's own sight of the agent.
func TestRelayed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: the relay looks at processes of others")
	}
	if os.Getenv(relayedVariable) != "" {
		t.Skip("the tests are relayed already")
	}
	const tests = "^(TestConformance|TestRacesGainNothing|TestRefusedCalls|TestOtherProcesses|" +
		"TestWardenIsOutOfReach|TestNarrowed|TestDryRunRefusesNothing|TestKillOnViolation|TestRealPrograms|TestAddressSpaces|TestDenyInProc)$"
	cmd := exec.Command("/proc/self/exe", "-test.run="+tests, "-test.v")
	cmd.Env = append(os.Environ(), relayedVariable+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Count(string(out), "\n--- PASS") < 11 {
		t.Errorf("%v\n%s", err, out)
	}
}

// relay serves the agent's warden, as raypherd does.
func (a *agent) relay() {
	a.t.Helper()
	a.flags = append(a.flags, "--relayed")
	cgroup, err := os.ReadFile("/proc/self/cgroup")
	a.must(err)
	server, err := relay.Listen(relay.Options{
		Paths: instance.Paths{Relay: a.verdicts + relaySuffix}, Group: a.uid, Log: slog.New(slog.DiscardHandler),
		Warden: func(who *task.Task) (relay.Agent, error) {
			if who.PID() != a.wardenPID() {
				return nil, errors.New("it is not the warden")
			}
			return everything{string(cgroup), a.uid}, nil
		},
	})
	a.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx) }()
	a.t.Cleanup(func() { cancel(); a.must(<-served) })
}

// everything is an agent whose processes are those of the test's own cgroup.
type everything struct {
	cgroup string // as /proc shows it
	uid    int
}

func (e everything) ID() string               { return "test" }
func (e everything) UID() uint32              { return uint32(e.uid) }
func (e everything) Holds(cgroup string) bool { return strings.Contains(e.cgroup, "0::"+cgroup+"\n") }
func (e everything) Gone() <-chan struct{}    { return nil }

// forbidLooking keeps this process from reading others, for good.
func forbidLooking() error {
	program := []bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 4}}
	for _, number := range []uint32{unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PTRACE, unix.SYS_PIDFD_GETFD} {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: number, SkipTrue: 1},
			bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)})
	}
	raw, err := bpf.Assemble(append(program, bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}))
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("forbid looking: %w", errno)
	}
	return nil
}

// TestAddressSpaces: a path is read in the address space that the caller has at that moment, also when it had another one before
// that goes on living.
func TestAddressSpaces(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, `
mode: enforce
filesystem:
  read: [LIBRARIES, SELF, "FOLDER/*.txt"]
  write: [/dev/null]
  exec: [SELF, LIBRARIES]
`)
		a.write("one.txt", "one\n")
		a.write("two.txt", "two\n")
		if _, err := exec.LookPath("/usr/bin/python3"); err != nil {
			t.Skip("python3 is not installed")
		}
		// The same place in memory holds one path in the parent, which lives on, and another one in what its child executes.
		out, errs, code := a.run("/usr/bin/python3", "-c", addressSpaces, a.folder)
		if want := strings.Repeat("one\ntwo\n", 20) + "two\none\ntwo\none\nended\n"; code != 0 || out != want {
			t.Errorf("status %d, %q, want %q\n%s", code, out, want, errs)
		}
	})
}

const addressSpaces = `
import os, signal, sys
folder = sys.argv[1]
def spawn(*argv):
    return os.posix_spawn(argv[0], argv, os.environ) # vfork
def read_one():
    print(open(folder + "/one.txt").read(), end="", flush=True)
for _ in range(20):
    read_one()
    os.waitpid(spawn("/bin/cat", folder + "/two.txt"), 0)
# A thread that is not the first executes.
thread = "import os, sys, threading; threading.Thread(target=lambda: os.execv('/bin/cat', ['cat', sys.argv[1]])).start()"
os.waitpid(spawn("/usr/bin/python3", "-c", thread, folder + "/two.txt"), 0)
# More programs than the warden keeps in mind.
many = [spawn("/bin/sleep", "1000") for _ in range(200)]
read_one()
os.waitpid(spawn("/bin/cat", folder + "/two.txt"), 0)
# To the whole group, which Landlock bounds: without a cgroup of the agent's own the warden takes a child for another's process.
signal.signal(signal.SIGTERM, lambda *_: None)
os.kill(0, signal.SIGTERM)
for pid in many:
    os.waitpid(pid, 0)
read_one()
print("ended")
`
