package probe

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Flags are those of open, by short names with commas between them.
func Flags(text string) int {
	all := map[string]int{
		"r": unix.O_RDONLY, "w": unix.O_WRONLY, "rw": unix.O_RDWR, "creat": unix.O_CREAT, "excl": unix.O_EXCL,
		"trunc": unix.O_TRUNC, "append": unix.O_APPEND, "path": unix.O_PATH, "nofollow": unix.O_NOFOLLOW,
		"dir": unix.O_DIRECTORY, "tmp": unix.O_TMPFILE,
	}
	flags := 0
	for _, one := range strings.Split(text, ",") {
		flags |= all[one]
	}
	return flags
}

// Number reads an integer in any base; a mistake in a table ends the probe.
func Number(text string) int {
	n, err := strconv.ParseInt(text, 0, 64)
	if err != nil {
		panic(err)
	}
	return int(n)
}

// Closed closes a descriptor that was only to be had, and passes the error on.
func Closed(fd int, err error) error {
	if err == nil {
		unix.Close(fd)
	}
	return err
}

var times = []unix.Timespec{{Sec: 1}, {Sec: 2}}

// Actions are what can be done, by name; tests may add more before they run Main. x/sys/unix makes the system calls without further ado.
var Actions = map[string]func([]string) error{}

func init() {
	maps.Copy(Actions, map[string]func([]string) error{
		"open": func(a []string) error { return Closed(unix.Open(a[0], Flags(a[1]), 0o644)) },
		"content": func(a []string) error {
			path := a[0]
			if variable, ok := strings.CutPrefix(path, "ENV:"); ok {
				path = os.Getenv(variable)
			}
			raw, err := os.ReadFile(path)
			if err == nil && string(raw) != a[1] {
				return fmt.Errorf("%q", raw)
			}
			return err
		},
		"put": func(a []string) error {
			fd, err := unix.Open(a[0], Flags(a[1]), 0o666)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			_, err = unix.Write(fd, []byte(a[2]))
			return err
		},
		"openat2": func(a []string) error {
			return Closed(unix.Openat2(unix.AT_FDCWD, a[0], &unix.OpenHow{Flags: uint64(Flags(a[1])), Resolve: uint64(Number(a[2]))}))
		},
		"relative": func(a []string) error { // folder, path, flags
			folder, err := unix.Open(a[0], unix.O_PATH, 0)
			if err != nil {
				return err
			}
			defer unix.Close(folder)
			return Closed(unix.Openat(folder, a[1], Flags(a[2]), 0o644))
		},
		"reopen": func(a []string) error { // path, flags: through O_PATH and /proc/self/fd
			fd, err := unix.Open(a[0], unix.O_PATH, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return Closed(unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), Flags(a[1]), 0))
		},
		"from": func(a []string) error { // folder, action...
			before, err := os.Getwd()
			if err != nil {
				return err
			}
			if err := os.Chdir(a[0]); err != nil {
				return err
			}
			defer os.Chdir(before)
			return Do(a[1:])
		},
		"mkdir":   func(a []string) error { return unix.Mkdir(a[0], 0o755) },
		"rmdir":   func(a []string) error { return unix.Rmdir(a[0]) },
		"unlink":  func(a []string) error { return unix.Unlink(a[0]) },
		"symlink": func(a []string) error { return unix.Symlink(a[0], a[1]) },
		"link":    func(a []string) error { return unix.Link(a[0], a[1]) },
		"linkfollow": func(a []string) error {
			return unix.Linkat(unix.AT_FDCWD, a[0], unix.AT_FDCWD, a[1], unix.AT_SYMLINK_FOLLOW)
		},
		"rename": func(a []string) error { return unix.Rename(a[0], a[1]) },
		"exchange": func(a []string) error {
			return unix.Renameat2(unix.AT_FDCWD, a[0], unix.AT_FDCWD, a[1], unix.RENAME_EXCHANGE)
		},
		"mkfifo":   func(a []string) error { return unix.Mkfifo(a[0], 0o644) },
		"mkdevice": func(a []string) error { return unix.Mknod(a[0], unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) },
		"chmod":    func(a []string) error { return unix.Chmod(a[0], uint32(Number(a[1]))) },
		"fchmod": func(a []string) error {
			return withFile(a[0], func(fd int) error { return unix.Fchmod(fd, uint32(Number(a[1]))) })
		},
		"chown":  func(a []string) error { return unix.Chown(a[0], os.Getuid(), os.Getgid()) },
		"lchown": func(a []string) error { return unix.Lchown(a[0], os.Getuid(), os.Getgid()) },
		"fchown": func(a []string) error {
			return withFile(a[0], func(fd int) error { return unix.Fchown(fd, os.Getuid(), os.Getgid()) })
		},
		"truncate": func(a []string) error { return unix.Truncate(a[0], 1) },
		"utimes":   func(a []string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, a[0], times, 0) },
		"futimes": func(a []string) error {
			return withFile(a[0], func(fd int) error {
				_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&times[0])), 0, 0, 0)
				return errnoOrNil(errno)
			})
		},
		"setxattr":    func(a []string) error { return unix.Setxattr(a[0], "user.raypher", []byte("x"), 0) },
		"removexattr": func(a []string) error { return unix.Removexattr(a[0], "user.raypher") },
		"fsetxattr": func(a []string) error {
			return withFile(a[0], func(fd int) error { return unix.Fsetxattr(fd, "user.raypher", []byte("x"), 0) })
		},
		"tmpfile": func(a []string) error { // folder, name: a file without a name gets one
			fd, err := unix.Open(a[0], unix.O_TMPFILE|unix.O_RDWR, 0o644)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, a[1], unix.AT_SYMLINK_FOLLOW)
		},
		"mode": func(a []string) error {
			var st unix.Stat_t
			if err := unix.Stat(a[0], &st); err != nil {
				return err
			}
			if got := fmt.Sprintf("%o", st.Mode&0o7777); got != a[1] {
				return fmt.Errorf("mode %s", got)
			}
			return nil
		},
		"umask": func(a []string) error { unix.Umask(Number(a[0])); return nil },

		"exec":    func(a []string) error { return exec.Command(a[0], a[1:]...).Run() },
		"execfd":  executeMemory,
		"memfd":   func(a []string) error { return Closed(unix.MemfdCreate("x", Number(a[0]))) },
		"connect": connectTo,
		"socket": func(a []string) error {
			return Closed(unix.Socket(Number(a[0]), Number(a[1]), Number(a[2])))
		},
		"ioctl": func(a []string) error {
			b := byte('x')
			_, _, errno := unix.Syscall(unix.SYS_IOCTL, 0, uintptr(Number(a[0])), uintptr(unsafe.Pointer(&b)))
			return errnoOrNil(errno)
		},
		"call": func(a []string) error { // number and up to six arguments
			var args [7]uintptr
			for i, one := range a {
				args[i] = uintptr(Number(one))
			}
			_, _, errno := unix.Syscall6(args[0], args[1], args[2], args[3], args[4], args[5], args[6])
			return errnoOrNil(errno)
		},
		"kill-self":     func([]string) error { return unix.Kill(os.Getpid(), 0) },
		"self-priority": func([]string) error { return unix.Setpriority(unix.PRIO_PROCESS, os.Getpid(), 2) },
		"kill-pidfd": func(a []string) error {
			fd, err := unix.PidfdOpen(Number(a[0]), 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.PidfdSendSignal(fd, unix.Signal(Number(a[1])), nil, 0)
		},
		"create-mode": func(a []string) error {
			return Closed(unix.Open(a[0], unix.O_WRONLY|unix.O_CREAT, uint32(Number(a[1]))))
		},
		"mknod": func(a []string) error { return unix.Mknod(a[0], uint32(Number(a[1])), 0) },
		"join":  joinGroup,
		"getxattr": func(a []string) error {
			_, err := unix.Getxattr(a[0], "user.raypher", nil)
			return err
		},
		"kill": func(a []string) error { return unix.Kill(Number(a[0]), unix.Signal(Number(a[1]))) },
	})
}

// joinGroup joins a multicast group of IP version 4 or 6, or sets another option of a socket.
func joinGroup(a []string) error {
	family := map[string]int{"4": unix.AF_INET, "6": unix.AF_INET6, "0": unix.AF_INET}[a[0]]
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	switch a[0] {
	case "4":
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: [4]byte{233, 1, 2, 3}, Ifindex: 1})
	case "6":
		return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: [16]byte{0xff, 0x0e, 15: 1}, Interface: 1})
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
}

func errnoOrNil(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}

func withFile(path string, use func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return use(fd)
}

// executeMemory executes a copy of a program in a file in memory.
func executeMemory(a []string) error {
	raw, err := os.ReadFile(a[0])
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("program", Number(a[1]))
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), "program")
	defer file.Close()
	if _, err := file.Write(raw); err != nil {
		return err
	}
	return exec.Command(fmt.Sprintf("/proc/self/fd/%d", fd), append(slices.Clone(Self), "exit")...).Run()
}

func connectTo(a []string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: a[0]}); err != nil {
		return err
	}
	var answer [8]byte
	n, err := unix.Read(fd, answer[:])
	if err == nil && string(answer[:n]) != "hello" {
		err = fmt.Errorf("%q", answer[:n])
	}
	return err
}
