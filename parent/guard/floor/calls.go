package floor

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
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

	// What changes an inode through a descriptor that is open for reading (include/uapi/linux/fs.h, fsverity.h).
	fsSetFlags    = 0x40086602 // FS_IOC_SETFLAGS
	fsSetXattr    = 0x401c5820 // FS_IOC_FSSETXATTR
	fsSetVersion  = 0x40087602 // FS_IOC_SETVERSION
	ext4Version   = 0x40086604 // EXT4_IOC_SETVERSION
	fsEnableSeals = 0x40806685 // FS_IOC_ENABLE_VERITY

	// SetID are the mode bits with which a program runs as its owner or group, whoever starts it. An agent cannot gain from them
	// itself (no_new_privs), but others would act for it.
	SetID = unix.S_ISUID | unix.S_ISGID

	// readImpliesExec makes every mapping that can be read executable (READ_IMPLIES_EXEC, include/uapi/linux/personality.h): then
	// none would be seen to be mapped for execution. queryPersonality changes nothing.
	readImpliesExec  = 0x0400000
	queryPersonality = 0xffffffff

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
	{Name: "syslog", Errno: unix.EPERM},
	{Name: "uselib", Errno: unix.ENOSYS, Quiet: true},
	{Name: "personality", Errno: unix.EPERM, when: executableReads},

	// What reaches other programs by number or name, past every rule on files. A policy can allow these by name.
	{Name: "shmget", Errno: unix.EPERM},
	{Name: "shmat", Errno: unix.EPERM},
	{Name: "shmctl", Errno: unix.EPERM},
	{Name: "msgget", Errno: unix.EPERM},
	{Name: "msgsnd", Errno: unix.EPERM},
	{Name: "msgrcv", Errno: unix.EPERM},
	{Name: "msgctl", Errno: unix.EPERM},
	{Name: "semget", Errno: unix.EPERM},
	{Name: "semop", Errno: unix.EPERM},
	{Name: "semtimedop", Errno: unix.EPERM},
	{Name: "semctl", Errno: unix.EPERM},
	{Name: "mq_open", Errno: unix.EPERM},
	{Name: "mq_unlink", Errno: unix.EPERM},

	// Other processes and keys.
	{Name: "ptrace", Errno: unix.EPERM},
	{Name: "process_vm_readv", Errno: unix.EPERM},
	{Name: "process_vm_writev", Errno: unix.EPERM},
	{Name: "pidfd_getfd", Errno: unix.EPERM},
	{Name: "process_madvise", Errno: unix.EPERM},
	{Name: "process_mrelease", Errno: unix.EPERM},
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
	{Name: "name_to_handle_at", Errno: unix.EPERM},
	{Name: "file_setattr", Errno: unix.EPERM},

	// Input into the terminal of the person who watches, and changes to files that are open for reading.
	{Name: "ioctl", Errno: unix.EPERM, when: ioctls},

	// Sockets that the network guard does not hold.
	{Name: "socket", Errno: unix.EPERM, when: sockets},
	// The host itself tells the network of each membership in a multicast group (IGMP, MLD): bytes of the agent's choice, in
	// packets that are not the agent's. Others lead packets on another way than the rules' addresses say: by an interface, a mark, a
	// route of the sender's, somebody else's address. A policy can allow setsockopt by name.
	{Name: "setsockopt", Errno: unix.EPERM, when: socketOptions},
}

// namedIoctls are the requests that are refused one by one.
var namedIoctls = map[uint32]string{
	unix.TIOCSTI: "TIOCSTI", TIOCLINUX: "TIOCLINUX", fsSetFlags: "FS_IOC_SETFLAGS", fsSetXattr: "FS_IOC_FSSETXATTR",
	fsSetVersion: "FS_IOC_SETVERSION", ext4Version: "EXT4_IOC_SETVERSION", fsEnableSeals: "FS_IOC_ENABLE_VERITY",
}

// IoctlName names a request that is refused.
func IoctlName(request uint32) string {
	if name, known := namedIoctls[request]; known {
		return name
	}
	return fmt.Sprintf("btrfs request %#x", request)
}

// ioctls refuses requests by which a terminal is written to, and those that change files through a descriptor which is open for
// reading: some of every file system, and on btrfs all but the copies that need one for writing (FICLONE, FICLONERANGE,
// FIDEDUPERANGE; include/uapi/linux/fs.h): a folder that may only be read would get subvolumes otherwise.
func ioctls(refused uint32) fragment {
	const typeBits, btrfs = 0xff00, 0x9400 // _IOC_TYPE, include/uapi/asm-generic/ioctl.h; BTRFS_IOCTL_MAGIC
	return chain(
		oneOf(1, slices.Sorted(maps.Keys(namedIoctls))...)(refused),
		when(1, typeBits, btrfs, chain(oneOf(1, unix.FICLONE, unix.FICLONERANGE, unix.FIDEDUPERANGE)(retAllow), ret(refused))),
	)
}

// executableReads refuses a personality in which what can be read can be executed.
func executableReads(refused uint32) fragment {
	return unless(0, queryPersonality, ifAnyBit(0, readImpliesExec, ret(refused)))
}

// MapCall maps a file. It is notified where the file is to be executed: the dynamic loader executes programs and libraries in no
// other way, and Landlock's right to execute does not hold it.
const MapCall = "mmap"

// executableMappings are the uses of MapCall that map a file for execution, and all by which glibc's loader maps one: it alone sets
// MAP_DENYWRITE, which the kernel ignores. A library can have its code written by the loader, as relocations of anonymous memory that
// its header has made executable, and then no mapping of the file is for execution. The kernel takes both arguments as wider values, in
// whose high halves it knows no bits.
func executableMappings(notify uint32) fragment {
	return ifNoBit(3, unix.MAP_ANONYMOUS, chain(ifAnyBit(3, unix.MAP_DENYWRITE, ret(notify)), ifAnyBit(2, unix.PROT_EXEC, ret(notify))))
}

// Lifted reports whether a permit allows what is otherwise refused, by name.
func (r Refusal) Lifted(permit *policy.Policy) bool {
	action, named := permit.Syscalls[r.Name]
	return named && action != policy.SyscallDeny && policy.RefusedUnlessAllowed(r.Name)
}

// Refuses reports whether a call with these arguments is refused, and with which error. A policy that logs a call by name has it
// notified whatever its arguments are.
func (r Refusal) Refuses(args [6]uint64) (unix.Errno, bool) {
	if r.when == nil {
		return r.Errno, true
	}
	switch answer := r.when(retNotify).on(args); {
	case answer == retAllow:
		return 0, false
	case answer&^0xffff == retErrno:
		return unix.Errno(answer & 0xffff), true
	}
	return r.Errno, true
}

// toldSignals are the calls by which programs signal one process. Landlock keeps signals inside without a word: they are notified so
// that a refusal is told and recorded. Groups are left to Landlock, which leaves out of them who is not the agent's; so are threads,
// which runtimes signal all the time.
func toldSignals(answer uint32) map[string]fragment {
	one := ifBetween(0, 1, math.MaxInt32, ret(answer))
	return map[string]fragment{"kill": one, "tkill": one, "rt_sigqueueinfo": one, "pidfd_send_signal": ret(answer)}
}

// SignalCalls send signals. The warden decides them where Landlock does not keep signals inside (SignalsHeld).
var SignalCalls = []string{"kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"}

// attributeReads read extended attributes by path. No right of Landlock holds them, and the warden does not decide them: where
// files are governed they are answered as by a file system that has none. A file that is open still shows its own.
var attributeReads = []string{"getxattr", "lgetxattr", "getxattrat", "listxattr", "llistxattr", "listxattrat"}

// ofOthers are the calls that act on another process by its number, so far as they do: the warden decides whether it is one of
// the agent's. Where the first argument is a pid, 0 is the caller itself.
func ofOthers(notify uint32) map[string]fragment {
	const process = 1 // IOPRIO_WHO_PROCESS, include/uapi/linux/ioprio.h
	rules := map[string]fragment{
		"setpriority": chain(when(0, anyBits, unix.PRIO_PROCESS, when(1, anyBits, 0, ret(retAllow))), ret(notify)),
		"ioprio_set":  chain(when(0, anyBits, process, when(1, anyBits, 0, ret(retAllow))), ret(notify)),
	}
	for _, name := range []string{"sched_setscheduler", "sched_setparam", "sched_setattr", "sched_setaffinity", "migrate_pages", "move_pages"} {
		rules[name] = unless(0, 0, ret(notify))
	}
	return rules
}

// settingID are the calls that can set SetID on a file or make a device, so far as they do.
func settingID(notify uint32) map[string]fragment {
	const creates = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY
	at := func(mode int) fragment { return ifAnyBit(mode, SetID, ret(notify)) }
	node := func(mode int) fragment {
		return chain(when(mode, unix.S_IFMT, unix.S_IFCHR, ret(notify)), when(mode, unix.S_IFMT, unix.S_IFBLK, ret(notify)), at(mode))
	}
	return map[string]fragment{
		"chmod": at(1), "fchmod": at(1), "fchmodat": at(2), "fchmodat2": at(2), "mknod": node(1), "mknodat": node(2), "creat": at(1),
		"open": ifAnyBit(1, creates, at(2)), "openat": ifAnyBit(2, creates, at(3)),
	}
}

// Refusals returns the base filter. A policy that allows one of these calls by name lifts nothing, unless Lifted says so.
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

// leading are the options that lead packets on another way, by level. The network guard drops what carries IPv4 options or an IPv6
// routing header anyhow, also where a message brings it along.
var leading = map[uint32]map[uint32]string{
	unix.SOL_SOCKET: {unix.SO_BINDTODEVICE: "SO_BINDTODEVICE", unix.SO_BINDTOIFINDEX: "SO_BINDTOIFINDEX", unix.SO_MARK: "SO_MARK"},
	unix.IPPROTO_IP: {unix.IP_OPTIONS: "IP_OPTIONS", unix.IP_TRANSPARENT: "IP_TRANSPARENT", unix.IP_UNICAST_IF: "IP_UNICAST_IF"},
	unix.IPPROTO_IPV6: {
		unix.IPV6_2292PKTOPTIONS: "IPV6_2292PKTOPTIONS", unix.IPV6_HOPOPTS: "IPV6_HOPOPTS", unix.IPV6_RTHDRDSTOPTS: "IPV6_RTHDRDSTOPTS",
		unix.IPV6_RTHDR: "IPV6_RTHDR", unix.IPV6_DSTOPTS: "IPV6_DSTOPTS", unix.IPV6_TRANSPARENT: "IPV6_TRANSPARENT", unix.IPV6_UNICAST_IF: "IPV6_UNICAST_IF",
	},
}

// OptionName says in words which socket option was refused.
func OptionName(level, option uint32) string {
	if name := leading[level][option]; name != "" {
		return "option " + name
	}
	return fmt.Sprintf("multicast membership, option %d", int32(option))
}

// socketOptions refuses leading, and the options that join, leave or filter multicast groups: IP_ADD_MEMBERSHIP (35) to MCAST_MSFILTER
// (48) of IPv4, and of IPv6 20, 21, 27, 28 and the same MCAST_* (include/uapi/linux/in.h, in6.h).
func socketOptions(refused uint32) fragment {
	of := func(level uint32) fragment { return oneOf(2, slices.Sorted(maps.Keys(leading[level]))...)(refused) }
	six := chain(ifBetween(2, 20, 21, ret(refused)), ifBetween(2, 27, 28, ret(refused)), ifBetween(2, 42, 48, ret(refused)))
	return chain(
		when(1, anyBits, unix.SOL_SOCKET, of(unix.SOL_SOCKET)),
		when(1, anyBits, unix.IPPROTO_IP, chain(ifBetween(2, 35, 48, ret(refused)), of(unix.IPPROTO_IP))),
		when(1, anyBits, unix.IPPROTO_IPV6, chain(six, of(unix.IPPROTO_IPV6))),
	)
}
