// Package sandbox takes from the enclave process what serving does not need: root, capabilities, other files, the network,
// other programs and most system calls. After Enter a bug in the service gives an attacker this process and nothing
// around it.
//
//   - own user and group, no capability in any set, no_new_privs, not dumpable, no core file
//   - Landlock: files only below the given folders; no TCP; no abstract unix sockets and no signals outside (as far as the
//     kernel's Landlock goes)
//   - seccomp: an allow list of what the Go runtime, files and accepted connections need; no execve, no new processes, no
//     new sockets, no memory that can be executed
//
// Everything is applied to all threads. There is no way back.
package sandbox

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsupported: this kernel or this build cannot confine the process. Nothing or only a part was applied; a caller that goes
// on says so.
var ErrUnsupported = errors.New("this host or build cannot confine the process")

// Options say who the process becomes and which folders it keeps.
type Options struct {
	// UID and GID of the process afterwards. Other ones than the present need root.
	UID, GID int
	// ReadWrite are absolute paths of folders in which files may be read, written, made, linked, renamed and removed.
	ReadWrite []string
	// Ioctl is the one request of ioctl(2) that open descriptors still take; 0: none.
	Ioctl uint32
	// WithoutLandlock makes a kernel without Landlock one that will do, and is called with the reason. It is for machines that hold
	// nothing but this process, as an enclave image does: what Landlock would keep from it is not there. Everything else is
	// required as before. Nil: Landlock is required.
	WithoutLandlock func(reason error)
}

// Enter confines the process. Descriptors that are open stay usable. Errors wrap ErrUnsupported where trying again after a
// change of the host would not be a change of the options.
func Enter(o Options) error {
	if o.UID == 0 || o.GID == 0 {
		return errors.New("will not serve as root: give the process a user of its own")
	}
	if err := setNoNewPrivileges(); err != nil {
		return errors.Join(err, changeUser(o.UID, o.GID)) // who goes on without a sandbox does so as its user at least
	}
	for _, limit := range []struct {
		resource int
		value    uint64
	}{{unix.RLIMIT_CORE, 0}, {unix.RLIMIT_NOFILE, maxFiles}} {
		var had unix.Rlimit // only root raises its upper one
		if err := unix.Getrlimit(limit.resource, &had); err != nil {
			return fmt.Errorf("read resource limit %d: %w", limit.resource, err)
		}
		value := min(limit.value, had.Max)
		if err := unix.Setrlimit(limit.resource, &unix.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("set resource limit %d: %w", limit.resource, err)
		}
	}
	if err := becomeUser(o.UID, o.GID); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil { // of the whole process: it lies in its mm
		return fmt.Errorf("become undumpable: %w", err)
	}
	err := landlock(o.ReadWrite)
	if err != nil && errors.Is(err, ErrUnsupported) && o.WithoutLandlock != nil {
		o.WithoutLandlock(err)
		err = nil
	}
	if err != nil {
		return err
	}
	return seccomp(o.Ioctl)
}

// maxFiles bounds open descriptors: connections of 2,048 agents' calls and as many to providers, others, temporary files, and what the
// runtime holds.
const maxFiles = 2*2048 + 256

// setNoNewPrivileges also finds out whether this build can act on all threads.
func setNoNewPrivileges() error {
	_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0)
	if errno == syscall.ENOTSUP {
		return fmt.Errorf("%w: it was built with cgo, which hides threads from Go: build it with CGO_ENABLED=0", ErrUnsupported)
	}
	if errno != 0 {
		return fmt.Errorf("set no_new_privs: %w", errno)
	}
	return nil
}

// lastCapability is above every capability that kernels know; linux/capability.h ends at 40 today.
const lastCapability = 63

// becomeUser drops every capability from the bounding set, changes the user, and clears what is left.
func becomeUser(uid, gid int) error {
	if unix.Geteuid() == 0 {
		for capability := uintptr(0); capability <= lastCapability; capability++ {
			_, _, errno := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0, 0, 0, 0)
			if errno == unix.EINVAL {
				break // the kernel knows no more
			}
			if errno != 0 {
				return fmt.Errorf("drop capability %d: %w", capability, errno)
			}
		}
	}
	if err := changeUser(uid, gid); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0)
	runtime.KeepAlive(&header)
	runtime.KeepAlive(&none)
	if errno != 0 {
		return fmt.Errorf("drop capabilities: %w", errno)
	}
	return nil
}

func changeUser(uid, gid int) error {
	if unix.Geteuid() == 0 {
		if err := syscall.Setgroups([]int{}); err != nil {
			return fmt.Errorf("drop supplementary groups: %w", err)
		}
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("become gid %d: %w", gid, err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("become uid %d: %w", uid, err)
	}
	return nil
}
