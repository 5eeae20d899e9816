package floor

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Secure bits (include/uapi/linux/securebits.h): uid 0 means nothing, for good.
const (
	secbitNoRoot       = 1 << 0
	secbitNoRootLocked = 1 << 1
)

// DropPrivileges takes every capability from the calling thread and forbids new ones, for whatever it executes: bounding,
// ambient, inheritable, permitted and effective sets are empty but for keep, which is a bit set of capability numbers
// (1<<CAP_KILL and so on) and almost always 0. An agent of root stays uid 0, which then is a user that owns root's files
// and overrides no permission.
func DropPrivileges(keep uint64) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := dropBounding(keep); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := setCapabilities(keep); err != nil {
		return err
	}
	for number := range 64 {
		if keep&(1<<number) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(number), 0, 0); err != nil {
			return fmt.Errorf("keep capability %d: %w", number, err)
		}
	}
	return nil
}

// dropBounding empties the bounding set, which needs CAP_SETPCAP. Without it (a plain user) the set does not matter:
// no_new_privs already keeps execve from gaining anything.
func dropBounding(keep uint64) error {
	held, err := capabilities()
	if err != nil {
		return err
	}
	if held&(1<<unix.CAP_SETPCAP) == 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secbitNoRoot|secbitNoRootLocked, 0, 0, 0); err != nil {
		return fmt.Errorf("set secure bits: %w", err)
	}
	for number := uintptr(0); number < 64; number++ {
		if keep&(1<<number) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, number, 0, 0, 0)
		if err == unix.EINVAL {
			return nil // past the kernel's last capability
		}
		if err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", number, err)
		}
	}
	return nil
}

// capabilities are the effective ones of the calling thread.
func capabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return 0, fmt.Errorf("read capabilities: %w", err)
	}
	return uint64(sets[0].Effective) | uint64(sets[1].Effective)<<32, nil
}

// setCapabilities leaves exactly keep in the permitted, effective and inheritable sets of the calling thread.
func setCapabilities(keep uint64) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	for half := range sets {
		part := uint32(keep >> (32 * half))
		sets[half] = unix.CapUserData{Effective: part, Permitted: part, Inheritable: part}
	}
	_, _, errno := unix.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0)
	if errno != 0 {
		return fmt.Errorf("give up capabilities: %w", errno)
	}
	return nil
}
