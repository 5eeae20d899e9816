package floor

import (
	"slices"

	"golang.org/x/sys/unix"
)

// FileCalls are the system calls that name or change a file and that the warden decides where the permit governs files.
var FileCalls = []string{
	"open", "openat", "openat2", "creat",
	"truncate",
	"mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "link", "linkat",
	"rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir",
	"chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat",
	"utime", "utimes", "futimesat", "utimensat",
	"setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
	"execve", "execveat",
}

// Refusal is a system call that no agent may make, or not with some arguments.
type Refusal struct {
	Name  string
	Errno unix.Errno
	// Quiet: the kernel answers itself and nobody is told. For calls that honest programs try and do without.
	Quiet bool
	// when limits the refusal to some arguments; nil: always. Its fragment returns refused or falls through.
	when func(refused uint32) fragment
}

// Arguments that are refused.
const (
	// namespaceFlags are the CLONE_NEW* flags of clone and unshare (include/uapi/linux/sched.h).
	namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
		unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWTIME
	// cloneNamespaceFlags leave out CLONE_NEWTIME, which lies in the bits of clone's exit signal.
	cloneNamespaceFlags = namespaceFlags &^ unix.CLONE_NEWTIME

	// TIOCLINUX pastes into the console.
	TIOCLINUX = 0x541c // include/uapi/asm-generic/ioctls.h; not in x/sys/unix

	// MemfdNoExec makes memory files that cannot be executed (MFD_NOEXEC_SEAL, Linux 6.3).
	MemfdNoExec = unix.MFD_NOEXEC_SEAL

	protocolMPTCP = 262
)

// refusals is the base filter: what the guard could be undone with, what reaches past it, and what it does not understand.
var refusals = []Refusal{
	// Work that the filter would not see: io_uring runs calls without entering them, clone3 hides its flags in memory. Programs
	// take ENOSYS for an old kernel and do without.
	{Name: "clone3", Errno: unix.ENOSYS, Quiet: true},
	{Name: "io_uring_setup", Errno: unix.ENOSYS},
	{Name: "io_uring_enter", Errno: unix.ENOSYS},
	{Name: "io_uring_register", Errno: unix.ENOSYS},

	// Other namespaces, mounts and roots: paths and identities would mean something else than to the guard.
	{Name: "unshare", Errno: unix.EPERM, when: anyFlag(0, namespaceFlags)},
	{Name: "clone", Errno: unix.EPERM, when: anyFlag(0, cloneNamespaceFlags)},
	{Name: "setns", Errno: unix.EPERM},
	{Name: "mount", Errno: unix.EPERM},
	{Name: "umount2", Errno: unix.EPERM},
	{Name: "pivot_root", Errno: unix.EPERM},
	{Name: "chroot", Errno: unix.EPERM},
	{Name: "open_tree", Errno: unix.EPERM},
	{Name: "open_tree_attr", Errno: unix.EPERM},
	{Name: "move_mount", Errno: unix.EPERM},
	{Name: "fsopen", Errno: unix.EPERM},
	{Name: "fsconfig", Errno: unix.EPERM},
	{Name: "fsmount", Errno: unix.EPERM},
	{Name: "fspick", Errno: unix.EPERM},
	{Name: "mount_setattr", Errno: unix.EPERM},

	// The kernel itself.
	{Name: "bpf", Errno: unix.EPERM},
	{Name: "init_module", Errno: unix.EPERM},
	{Name: "finit_module", Errno: unix.EPERM},
	{Name: "delete_module", Errno: unix.EPERM},
	{Name: "kexec_load", Errno: unix.EPERM},
	{Name: "kexec_file_load", Errno: unix.EPERM},
	{Name: "reboot", Errno: unix.EPERM},
	{Name: "swapon", Errno: unix.EPERM},
	{Name: "swapoff", Errno: unix.EPERM},
	{Name: "acct", Errno: unix.EPERM},
	{Name: "quotactl", Errno: unix.EPERM},
	{Name: "quotactl_fd", Errno: unix.EPERM},
	{Name: "iopl", Errno: unix.EPERM},
	{Name: "ioperm", Errno: unix.EPERM},
	{Name: "settimeofday", Errno: unix.EPERM},
	{Name: "clock_settime", Errno: unix.EPERM},
	{Name: "sethostname", Errno: unix.EPERM},
	{Name: "setdomainname", Errno: unix.EPERM},
	{Name: "lsm_set_self_attr", Errno: unix.EPERM},

	// Other processes and keys.
	{Name: "ptrace", Errno: unix.EPERM},
	{Name: "process_vm_readv", Errno: unix.EPERM},
	{Name: "process_vm_writev", Errno: unix.EPERM},
	{Name: "pidfd_getfd", Errno: unix.EPERM},
	{Name: "process_madvise", Errno: unix.EPERM},
	{Name: "kcmp", Errno: unix.EPERM},
	{Name: "keyctl", Errno: unix.EPERM},
	{Name: "add_key", Errno: unix.EPERM},
	{Name: "request_key", Errno: unix.EPERM},
	{Name: "perf_event_open", Errno: unix.EPERM},
	{Name: "userfaultfd", Errno: unix.EPERM},
	{Name: "fanotify_init", Errno: unix.EPERM},
	{Name: "prlimit64", Errno: unix.EPERM, when: limitsOfOthers},

	// Files past their path.
	{Name: "open_by_handle_at", Errno: unix.EPERM},
	{Name: "file_setattr", Errno: unix.EPERM},

	// Input into the terminal of the person who watches.
	{Name: "ioctl", Errno: unix.EPERM, when: oneOf(1, unix.TIOCSTI, TIOCLINUX)},

	// Sockets that the network guard does not hold.
	{Name: "socket", Errno: unix.EPERM, when: sockets},
}

// Refusals returns the base filter. A policy that allows one of these calls by name lifts nothing.
func Refusals() []Refusal { return slices.Clone(refusals) }

// anyFlag refuses when one of the flags is set in an argument.
func anyFlag(argument int, flags uint32) func(uint32) fragment {
	return func(refused uint32) fragment { return ifAnyBit(argument, flags, ret(refused)) }
}

// oneOf refuses when an argument has one of the values.
func oneOf(argument int, values ...uint32) func(uint32) fragment {
	return func(refused uint32) fragment {
		var all fragment
		for _, value := range values {
			all = append(all, when(argument, anyBits, value, ret(refused))...)
		}
		return all
	}
}

// limitsOfOthers refuses setting the resource limits of another process: the warden runs as the same user.
func limitsOfOthers(refused uint32) fragment {
	return unless(0, 0, ifNotNull(2, ret(refused)))
}

// sockets refuses the families, types and protocols that the network guard does not hold. Multipath TCP is refused quietly:
// Go and curl try it first and take plain TCP.
func sockets(refused uint32) fragment {
	const kind = 0xf // SOCK_TYPE_MASK, include/linux/net.h
	internet := chain(
		when(1, kind, unix.SOCK_STREAM, chain(
			when(2, anyBits, 0, ret(retAllow)),
			when(2, anyBits, unix.IPPROTO_TCP, ret(retAllow)),
			when(2, anyBits, protocolMPTCP, ret(retErrno|uint32(unix.EPROTONOSUPPORT))),
		)),
		when(1, kind, unix.SOCK_DGRAM, chain(
			when(2, anyBits, 0, ret(retAllow)),
			when(2, anyBits, unix.IPPROTO_UDP, ret(retAllow)),
		)),
		ret(refused),
	)
	return chain(
		when(0, anyBits, unix.AF_UNIX, ret(retAllow)),
		when(0, anyBits, unix.AF_INET, internet),
		when(0, anyBits, unix.AF_INET6, internet),
		when(0, anyBits, unix.AF_NETLINK, when(2, anyBits, unix.NETLINK_ROUTE, ret(retAllow))),
		ret(refused),
	)
}
