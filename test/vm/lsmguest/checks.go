package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// govern is the governed program in one of its parts.
func govern(part string, args []string) int {
	var err error
	switch part {
	case "wait":
		_, _ = io.Copy(io.Discard, os.Stdin)
	case "i386":
		var request uint64
		if request, err = strconv.ParseUint(args[0], 10, 32); err == nil {
			err = i386(uint32(request))
		}
	case "capable":
		play(capableChecks)
		return 0
	case "checks":
		if outsider, err = strconv.Atoi(args[0]); err != nil {
			break
		}
		play(checks)
		return 0
	case "read":
		_, err = os.ReadFile(args[0])
	case "write":
		err = os.WriteFile(args[0], nil, 0o666)
	case "until":
		return until(args[0])
	case "flood":
		for range 4000 {
			_, _ = os.ReadFile(args[0])
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// play tries each, and says how it went.
func play(all []check) {
	for _, c := range all {
		if err := c.try(); err != nil {
			fmt.Printf("not ok %s: %v\n", c.name, err)
		} else {
			fmt.Println("ok", c.name)
		}
	}
}

// neverOpened is the status of the part "until" whose first attempt was refused. 1 is also what a program gets that does not start.
const neverOpened = 1

// until opens a file until that is refused.
func until(path string) int {
	if read(path)() != nil {
		return neverOpened
	}
	for end := time.Now().Add(patient); time.Now().Before(end); {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, eacces) {
			return 0
		}
		if err != nil {
			fmt.Println(err)
			return 3
		}
		unix.Close(fd)
	}
	fmt.Println("never refused")
	return 2
}

// outsider is a process of the same user that is not the agent's.
var outsider int

// check is an attempt that a hook must refuse, with what the program gets, and an honest one beside it that must pass.
type check struct {
	name   string
	hook   string // that reports it; empty: nothing is refused
	errno  syscall.Errno
	refuse func() error
	honest func() error
}

func (c check) try() error {
	if c.refuse != nil {
		if err := c.refuse(); !errors.Is(err, c.errno) {
			return fmt.Errorf("got %v, not %v", err, c.errno)
		}
	}
	if c.honest != nil {
		if err := c.honest(); err != nil {
			return fmt.Errorf("the honest one: %w", err)
		}
	}
	return nil
}

func read(path string) func() error {
	return func() error { _, err := os.ReadFile(path); return err }
}

func open(path string, flags int) func() error {
	return func() error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

// all does one thing after the other.
func all(steps ...func() error) func() error {
	return func() error {
		for i, step := range steps {
			if err := step(); err != nil {
				return fmt.Errorf("step %d: %w", i, err)
			}
		}
		return nil
	}
}

// either takes errors that say that the call was let through to what cannot do it here.
func either(do func() error, fine ...syscall.Errno) func() error {
	return func() error {
		err := do()
		for _, errno := range fine {
			if errors.Is(err, errno) {
				return nil
			}
		}
		return err
	}
}

func calling(number uintptr, args ...uintptr) func() error {
	return func() error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}
}

func run(path string, args ...string) func() error {
	return func() error { return exec.Command(path, args...).Run() }
}

// mapping maps a file for execution.
func mapping(path string) func() error {
	return func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open: %v", err) // not what is looked for
		}
		defer unix.Close(fd)
		return mapExec(fd)
	}
}

func mapExec(fd int) error {
	m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	if err == nil {
		err = unix.Munmap(m)
	}
	return err
}

// memory is a file in memory with a program in it.
func memory() (int, error) {
	fd, err := unix.MemfdCreate("program", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, err
	}
	content, err := os.ReadFile(program)
	if err == nil {
		_, err = unix.Write(fd, content)
	}
	return fd, err
}

func inMemory(do func(fd int) error) func() error {
	return func() error {
		fd, err := memory()
		if err != nil {
			return fmt.Errorf("memory: %v", err)
		}
		defer unix.Close(fd)
		return do(fd)
	}
}

func protectLater() error {
	fd, err := unix.Open("/tmp/w/file", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %v", err)
	}
	defer unix.Close(fd)
	m, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("mmap: %v", err)
	}
	defer unix.Munmap(m)
	return unix.Mprotect(m, unix.PROT_READ|unix.PROT_EXEC)
}

func anonymous() error {
	m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(m)
	return unix.Mprotect(m, unix.PROT_READ|unix.PROT_EXEC)
}

func dial(network, name string) func() error {
	return func() error {
		conn, err := net.Dial(network, name)
		if err == nil {
			conn.Close()
		}
		return err
	}
}

// ownSocket connects to a socket of its own, by a name without a path.
func ownSocket() error {
	l, err := net.Listen("unix", "@inside")
	if err != nil {
		return err
	}
	defer l.Close()
	return dial("unix", "@inside")()
}

// received takes the descriptors that the parent sent: the kernel leaves out what is refused, and the message with it.
func received() error {
	for _, want := range []bool{false, true} {
		buffer, control := make([]byte, 8), make([]byte, 64)
		_, n, flags, _, err := unix.Recvmsg(4, buffer, control, unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			return err
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		got := err == nil && len(messages) == 1
		if got {
			fds, err := unix.ParseUnixRights(&messages[0])
			got = err == nil && len(fds) == 1
		}
		if got != want {
			return fmt.Errorf("descriptor received: %v, not %v (flags %#x)", got, want, flags)
		}
	}
	return nil
}

func intoCgroup() error {
	fd, err := unix.Open("/sys/fs/cgroup", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %v", err)
	}
	defer unix.Close(fd)
	cmd := exec.Command(program)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
	return cmd.Run()
}

// deep opens a file whose path is long, by steps.
func deep(total int) func() error {
	return func() error {
		name := strings.Repeat("d", 200)
		at := hole("deep")
		if err := os.MkdirAll(at, 0o755); err != nil {
			return fmt.Errorf("%s: %v", at, err)
		}
		dir, err := unix.Open(at, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		for length := len(at); err == nil && length+201+5 <= total; length += 201 {
			if err = unix.Mkdirat(dir, name, 0o755); errors.Is(err, unix.EEXIST) {
				err = nil
			}
			var next int
			if err == nil {
				next, err = unix.Openat(dir, name, unix.O_PATH|unix.O_CLOEXEC, 0)
			}
			unix.Close(dir)
			dir = next
		}
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		fd, err := unix.Openat(dir, "file", unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
}

func times(path string) func() error {
	return func() error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0)
	}
}

// clone makes a namespace in a child, so that this process stays as it is.
func clone(flags uintptr) func() error {
	return func() error {
		cmd := exec.Command(program)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
		return cmd.Run()
	}
}

func signalChild() error {
	cmd := exec.Command(program, "read", "/proc/self/status")
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Process.Signal(syscall.Signal(0))
	return errors.Join(err, cmd.Wait())
}

func isRoot() bool { return os.Getuid() == 0 }

// hole is where files that nobody minds are made.
func hole(name string) string {
	return filepath.Join("/tmp/w", fmt.Sprintf("%s-%d", name, os.Getuid()))
}

func itoa(n int) string { return fmt.Sprint(n) }

func ring() error {
	parameters := make([]byte, 120) // struct io_uring_params
	_, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 2, uintptr(unsafe.Pointer(&parameters[0])), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func perf() error {
	fd, err := unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{}))}, 0, -1, -1, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func byHandle() error {
	handle, mount, err := unix.NameToHandleAt(unix.AT_FDCWD, "/tmp/w/file", 0)
	if err != nil {
		return fmt.Errorf("handle: %v", err)
	}
	_ = mount
	dir, err := unix.Open("/tmp/w", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open: %v", err)
	}
	defer unix.Close(dir)
	fd, err := unix.OpenByHandleAt(dir, handle, unix.O_RDONLY)
	if err == nil {
		unix.Close(fd)
	}
	return err
}
