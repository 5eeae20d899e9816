package floor

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// Rights on files (include/uapi/linux/landlock.h). Those that only make sense below a folder may not be granted on a file.
const (
	rightsFile = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

	rightsRead = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	rightsExec = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR

	rightsWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_REFER |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM

	// scopes keep signals and abstract unix sockets inside the domain (ABI 6).
	scopes = unix.LANDLOCK_SCOPE_SIGNAL | unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
)

// truncateABI is the first one that knows truncation.
const truncateABI = 3

// scopesABI is the first one with scopes.
const scopesABI = 6

// MinimumABI is the oldest Landlock that Raypher accepts: 2, with the right to link and rename between folders (Linux 5.19).
const MinimumABI = 2

// ErrLandlock means that this kernel has no Landlock that could serve as a floor.
var ErrLandlock = errors.New("landlock is missing: boot with landlock in lsm=, on Linux 6.1 or newer")

// rulesetAttr mirrors struct landlock_ruleset_attr.
type rulesetAttr struct {
	handledFS  uint64
	handledNet uint64 // always 0: the network guard holds the network, on every protocol
	scoped     uint64
}

// pathBeneathAttr mirrors struct landlock_path_beneath_attr, which is packed: 12 bytes.
type pathBeneathAttr struct {
	allowed  uint64
	parentFD int32
}

// ABI is the Landlock version of this kernel.
func ABI() (int, error) {
	version, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, fmt.Errorf("%w (%w)", ErrLandlock, errno)
	}
	if version < MinimumABI {
		return int(version), fmt.Errorf("%w (its ABI is %d, %d is needed)", ErrLandlock, version, MinimumABI)
	}
	return int(version), nil
}

// handled are the rights that an ABI knows.
func handled(abi int) uint64 {
	last := unix.LANDLOCK_ACCESS_FS_REFER
	switch {
	case abi >= 5:
		last = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	case abi >= truncateABI:
		last = unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	return uint64(last)<<1 - 1
}

// rights translates an access of the policy language.
func rights(a policy.Access) uint64 {
	all := uint64(0)
	if a&policy.Read != 0 {
		all |= rightsRead
	}
	if a&policy.Write != 0 {
		all |= rightsWrite
	}
	if a&policy.Exec != 0 {
		all |= rightsExec
	}
	return all
}

// ruleset is a Landlock ruleset that is being built.
type ruleset struct {
	fd      int
	abi     int
	handled uint64
}

// newRuleset handles the given rights, as far as the kernel knows them, and both scopes.
func newRuleset(abi int, wanted uint64) (*ruleset, error) {
	attr := rulesetAttr{handledFS: wanted & handled(abi)}
	size := unsafe.Sizeof(attr)
	switch {
	case abi >= scopesABI:
		attr.scoped = scopes
	case abi >= 4:
		size = 16
	default:
		size = 8
	}
	if attr.handledFS == 0 && attr.scoped == 0 {
		// A ruleset must handle something; devices cannot be made without capabilities anyway.
		attr.handledFS = unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return nil, fmt.Errorf("create landlock ruleset: %w", errno)
	}
	return &ruleset{fd: int(fd), abi: abi, handled: attr.handledFS}, nil
}

// allow grants rights on the object behind an O_PATH descriptor and, for a folder, on everything below it.
func (r *ruleset) allow(fd int, folder bool, allowed uint64) error {
	allowed &= r.handled
	if !folder {
		allowed &= rightsFile
	}
	if allowed == 0 {
		return nil
	}
	attr := pathBeneathAttr{allowed: allowed, parentFD: int32(fd)}
	_, _, errno := unix.RawSyscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(r.fd), unix.LANDLOCK_RULE_PATH_BENEATH,
		uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// restrict puts the calling thread, and all that it executes, into the domain. It needs no_new_privs.
func (r *ruleset) restrict() error {
	_, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(r.fd), 0, 0)
	if errno != 0 {
		return fmt.Errorf("enter landlock domain: %w", errno)
	}
	return nil
}

func (r *ruleset) close() { unix.Close(r.fd) }
