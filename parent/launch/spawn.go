package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// command is a process that is started detached: in a session of its own, in the root folder, and as nobody's child but init's.
// The agent will be this process later and must not find a child that it never started.
type command struct {
	path  string
	argv  []string
	env   []string
	files []int // become descriptors 0, 1, 2 ...
	plain bool  // without capabilities and with no_new_privs
}

// fork holds everything that the forked child needs, prepared before: after the fork there is one thread, and nothing of the
// runtime may be used.
type fork struct {
	path      *byte
	argv, env **byte
	files     []int
	root      *byte
	report    int // pipe: pid as 8 bytes, then errno as 8 bytes if something failed
	mask      uint64
	word      [8]byte
	// disposition is SIG_DFL (struct sigaction of the kernel, without a restorer).
	disposition [4]uint64
	plain       bool
	header      unix.CapUserHeader
	none        [2]unix.CapUserData
}

// start starts the command and returns its pid when it has been executed.
func (c command) start() (pid int, err error) {
	f, closeAll, err := c.prepare()
	if err != nil {
		return 0, err
	}
	defer closeAll()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, fmt.Errorf("start %s: %w", c.path, err)
	}
	// Out of the way of the low numbers.
	report, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_DUPFD_CLOEXEC, len(c.files)+1)
	unix.Close(pipe[1])
	if err != nil {
		unix.Close(pipe[0])
		return 0, fmt.Errorf("start %s: %w", c.path, err)
	}
	f.report = report
	between, errno := f.run()
	unix.Close(report)
	told := os.NewFile(uintptr(pipe[0]), "start")
	defer told.Close()
	if errno != 0 {
		return 0, fmt.Errorf("start %s: fork: %w", c.path, errno)
	}
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(between, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	var words [2][8]byte
	if _, err := io.ReadFull(told, words[0][:]); err != nil {
		return 0, fmt.Errorf("start %s: it did not come up: %w", c.path, err)
	}
	if _, err := io.ReadFull(told, words[1][:]); err == nil {
		return 0, fmt.Errorf("start %s: %w", c.path, unix.Errno(binary.NativeEndian.Uint64(words[1][:])))
	}
	return int(binary.NativeEndian.Uint64(words[0][:])), nil
}

// prepare copies the files out of the way of the numbers that they will get.
func (c command) prepare() (*fork, func(), error) {
	f := &fork{plain: c.plain, header: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}}
	closeAll := func() {
		for _, fd := range f.files {
			unix.Close(fd)
		}
	}
	var err error
	if f.path, err = unix.BytePtrFromString(c.path); err != nil {
		return nil, nil, fmt.Errorf("start %q: %w", c.path, err)
	}
	f.root, _ = unix.BytePtrFromString("/")
	argv, err := syscall.SlicePtrFromStrings(c.argv)
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", c.path, err)
	}
	env, err := syscall.SlicePtrFromStrings(c.env)
	if err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", c.path, err)
	}
	f.argv, f.env = &argv[0], &env[0]
	for _, fd := range c.files {
		copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, len(c.files)+1)
		if err != nil {
			closeAll()
			return nil, nil, fmt.Errorf("start %s: %w", c.path, err)
		}
		f.files = append(f.files, copied)
	}
	return f, closeAll, nil
}

// run forks twice. It returns the pid of the process in between, which has ended then. All signals are blocked around the fork:
// a handler of the runtime must not run in the child.
func (f *fork) run() (between int, errno unix.Errno) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all := ^uint64(0)
	_, _, errno = unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&f.mask)), 8, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	pid, forkErrno := f.fork()
	unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&f.mask)), 0, 8, 0, 0)
	runtime.KeepAlive(f)
	return int(pid), forkErrno
}

// vfork is clone(2) with CLONE_VFORK and CLONE_VM: the child runs in this memory and on this stack, and this thread waits until
// the child has executed something or ended. No page is copied. What the child may do is what syscall.forkAndExecInChild does:
// raw system calls, and no write to anything that its parent looks at.
func vfork() (pid, errno uintptr)

// fork forks twice and returns the pid of the process in between.
//
//go:nosplit
//go:norace
//go:noinline
func (f *fork) fork() (uintptr, unix.Errno) {
	pid, errno := vfork()
	if errno != 0 || pid != 0 {
		return pid, unix.Errno(errno)
	}
	syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	f.again()
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// again is the second fork. It has a frame of its own: the first child must not write where its parent's locals are.
//
//go:nosplit
//go:norace
//go:noinline
func (f *fork) again() {
	if pid, errno := vfork(); errno == 0 && pid == 0 {
		f.child()
	}
}

// child becomes the command. It does not return.
//
//go:nosplit
//go:norace
func (f *fork) child() {
	pid, _, _ := syscall.RawSyscall(syscall.SYS_GETPID, 0, 0, 0)
	f.tell(uint64(pid))
	var errno syscall.Errno
	for i := 0; i < len(f.files) && errno == 0; i++ {
		_, _, errno = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(f.files[i]), uintptr(i), 0)
	}
	// Nothing else of ours goes along but the pipe for errors, which closes itself at the exec.
	last := len(f.files)
	if errno == 0 {
		if _, _, errno = syscall.RawSyscall(syscall.SYS_DUP3, uintptr(f.report), uintptr(last), syscall.O_CLOEXEC); errno == 0 {
			f.report = last
			syscall.RawSyscall(unix.SYS_CLOSE_RANGE, uintptr(last+1), ^uintptr(0)>>32, 0)
		}
	}
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(syscall.SYS_CHDIR, uintptr(unsafe.Pointer(f.root)), 0, 0)
	}
	if errno == 0 && f.plain {
		errno = f.giveUp()
	}
	for signal := uintptr(1); signal <= 64; signal++ {
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&f.disposition)), 0, 8, 0, 0)
	}
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&f.mask)), 0, 8, 0, 0)
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(f.path)), uintptr(unsafe.Pointer(f.argv)), uintptr(unsafe.Pointer(f.env)))
	}
	f.tell(uint64(errno))
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 127, 0, 0)
	}
}

// giveUp drops all capabilities, for uid 0 too (SECBIT_NOROOT), and forbids new ones.
//
//go:nosplit
//go:norace
func (f *fork) giveUp() syscall.Errno {
	const noRoot = 1<<0 | 1<<1 // SECBIT_NOROOT and its lock, include/uapi/linux/securebits.h
	// Fails without CAP_SETPCAP, and then there is no capability that uid 0 could give back.
	syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_SECUREBITS, noRoot, 0, 0, 0, 0)
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	_, _, errno := syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&f.header)), uintptr(unsafe.Pointer(&f.none)), 0)
	return errno
}

//go:nosplit
//go:norace
func (f *fork) tell(word uint64) {
	*(*uint64)(unsafe.Pointer(&f.word)) = word
	syscall.RawSyscall(syscall.SYS_WRITE, uintptr(f.report), uintptr(unsafe.Pointer(&f.word)), 8)
}
