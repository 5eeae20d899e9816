package stage

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Machine is what a machine has that agents should leave alone: another process of the same user, the container engine's socket,
// the folder of cron jobs. All of it is in the demonstration's mount namespace.
type Machine struct {
	Bystander int // pid

	bystander *exec.Cmd
	stdin     io.Closer
	ended     chan struct{}
	engine    *http.Server
	asked     atomic.Int64 // requests that reached the engine
	mounts    []string
}

// engineSocket and spool are where Docker and cron have theirs.
const (
	engineSocket = "/run/docker.sock"
	spool        = "/var/spool"
	crontabs     = spool + "/cron/crontabs"
)

// OpenMachine starts what a machine has.
func OpenMachine() (*Machine, error) {
	m := &Machine{ended: make(chan struct{})}
	if err := errors.Join(m.cover("/run"), m.cover(spool), os.MkdirAll(crontabs, 0o755)); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	// Everyone may write here: what refuses is to be the guard.
	if err := errors.Join(os.Chmod(crontabs, 0o1777), m.serveEngine(), m.startBystander()); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// cover puts an empty file system over a folder, in this mount namespace.
func (m *Machine) cover(folder string) error {
	if err := syscall.Mount("tmpfs", folder, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("cover %s: %w", folder, err)
	}
	m.mounts = append(m.mounts, folder)
	return nil
}

// serveEngine answers at Docker's socket.
func (m *Machine) serveEngine() error {
	listener, err := net.Listen("unix", engineSocket)
	if err != nil {
		return err
	}
	m.engine = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		m.asked.Add(1)
		fmt.Fprintln(w, "the engine obeys")
	})}
	go m.engine.Serve(listener) // until Close
	return os.Chmod(engineSocket, 0o666)
}

// startBystander starts a process of the person's that has a secret in its memory and its environment.
func (m *Machine) startBystander() error {
	cmd := exec.Command("/proc/self/exe", roleBystander)
	cmd.SysProcAttr = AsPerson()
	cmd.Dir, cmd.Env = "/", []string{"SECRET=" + Secret}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a bystander: %w", err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
		kill(cmd)
		return fmt.Errorf("the bystander does not come up: %w", err)
	}
	m.bystander, m.stdin, m.Bystander = cmd, stdin, cmd.Process.Pid
	go func() {
		_ = cmd.Wait() // killed in the control run, which is the point
		close(m.ended)
	}()
	return nil
}

// standBy is the role "bystander": whoever may debug this process may, also under Yama.
func standBy(in io.Reader, out io.Writer) error {
	if err := unix.Prctl(unix.PR_SET_PTRACER, ^uintptr(0), 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return err // EINVAL: this kernel has no Yama
	}
	fmt.Fprint(out, ".")
	_, err := io.Copy(io.Discard, in)
	return err
}

// problems says what an agent that was held has done to the machine nevertheless.
func (m *Machine) problems() (problems []string) {
	select {
	case <-m.ended:
		problems = append(problems, "the other process is dead")
	default:
	}
	if n := m.asked.Load(); n > 0 {
		problems = append(problems, fmt.Sprintf("the container engine was asked %d times", n))
	}
	if jobs, err := filepath.Glob(crontabs + "/*"); err != nil || len(jobs) > 0 {
		problems = append(problems, fmt.Sprintf("cron has jobs: %v", jobs))
	}
	return problems
}

// Close ends what was started and uncovers the folders.
func (m *Machine) Close() (err error) {
	if m.bystander != nil {
		m.stdin.Close()
		<-m.ended
	}
	if m.engine != nil {
		m.engine.Close()
	}
	for _, folder := range m.mounts {
		err = errors.Join(err, syscall.Unmount(folder, syscall.MNT_DETACH))
	}
	return errors.Join(err, sweepTemporary())
}

// sweepTemporary removes what the person left in /tmp, where some agents have folders whatever TMPDIR says.
func sweepTemporary() error {
	entries, err := os.ReadDir("/tmp")
	for _, entry := range entries {
		info, statErr := entry.Info()
		if statErr != nil {
			continue // removed meanwhile
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid == personID {
			err = errors.Join(err, os.RemoveAll(filepath.Join("/tmp", entry.Name())))
		}
	}
	return err
}
