package floor

import (
	"encoding/binary"
	"slices"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// answerOf runs a filter on one call. The virtual machine reads words as a network does, so the data is written that way round.
func answerOf(t *testing.T, f Filter, arch string, token uint32, number int, args ...uint64) uint32 {
	t.Helper()
	raw, err := f.assemble(arch)
	if err != nil {
		t.Fatal(err)
	}
	if len(raw) > 4096 { // BPF_MAXINSNS
		t.Fatalf("%d instructions are too many", len(raw))
	}
	program, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the filter holds an unknown instruction")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offsetNumber:], uint32(number))
	binary.BigEndian.PutUint32(data[offsetArch:], token)
	for i, arg := range args {
		binary.BigEndian.PutUint32(data[offsetArguments+8*i:], uint32(arg))
		binary.BigEndian.PutUint32(data[offsetArguments+8*i+4:], uint32(arg>>32))
	}
	answer, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(answer)
}

var (
	governed = &policy.Policy{Mode: policy.Enforce, Filesystem: &policy.Filesystem{}}
	noFiles  = &policy.Policy{Mode: policy.Enforce}
	audited  = &policy.Policy{Mode: policy.Audit, Filesystem: &policy.Filesystem{}}
	lifted   = &policy.Policy{Mode: policy.Enforce, Syscalls: map[string]policy.SyscallAction{
		"shmget": policy.SyscallAllow, "msgget": policy.SyscallLog, "setsockopt": policy.SyscallAllow,
	}}
	byName = &policy.Policy{Mode: policy.Enforce, Syscalls: map[string]policy.SyscallAction{
		"getpid": policy.SyscallDeny, "getppid": policy.SyscallLog, "ptrace": policy.SyscallAllow, "clone3": policy.SyscallLog,
		"prctl": policy.SyscallLog, "ioctl": policy.SyscallLog,
	}}
)

func TestFilter(t *testing.T) {
	errno := func(e unix.Errno) uint32 { return retErrno | uint32(e) }
	for _, tt := range []struct {
		permit *policy.Policy
		call   string
		args   []uint64
		want   uint32
	}{
		{governed, "read", nil, retAllow},
		{governed, "openat", nil, retNotify},
		{noFiles, "openat", nil, retAllow},
		{noFiles, "execve", nil, retAllow},
		{governed, "execve", nil, retNotify},
		{governed, "fchmod", nil, retNotify},
		{governed, "memfd_create", []uint64{0, 1}, retNotify},
		{governed, "memfd_create", []uint64{0, MemfdNoExec}, retAllow},
		{noFiles, "memfd_create", nil, retAllow},

		{governed, "clone3", nil, errno(unix.ENOSYS)},
		{audited, "clone3", nil, retAllow},
		{byName, "clone3", nil, errno(unix.ENOSYS)},
		{governed, "io_uring_setup", nil, retNotify},
		{governed, "ptrace", nil, retNotify},
		{byName, "ptrace", nil, retNotify}, // the base filter is not lifted
		{byName, "getpid", nil, retNotify},
		{byName, "getppid", nil, retNotify},
		{noFiles, "getpid", nil, retAllow},
		{byName, "prctl", []uint64{unix.PR_SET_NAME}, retNotify}, // logged
		{byName, "prctl", []uint64{unix.PR_SET_DUMPABLE, 0}, errno(unix.EPERM)},
		{byName, "ioctl", []uint64{0, unix.TCGETS}, retNotify},

		{governed, "clone", []uint64{uint64(unix.SIGCHLD)}, retAllow},
		{governed, "clone", []uint64{unix.CLONE_VM | unix.CLONE_THREAD}, retAllow},
		{governed, "clone", []uint64{unix.CLONE_NEWUSER}, retNotify},
		{governed, "clone", []uint64{unix.CLONE_NEWNS | 0xff}, retNotify},
		{governed, "unshare", []uint64{unix.CLONE_FS}, retAllow},
		{governed, "unshare", []uint64{unix.CLONE_NEWTIME}, retNotify},
		{governed, "unshare", []uint64{unix.CLONE_FS | unix.CLONE_NEWNET}, retNotify},

		{governed, "ioctl", []uint64{0, unix.TCGETS}, retAllow},
		{governed, "ioctl", []uint64{0, unix.TIOCSTI}, retNotify},
		{governed, "ioctl", []uint64{0, 0xff00000000 | unix.TIOCSTI}, retNotify},
		{governed, "ioctl", []uint64{0, TIOCLINUX}, retNotify},

		{governed, "prlimit64", []uint64{0, 7, 0x1000}, retAllow},
		{governed, "prlimit64", []uint64{1, 7, 0}, retAllow},
		{governed, "prlimit64", []uint64{1, 7, 0x1000}, retNotify},
		{governed, "prlimit64", []uint64{1, 7, 0x100000000}, retNotify},

		{governed, "prctl", []uint64{unix.PR_SET_NAME}, retAllow},
		{governed, "prctl", []uint64{unix.PR_SET_DUMPABLE, 1}, retAllow},
		{governed, "prctl", []uint64{unix.PR_SET_DUMPABLE, 0}, errno(unix.EPERM)},

		{governed, "connect", []uint64{3, 0x1000, SizeInet4}, retAllow},
		{governed, "connect", []uint64{3, 0x1000, SizeInet6}, retAllow},
		{governed, "connect", []uint64{3, 0x1000, 110}, retNotify},
		{noFiles, "connect", []uint64{3, 0x1000, 24}, retNotify},

		{governed, "socket", []uint64{unix.AF_UNIX, unix.SOCK_SEQPACKET, 0}, retAllow},
		{governed, "socket", []uint64{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC, 0}, retAllow},
		{governed, "socket", []uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, retNotify},
		{governed, "socket", []uint64{unix.AF_INET, unix.SOCK_STREAM, protocolMPTCP}, errno(unix.EPROTONOSUPPORT)},
		{governed, "socket", []uint64{unix.AF_INET6, unix.SOCK_DGRAM | unix.SOCK_NONBLOCK, unix.IPPROTO_UDP}, retAllow},
		{governed, "socket", []uint64{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6}, retNotify},
		{governed, "socket", []uint64{unix.AF_INET, unix.SOCK_DGRAM, 136}, retNotify}, // UDP-Lite
		{governed, "socket", []uint64{unix.AF_INET, unix.SOCK_RAW, 0}, retNotify},
		{governed, "socket", []uint64{unix.AF_INET, 6, 0}, retNotify}, // DCCP
		{governed, "socket", []uint64{unix.AF_PACKET, unix.SOCK_RAW, 0}, retNotify},
		{governed, "socket", []uint64{unix.AF_ALG, 5, 0}, retNotify},
		{governed, "socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, retAllow},
		{governed, "socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT}, retNotify},
		{audited, "socket", []uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT}, retNotify},

		{governed, "ioctl", []uint64{0, fsSetXattr}, retNotify},
		{governed, "ioctl", []uint64{0, 0x5000940e}, retNotify}, // BTRFS_IOC_SUBVOL_CREATE
		{governed, "ioctl", []uint64{0, unix.FICLONE}, retAllow},
		{governed, "ioctl", []uint64{0, unix.FIDEDUPERANGE}, retAllow},
		{governed, "name_to_handle_at", nil, retNotify},
		{governed, "open_by_handle_at", nil, retNotify},
		{governed, "file_setattr", nil, retNotify},
		{governed, "setxattrat", nil, retNotify},
		{governed, "removexattrat", nil, retNotify},
		{governed, "open_tree_attr", nil, retNotify},
		{governed, "statmount", nil, retAllow},
		{governed, "landlock_restrict_self", nil, retAllow},
		{governed, "syslog", nil, retNotify},
		{governed, "process_mrelease", nil, retNotify},
		{governed, "personality", []uint64{0xffffffff}, retAllow},
		{governed, "personality", []uint64{0x0040000}, retAllow}, // ADDR_NO_RANDOMIZE
		{governed, "personality", []uint64{readImpliesExec}, retNotify},

		{governed, "mmap", []uint64{0, 4096, unix.PROT_READ | unix.PROT_EXEC, unix.MAP_PRIVATE, 3}, retNotify},
		{governed, "mmap", []uint64{0, 4096, unix.PROT_EXEC, unix.MAP_SHARED, 3}, retNotify},
		{governed, "mmap", []uint64{0, 4096, 0xff00000000 | unix.PROT_EXEC, unix.MAP_PRIVATE, 3}, retNotify},
		{governed, "mmap", []uint64{0, 4096, unix.PROT_READ, unix.MAP_PRIVATE, 3}, retAllow},
		{governed, "mmap", []uint64{0, 4096, unix.PROT_READ, unix.MAP_PRIVATE | unix.MAP_DENYWRITE, 3}, retNotify}, // by glibc's loader
		{governed, "mmap", []uint64{0, 4096, unix.PROT_EXEC, unix.MAP_PRIVATE | unix.MAP_DENYWRITE | unix.MAP_ANONYMOUS}, retAllow},
		{governed, "mmap", []uint64{0, 4096, unix.PROT_EXEC, unix.MAP_PRIVATE | unix.MAP_ANONYMOUS}, retAllow},
		{noFiles, "mmap", []uint64{0, 4096, unix.PROT_EXEC, unix.MAP_PRIVATE, 3}, retAllow},
		{noFiles, "shmget", nil, retNotify},
		{noFiles, "mq_open", nil, retNotify},
		{lifted, "shmget", nil, retAllow},
		{lifted, "msgget", nil, retNotify}, // log
		{lifted, "shmat", nil, retNotify},
		{lifted, "setsockopt", []uint64{3, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP}, retAllow},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP}, retNotify},
		{governed, "setsockopt", []uint64{3, 0xff00000000, unix.IP_ADD_SOURCE_MEMBERSHIP}, retNotify},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IP, 42}, retNotify}, // MCAST_JOIN_GROUP
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IP, 48}, retNotify}, // MCAST_MSFILTER
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL}, retAllow},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP}, retAllow},
		{governed, "setsockopt", []uint64{3, unix.SOL_SOCKET, unix.SO_BINDTODEVICE}, retNotify},
		{governed, "setsockopt", []uint64{3, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX}, retNotify},
		{governed, "setsockopt", []uint64{3, unix.SOL_SOCKET, unix.SO_MARK}, retNotify},
		{governed, "setsockopt", []uint64{3, unix.SOL_SOCKET, unix.SO_KEEPALIVE}, retAllow},
		{governed, "setsockopt", []uint64{3, unix.SOL_SOCKET, unix.IP_OPTIONS}, retAllow}, // another level's number
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IP, 0xff00000000 | unix.IP_OPTIONS}, retNotify},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IP, unix.IP_TRANSPARENT}, retNotify},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IP, unix.IP_TOS}, retAllow},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IPV6, unix.IPV6_RTHDR}, retNotify},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT}, retNotify},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}, retAllow},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_TCP, unix.TCP_NODELAY}, retAllow},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP}, retNotify},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IPV6, unix.IPV6_JOIN_ANYCAST}, retNotify},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IPV6, 46}, retNotify},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}, retAllow},
		{governed, "setsockopt", []uint64{3, unix.SOL_SOCKET, 35}, retAllow},
		{governed, "setsockopt", []uint64{3, unix.IPPROTO_TCP, 42}, retAllow},

		{noFiles, "sched_setaffinity", []uint64{0, 8, 0x1000}, retAllow},
		{noFiles, "sched_setaffinity", []uint64{77, 8, 0x1000}, retNotify},
		{noFiles, "sched_setscheduler", []uint64{1, 5, 0x1000}, retNotify},
		{noFiles, "setpriority", []uint64{unix.PRIO_PROCESS, 0, 5}, retAllow},
		{noFiles, "setpriority", []uint64{unix.PRIO_PROCESS, 77, 5}, retNotify},
		{noFiles, "setpriority", []uint64{unix.PRIO_USER, 0, 5}, retNotify},
		{noFiles, "ioprio_set", []uint64{1, 0, 5}, retAllow},
		{noFiles, "ioprio_set", []uint64{3, 0, 5}, retNotify},
		{noFiles, "kill", []uint64{77, 9}, retNotify}, // Landlock decides too, without telling
		{noFiles, "kill", []uint64{0, 9}, retAllow},   // Landlock alone, or Signals is set
		{noFiles, "kill", []uint64{0xffffffff, 9}, retAllow},
		{noFiles, "tgkill", []uint64{77, 77, 9}, retAllow},

		{noFiles, "fchmod", []uint64{3, 0o755}, retAllow},
		{noFiles, "fchmod", []uint64{3, 0o4755}, retNotify},
		{noFiles, "fchmodat", []uint64{3, 0x1000, 0o2755}, retNotify},
		{noFiles, "mknodat", []uint64{3, 0x1000, unix.S_IFREG | 0o4755}, retNotify},
		{noFiles, "mknodat", []uint64{3, 0x1000, unix.S_IFCHR | 0o644, 0x103}, retNotify},
		{noFiles, "mknodat", []uint64{3, 0x1000, unix.S_IFBLK | 0o644, 0x800}, retNotify},
		{noFiles, "mknodat", []uint64{3, 0x1000, unix.S_IFIFO | 0o644, 0}, retAllow},
		{noFiles, "openat", []uint64{3, 0x1000, unix.O_RDWR, 0o4755}, retAllow}, // the mode means nothing
		{noFiles, "openat", []uint64{3, 0x1000, unix.O_RDWR | unix.O_CREAT, 0o4755}, retNotify},
		{noFiles, "openat", []uint64{3, 0x1000, unix.O_RDWR | unix.O_TMPFILE, 0o4755}, retNotify},
		{noFiles, "openat", []uint64{3, 0x1000, unix.O_RDWR | unix.O_CREAT, 0o755}, retAllow},

		{governed, "getxattr", nil, errno(unix.EOPNOTSUPP)},
		{governed, "fgetxattr", nil, retAllow},
		{noFiles, "getxattr", nil, retAllow},
		{audited, "getxattr", nil, retAllow},
	} {
		for arch, token := range auditArch {
			number, ok := policy.SyscallNumber(arch, tt.call)
			if !ok {
				t.Errorf("%s has no %s", arch, tt.call)
				continue
			}
			if got := answerOf(t, Filter{Permit: tt.permit}, arch, token, number, tt.args...); got != tt.want {
				t.Errorf("%s: %s%#x answers %#x, want %#x", arch, tt.call, tt.args, got, tt.want)
			}
		}
	}
}

func TestFilterOfOtherArchitectures(t *testing.T) {
	i386, x32 := uint32(unix.AUDIT_ARCH_I386), x32Bit|39
	amd64 := auditArch["amd64"]
	for _, tt := range []struct {
		permit *policy.Policy
		token  uint32
		number int
		want   uint32
	}{
		{governed, i386, 20, retKill},
		{governed, auditArch["arm64"], 20, retKill},
		{governed, amd64, x32, retErrno | uint32(unix.ENOSYS)},
		{audited, i386, 20, retNotify},
		{audited, amd64, x32, retNotify},
	} {
		if got := answerOf(t, Filter{Permit: tt.permit}, "amd64", tt.token, tt.number); got != tt.want {
			t.Errorf("architecture %#x, call %#x: %#x, want %#x", tt.token, tt.number, got, tt.want)
		}
	}
}

// TestNewerCalls: a kernel that is newer than this program has calls that nobody has looked at.
func TestNewerCalls(t *testing.T) {
	for arch, token := range auditArch {
		last := policy.LastSyscall(arch)
		for _, tt := range []struct {
			permit *policy.Policy
			number int
			want   uint32
		}{
			{governed, last, retAllow},
			{governed, last + 1, retErrno | uint32(unix.ENOSYS)},
			{noFiles, 1 << 20, retErrno | uint32(unix.ENOSYS)},
			{audited, last + 1, retNotify},
		} {
			if got := answerOf(t, Filter{Permit: tt.permit}, arch, token, tt.number); got != tt.want {
				t.Errorf("%s: call %d answers %#x, want %#x", arch, tt.number, got, tt.want)
			}
		}
	}
}

// TestRefusesByArguments: what the warden finds in a call that is notified for another reason is what the filter would have done.
func TestRefusesByArguments(t *testing.T) {
	byName := map[string]Refusal{}
	for _, r := range refusals {
		byName[r.Name] = r
	}
	for _, tt := range []struct {
		call  string
		args  [6]uint64
		errno unix.Errno // 0: not refused
	}{
		{"ioctl", [6]uint64{0, unix.TCGETS}, 0},
		{"ioctl", [6]uint64{0, unix.TIOCSTI}, unix.EPERM},
		{"clone", [6]uint64{uint64(unix.SIGCHLD)}, 0},
		{"clone", [6]uint64{unix.CLONE_NEWUSER}, unix.EPERM},
		{"socket", [6]uint64{unix.AF_INET, unix.SOCK_STREAM, 0}, 0},
		{"socket", [6]uint64{unix.AF_INET, unix.SOCK_STREAM, protocolMPTCP}, unix.EPROTONOSUPPORT},
		{"socket", [6]uint64{unix.AF_PACKET, unix.SOCK_RAW, 0}, unix.EPERM},
		{"prlimit64", [6]uint64{1, 7, 1 << 40}, unix.EPERM},
		{"ptrace", [6]uint64{}, unix.EPERM},
	} {
		errno, refused := byName[tt.call].Refuses(tt.args)
		if refused != (tt.errno != 0) || errno != tt.errno {
			t.Errorf("%s%#x: %v, %v, want %v", tt.call, tt.args, errno, refused, tt.errno)
		}
	}
}

// Where programs of BPF LSM hold files, no call on a file is notified, unless a person may have to be asked. What they do not
// hold is notified all the same.
func TestFilterWhereFilesAreHeld(t *testing.T) {
	plain := &policy.Policy{Filesystem: &policy.Filesystem{Read: []string{"/**"}}}
	asking := &policy.Policy{Filesystem: &policy.Filesystem{Read: []string{"/**"}, RequireApproval: []string{"/a"}}}
	none := &policy.Policy{}
	number := func(name string) int { n, _ := policy.SyscallNumber("amd64", name); return n }
	for _, name := range append([]string{"memfd_create"}, FileCalls...) {
		for permit, want := range map[*policy.Policy]uint32{plain: retAllow, asking: retNotify, none: retAllow} {
			f := Filter{Permit: permit, FilesHeld: true}
			if got := answerOf(t, f, "amd64", auditArch["amd64"], number(name), 0, 0, SetID, SetID); got != want {
				t.Errorf("%s under %+v: %#x, want %#x", name, permit.Filesystem, got, want)
			}
		}
	}
	f := Filter{Permit: plain, FilesHeld: true, Signals: true}
	for name, want := range map[string]uint32{"kill": retAllow, "sched_setaffinity": retNotify, "ptrace": retNotify, "connect": retNotify} {
		if got := answerOf(t, f, "amd64", auditArch["amd64"], number(name), 17, 0); got != want {
			t.Errorf("%s: %#x, want %#x", name, got, want)
		}
	}
}

func TestFileCallsAreKnown(t *testing.T) {
	known := policy.Syscalls()
	for _, name := range FileCalls {
		if !slices.Contains(known, name) {
			t.Errorf("%s is no system call", name)
		}
	}
	for _, r := range refusals {
		if !slices.Contains(known, r.Name) {
			t.Errorf("%s is no system call", r.Name)
		}
	}
}

func TestNeedsAllConnects(t *testing.T) {
	for _, tt := range []struct {
		unix    []string
		sockets []string
		want    bool
	}{
		{nil, nil, false},
		{nil, []string{"/run/raypher/agent.sock"}, false},
		{[]string{"/run/user/1000/bus"}, nil, false},
		{[]string{"/run/user/*/bus"}, nil, true},
		{[]string{"/tmp/abcdefgh"}, nil, true},  // 13 and its zero byte
		{[]string{"/tmp/abcdefghi"}, nil, true}, // 14
		{nil, []string{"/tmp/abcdefghijklmnopqrst"}, true},
	} {
		p := &policy.Policy{Network: &policy.Network{Unix: tt.unix}}
		if got := NeedsAllConnects(p, tt.sockets...); got != tt.want {
			t.Errorf("NeedsAllConnects(%q, %q) = %v", tt.unix, tt.sockets, got)
		}
	}
}
