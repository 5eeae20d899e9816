package sandbox

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (linux/seccomp.h); arguments are 64 bits, and both architectures are little-endian, so the
// low half comes first.
const (
	offsetNumber       = 0
	offsetArchitecture = 4
	offsetArguments    = 16
)

// allowed are the system calls that need no look at their arguments: memory, threads and time of the Go runtime; files, which
// Landlock bounds; connections that are open or come in over the listener.
var allowed = append([]uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_PWRITE64, unix.SYS_CLOSE, unix.SYS_LSEEK,
	unix.SYS_OPENAT, unix.SYS_FSTAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX, unix.SYS_GETDENTS64, unix.SYS_FCNTL, unix.SYS_FTRUNCATE, unix.SYS_FSYNC,
	unix.SYS_FDATASYNC, unix.SYS_LINKAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2,

	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
	unix.SYS_ACCEPT4, unix.SYS_SENDTO, unix.SYS_RECVFROM, unix.SYS_SENDMSG, unix.SYS_RECVMSG, unix.SYS_SHUTDOWN, unix.SYS_GETSOCKNAME,
	unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT,

	unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK,
	unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME,
	unix.SYS_GETTIMEOFDAY, unix.SYS_GETRANDOM, unix.SYS_UNAME,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
}, allowedHere...)

// Actions of a filter (linux/seccomp.h).
const (
	actionAllow = 0x7fff0000
	actionKill  = 0x80000000 // the whole process
	actionErrno = 0x00050000 // with the number in the low half
)

// filter assembles the program. What it does not name fails with EPERM; another architecture's calls end the process.
func filter(pid int, ioctl uint32) ([]bpf.RawInstruction, error) {
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArchitecture, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: auditArchitecture, SkipTrue: 1},
		bpf.RetConstant{Val: actionKill},
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
	}
	for _, number := range allowed {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: number, SkipFalse: 1}, bpf.RetConstant{Val: actionAllow})
	}
	// Threads, and nothing else that clone makes; clone3 hides its flags behind a pointer, so it does not exist.
	program = append(program, onArgument(unix.SYS_CLONE, 0, bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: unix.CLONE_THREAD, SkipFalse: 1})...)
	program = append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.SYS_CLONE3, SkipFalse: 1}, bpf.RetConstant{Val: actionErrno | uint32(unix.ENOSYS)})
	// Memory that cannot be executed.
	for _, number := range []uint32{unix.SYS_MMAP, unix.SYS_MPROTECT} {
		program = append(program, onArgument(number, 2, bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: unix.PROT_EXEC, SkipFalse: 1})...)
	}
	// Signals to its own threads: the runtime preempts with them.
	program = append(program, onArgument(unix.SYS_TGKILL, 0, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(pid), SkipFalse: 1})...)
	// The runtime names its memory.
	program = append(program, onArgument(unix.SYS_PRCTL, 0, bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PR_SET_VMA, SkipFalse: 1})...)
	if ioctl != 0 {
		program = append(program, onArgument(unix.SYS_IOCTL, 1, bpf.JumpIf{Cond: bpf.JumpEqual, Val: ioctl, SkipFalse: 1})...)
	}
	program = append(program, bpf.RetConstant{Val: actionErrno | uint32(unix.EPERM)})
	return bpf.Assemble(program)
}

// onArgument allows a system call when the low half of an argument passes the check, which skips one instruction when it
// does not; then the call fails with EPERM. The accumulator holds the number before and after.
func onArgument(number uint32, argument uint32, check bpf.JumpIf) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: number, SkipFalse: 4},
		bpf.LoadAbsolute{Off: offsetArguments + 8*argument, Size: 4},
		check,
		bpf.RetConstant{Val: actionAllow},
		bpf.RetConstant{Val: actionErrno | uint32(unix.EPERM)},
	}
}

// seccomp installs the filter on all threads.
func seccomp(ioctl uint32) error {
	program, err := filter(os.Getpid(), ioctl)
	if err != nil {
		return fmt.Errorf("assemble seccomp filter: %w", err)
	}
	instructions := make([]unix.SockFilter, len(program))
	for i, p := range program {
		instructions[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(instructions)
	runtime.KeepAlive(&fprog)
	switch {
	case errno == unix.ENOSYS || errno == unix.EINVAL:
		return fmt.Errorf("%w: seccomp filter: %w: the kernel needs CONFIG_SECCOMP_FILTER", ErrUnsupported, errno)
	case errno != 0:
		return fmt.Errorf("take seccomp filter: %w", errno)
	case thread != 0:
		return fmt.Errorf("take seccomp filter: thread %d has another one", thread)
	}
	return nil
}
