// Command lsmguest is everything that runs in the virtual machine of TestFileGuard: the first process, which loads package lsm's
// guard, plays the cases and switches the machine off, and the program that is governed. Nobody else should start it.
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/lsm"
)

// patient bounds one step; an emulated machine on a busy host takes its time.
const patient = 60 * time.Second

const userID = 1000

func main() {
	switch {
	case os.Getpid() == 1:
		live()
	case len(os.Args) > 1:
		os.Exit(govern(os.Args[1], os.Args[2:]))
	}
	os.Exit(0) // a program that was executed
}

// live runs the cases and ends the machine.
func live() {
	m := &machine{}
	if err := m.furnish(); err != nil {
		m.fail("furnish: %v", err)
	} else if uncalled() {
		m.notCalled()
	} else {
		m.cases()
	}
	if m.failed {
		fmt.Println("GUEST FAIL")
	} else {
		fmt.Println("GUEST PASS")
	}
	unix.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // the first process must not end
}

// machine is the guest.
type machine struct {
	failed bool
	guard  *lsm.Guard
}

func (m *machine) fail(format string, args ...any) {
	m.failed = true
	fmt.Printf("GUEST FAIL: "+format+"\n", args...)
}

// furnish mounts what a system has, and makes what the cases are about.
func (m *machine) furnish() error {
	for _, one := range []struct{ kind, path string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"cgroup2", "/sys/fs/cgroup"}, {"bpf", "/sys/fs/bpf"},
	} {
		if err := os.MkdirAll(one.path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(one.kind, one.path, one.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", one.path, err)
		}
	}
	// Yama would refuse a debugger before the guard is asked; where it is not there, nothing needs to be lifted.
	if err := os.WriteFile("/proc/sys/kernel/yama/ptrace_scope", []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := furnishFiles(); err != nil {
		return err
	}
	if uncalled() {
		return nil
	}
	return m.load()
}

// uncalled reports whether this kernel was started without bpf in its list of LSMs, as the machine's command line says.
func uncalled() bool {
	line, err := os.ReadFile("/proc/cmdline")
	return err == nil && slices.Contains(strings.Fields(string(line)), "raypher.uncalled")
}

// notCalled: such a kernel loads and attaches the programs and never calls one, and the guard says that it holds nothing.
func (m *machine) notCalled() {
	if err := lsm.Probe(); !errors.Is(err, lsm.ErrNotCalled) {
		m.fail("probe: %v", err)
	}
	if _, err := lsm.Load(lsm.Options{CgroupPath: agentsPath, PinDir: pins}); !errors.Is(err, lsm.ErrNotCalled) {
		m.fail("load: %v", err)
	}
}

// load loads the guard, which is most of the time that an emulated machine takes.
func (m *machine) load() error {
	began := time.Now()
	var err error
	m.guard, err = lsm.Load(lsm.Options{CgroupPath: agentsPath, PinDir: pins})
	fmt.Printf("GUEST loaded in %v\n", time.Since(began).Round(time.Millisecond))
	return err
}

// serve answers on a unix socket that everybody may connect to.
func serve(path string) error {
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "served")
			conn.Close()
		}
	}()
	if path[0] == '@' {
		return nil
	}
	return os.Chmod(path, 0o666)
}
