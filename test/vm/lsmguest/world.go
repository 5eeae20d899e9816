package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/lsm"
	"github.com/raypher/raypher/policy"
)

// The file guard's world: what an agent's rules speak of, and what lies beside it.
const (
	agentsPath    = "/sys/fs/cgroup/raypher"
	pins          = "/sys/fs/bpf/raypher"
	grantedSocket = "/tmp/granted.sock"
	otherSocket   = "/tmp/other.sock"
	// Sockets for datagrams.
	grantedDatagrams = "/tmp/granted-datagrams.sock"
	otherDatagrams   = "/tmp/other-datagrams.sock"
	outsideName      = "@outside"
	libraryPath      = "/usr/lib/library.so"
	program          = "/bin/guest"
)

const policyText = `
namespace: vm
filesystem:
  read: ["/tmp/w/**", "/bin/**", "/usr/lib/**", "/tmp/elsewhere/**", "/proc/self/**", "/closed/**"]
  write: ["/tmp/w/**", "/tmp/out/**", "/closed/**", "/closed-moved/**", "/sealed/**", "/deep/**", "/sys/**", "/proc/**"]
  exec: [/bin/guest, {path: /bin/right, sha256: %s}, {path: /bin/wrong, sha256: %s}]
  deny: ["/tmp/w/**/*.key", "/tmp/w/denied/**"]
  require_approval: ["/tmp/w/ask/**", /tmp/asked]
network:
  unix: [/tmp/granted.sock, /tmp/granted-datagrams.sock]
`

// world is one loaded guard and the agent of one user.
type world struct {
	m      *machine
	guard  *lsm.Guard
	uid    int
	group  *os.File // the agent's cgroup
	id     uint64
	permit *policy.Policy

	mu     sync.Mutex
	events []lsm.Event
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// furnishFiles makes the files and sockets that the cases are about. The programs are links to one file but for their names.
func furnishFiles() error {
	var all []error
	for _, dir := range []string{"/tmp/w", "/tmp/w/folder", "/tmp/w/denied", "/tmp/w/ask", "/tmp/out", "/tmp/out/folder", "/tmp/elsewhere", "/usr/lib", "/closed", "/closed/in", "/sealed",
		"/deep", "/deep/one", "/deep/one/two", "/deep/three", "/deep/three/four", "/deep/three/four/sealed", "/deep/beside", "/deep/other", agentsPath} {
		all = append(all, os.MkdirAll(dir, 0o777), os.Chmod(dir, 0o777))
	}
	for _, path := range []string{"/tmp/w/file", "/tmp/w/a.key", "/tmp/w/folder/b.key", "/tmp/w/denied/file", "/tmp/w/ask/file", "/tmp/out/file", "/tmp/out/folder/file", "/tmp/beside",
		"/closed/file", "/closed/in/file", "/sealed/file", "/tmp/w/other", "/deep/one/two/closed"} {
		all = append(all, os.WriteFile(path, []byte("content"), 0o666), os.Chmod(path, 0o666))
	}
	content, err := os.ReadFile(program)
	all = append(all, err)
	for _, path := range []string{"/bin/right", "/bin/wrong", "/bin/denied", "/tmp/w/copy", "/tmp/asked", libraryPath, "/tmp/elsewhere/library.so.1"} {
		all = append(all, os.WriteFile(path, content, 0o755), os.Chmod(path, 0o755))
	}
	all = append(all, os.WriteFile("/tmp/w/script", []byte("#!/bin/denied\n"), 0o755))
	all = append(all, os.WriteFile("/bin/script", []byte("#!/bin/denied\n"), 0o755))
	for _, path := range []string{grantedSocket, otherSocket, outsideName} {
		all = append(all, serve(path))
	}
	for _, path := range []string{grantedDatagrams, otherDatagrams} {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err == nil {
			err = os.Chmod(path, 0o666)
			go io.Copy(io.Discard, conn)
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// permitOf is the agent's policy, with changes.
func permitOf(changes ...func(*policy.Policy)) (*policy.Policy, error) {
	content, err := os.ReadFile("/bin/right")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	right := hex.EncodeToString(sum[:])
	wrong := hex.EncodeToString(make([]byte, len(sum)))
	p, err := policy.Parse("lsm", []byte(fmt.Sprintf(policyText, right, wrong)))
	if err != nil {
		return nil, err
	}
	for _, change := range changes {
		change(p)
	}
	return p, nil
}

// newWorld makes an agent's cgroup and arms it.
func newWorld(m *machine, name string, uid int, changes ...func(*policy.Policy)) (*world, error) {
	w := &world{m: m, uid: uid, guard: m.guard}
	var err error
	dir := filepath.Join(agentsPath, name)
	if err = os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if w.group, err = os.Open(dir); err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(w.group.Fd()), &st); err != nil {
		return nil, err
	}
	w.id = st.Ino
	if w.permit, err = permitOf(changes...); err != nil {
		return nil, err
	}
	w.listen()
	return w, w.arm(w.permit, 0)
}

func (w *world) arm(permit *policy.Policy, capabilities uint64) error {
	return w.guard.Arm(lsm.Agent{CgroupID: w.id, Permit: permit, Deadline: bootTime() + int64(time.Hour), Capabilities: capabilities,
		Closed: []string{"/closed/file", "/closed/in", "/deep/one/two/closed"}, Sealed: []string{"/sealed", "/deep/three/four/sealed"}})
}

// bootTime is CLOCK_BOOTTIME in nanoseconds.
func bootTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // this clock is always there
	return ts.Nano()
}

func (w *world) listen() {
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	w.done.Go(func() {
		err := w.guard.Run(ctx, func(e lsm.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if e.CgroupID == w.id {
				w.events = append(w.events, e)
			}
		})
		if err != nil {
			w.m.fail("lsm: events: %v", err)
		}
	})
}

// outcome is what a program did.
type outcome struct {
	code           int
	stdout, stderr string
}

// run starts the guest's program in the agent's cgroup, and returns what it said.
func (w *world) run(argv ...string) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Dir, cmd.Env = &stdout, &stderr, "/tmp/w", []string{"PATH=/bin"}
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(w.group.Fd())}
	if w.uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(w.uid), Gid: uint32(w.uid)}
	}
	closeAll, err := w.inherit(cmd)
	if err != nil {
		return outcome{-1, "", err.Error()}
	}
	defer closeAll()
	err = cmd.Run()
	if cmd.ProcessState == nil {
		return outcome{-1, stdout.String(), err.Error()}
	}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return outcome{128 + int(status.Signal()), stdout.String(), stderr.String()}
	}
	return outcome{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// inherit gives a program descriptors from outside: 3 is open for writing on the cgroup.procs above all agents, from 4 a file
// that no rule grants and one that is can be received.
func (w *world) inherit(cmd *exec.Cmd) (func(), error) {
	procs, err := os.OpenFile("/sys/fs/cgroup/cgroup.procs", os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	near, far := os.NewFile(uintptr(pair[0]), "near"), os.NewFile(uintptr(pair[1]), "far")
	for _, path := range []string{"/tmp/beside", "/tmp/w/file"} {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		err = unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fd), nil, 0)
		unix.Close(fd)
		if err != nil {
			return nil, err
		}
	}
	cmd.ExtraFiles = []*os.File{procs, far}
	return func() { procs.Close(); near.Close(); far.Close() }, nil
}

// seen says whether an event of a hook came.
func (w *world) seen(hook string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.events, func(e lsm.Event) bool { return e.Hook == hook })
}

// said lists the events, for a failure.
func (w *world) said() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, e := range w.events {
		v := w.guard.Verdict(e)
		fmt.Fprintf(&b, "%s %s %s %s: %s (%d)\n", v.Decision, v.Layer, v.Operation, v.Target, v.Rule, v.Errno)
	}
	return b.String()
}

// told says whether something was refused for a reason.
func (w *world) told(reason lsm.Reason) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.events, func(e lsm.Event) bool { return e.Reason == reason })
}

// settled compares the kernel's own count of refusals with the events: none may hide.
func (w *world) settled() error {
	var counted uint64
	var c lsm.Counters
	for end := time.Now().Add(patient); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		var err error
		if c, err = w.guard.Counters(w.id); err != nil {
			return err
		}
		counted = w.counted()
		if counted == c.Refused+c.WouldBlock && c.Reported+c.Suppressed+c.Lost == counted {
			return nil
		}
	}
	return fmt.Errorf("the kernel counts %+v, the events %d", c, counted)
}

// counted is how many refusals the events stand for.
func (w *world) counted() (n uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		n += e.Count
	}
	return n
}

func (w *world) close() error {
	w.stop()
	w.done.Wait()
	err := errors.Join(w.guard.Disarm(w.id), w.group.Close())
	return errors.Join(err, os.Remove(w.group.Name()))
}
