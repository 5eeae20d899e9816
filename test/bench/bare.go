package main

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	raypher "github.com/raypher/raypher/policy"

	"github.com/raypher/raypher/parent/guard/floor"
)

// What the guard's opens are compared with: the same opens under Landlock alone, and with a notification that decides nothing.

// underLandlock puts this thread under the rules of a policy for files, and under nothing else.
func underLandlock(policyPath, home string) error {
	raw, err := os.ReadFile(policyPath)
	if err != nil {
		return err
	}
	p, err := raypher.Parse(policyPath, raw)
	if err != nil {
		return err
	}
	if p, err = p.Expand(home); err != nil {
		return err
	}
	plan, err := floor.Compile(floor.Resolved(p), floor.Options{})
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return plan.Apply()
}

// Requests and sizes of seccomp notifications (include/uapi/linux/seccomp.h).
const (
	setModeFilter  = 1
	newListener    = 1 << 3
	userNotify     = 0x7fc00000
	requestReceive = 0xc0502100
	requestSend    = 0xc0182101
	requestFlags   = 0x40082104
)

// underNotification lets another thread of this process be asked about each openat of this one, and answer that it goes on. The
// thread is woken as the guard's is, on the same processor where the kernel can.
func underNotification() error {
	number, ok := raypher.SyscallNumber(runtime.GOARCH, "openat")
	if !ok {
		return fmt.Errorf("no number for openat on %s", runtime.GOARCH)
	}
	filter, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(number), SkipFalse: 1},
		bpf.RetConstant{Val: userNotify},
		bpf.RetConstant{Val: 0x7fff0000},
	})
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	ready := make(chan uintptr)
	go answer(ready)
	program := struct {
		length uint16
		filter *bpf.RawInstruction
	}{uint16(len(filter)), &filter[0]}
	listener, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setModeFilter, newListener, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("install the filter: %w", errno)
	}
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, listener, requestFlags, 1) // Linux 6.6
	ready <- listener
	return nil
}

// answer lets every call go on. It ends with the process.
func answer(ready <-chan uintptr) {
	runtime.LockOSThread()
	listener := <-ready
	for {
		var notification [10]uint64 // struct seccomp_notif
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, listener, requestReceive, uintptr(unsafe.Pointer(&notification))); errno != 0 {
			if errno == unix.EINTR || errno == unix.ENOENT {
				continue
			}
			return
		}
		response := [3]uint64{notification[0], 0, 1 << 32} // struct seccomp_notif_resp with the flag to go on
		_, _, _ = unix.RawSyscall(unix.SYS_IOCTL, listener, requestSend, uintptr(unsafe.Pointer(&response)))
	}
}
