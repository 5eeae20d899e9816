// Command probe enters the sandbox and then tries what an attacker in the enclave would try. It prints a JSON object: for
// each attempt the error number, 0 where the attempt succeeded. The test beside package sandbox builds it and reads that.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/enclave/sandbox"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// run: UID, folder that stays, port of a TCP listener, path of a unix socket outside.
func run(args []string) error {
	uid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	folder := args[1]
	port, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	tcp, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0) // opened before: Landlock alone must hold its connect
	if err != nil {
		return err
	}
	status, err := os.Open("/proc/self/status") // read through the descriptor afterwards
	if err != nil {
		return err
	}
	if err := sandbox.Enter(sandbox.Options{UID: uid, GID: uid, ReadWrite: []string{folder}, Ioctl: unix.TIOCINQ}); err != nil {
		return err
	}
	results := map[string]int{}
	for name, attempt := range attempts(folder, tcp, port, args[3]) {
		err := attempt()
		var errno syscall.Errno
		if errors.As(err, &errno) {
			results[name] = int(errno)
		} else if err != nil {
			results[name] = -1
		} else {
			results[name] = 0
		}
	}
	text := make([]byte, 8192)
	n, err := status.Read(text)
	if err != nil {
		return err
	}
	lines := map[string]string{}
	for _, line := range strings.Split(string(text[:n]), "\n") {
		key, value, _ := strings.Cut(line, ":")
		lines[key] = strings.TrimSpace(value)
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"attempts": results, "status": lines})
}

func attempts(folder string, tcp, port int, outside string) map[string]func() error {
	own := filepath.Join(folder, "own")
	return map[string]func() error{
		"write in own folder": func() error { return os.WriteFile(own, []byte("x"), 0o600) },
		"rename in own folder": func() error {
			if err := os.WriteFile(own+"1", nil, 0o600); err != nil {
				return err
			}
			return os.Rename(own+"1", own+"2")
		},
		"read /etc/passwd":           func() error { _, err := os.ReadFile("/etc/passwd"); return err },
		"list /":                     func() error { _, err := os.ReadDir("/"); return err },
		"read /proc/self/mem":        func() error { _, err := os.Open("/proc/self/mem"); return err },
		"write /tmp":                 func() error { return os.WriteFile("/tmp/raypher-probe", nil, 0o600) },
		"make a folder":              func() error { return os.Mkdir(filepath.Join(folder, "sub"), 0o700) },
		"make a device":              func() error { return unix.Mknod(filepath.Join(folder, "dev"), unix.S_IFCHR|0o600, 0x103) },
		"connect an open TCP socket": func() error { return unix.Connect(tcp, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}) },
		"the ioctl that is left":     func() error { _, err := unix.IoctlGetInt(tcp, unix.TIOCINQ); return err },
		"another ioctl":              func() error { _, err := unix.IoctlGetInt(tcp, unix.TIOCOUTQ); return err },
		"make a TCP socket":          func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); return err },
		"make a unix socket":         func() error { _, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err },
		"make a netlink socket":      func() error { _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0); return err },
		"execve":                     func() error { return unix.Exec("/bin/true", []string{"true"}, nil) },
		"fork": func() error {
			_, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
			if errno == 0 {
				return nil
			}
			return errno
		},
		"ptrace":          func() error { return unix.PtraceAttach(1) },
		"kill the parent": func() error { return unix.Kill(os.Getppid(), 0) },
		"setuid root": func() error {
			_, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0)
			if errno == 0 {
				return nil
			}
			return errno
		},
		"executable memory": func() error {
			_, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
			return err
		},
		"memory made executable": func() error {
			m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				return nil // reported as a success of the attack, which fails the test
			}
			return unix.Mprotect(m, unix.PROT_READ|unix.PROT_EXEC)
		},
		"unshare": func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"bpf": func() error {
			_, _, errno := syscall.RawSyscall(unix.SYS_BPF, 0, 0, 0)
			if errno == 0 {
				return nil
			}
			return errno
		},
		"io_uring": func() error {
			_, _, errno := syscall.RawSyscall(unix.SYS_IO_URING_SETUP, 1, 0, 0)
			if errno == 0 {
				return nil
			}
			return errno
		},
		"chmod outside": func() error { return os.Chmod(outside, 0o777) },
	}
}
