package launch

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/relay"
)

// checkIdentity refuses a process on its way from one user to another: the warden must be able to stand in for the agent.
func checkIdentity() error {
	uid, euid, suid := unix.Getresuid()
	gid, egid, sgid := unix.Getresgid()
	if uid != euid || uid != suid || gid != egid || gid != sgid {
		return guardFailure("the real, effective and saved user or group differ: run it as one user")
	}
	return nil
}

// checkYama refuses the one setting under which nobody may look into another process, not even root: raypherd could not stand in
// for the warden (package relay).
func checkYama() error {
	if scope := relay.Scope(); scope >= relay.ScopeNobody {
		return guardFailure("kernel.yama.ptrace_scope is %d: nobody may look at what the agent asks for, not even root: take that "+
			"setting out of /etc/sysctl.d and start the machine anew, it cannot be lowered", scope)
	}
	return nil
}

// checkStandard refuses sockets of the network on the standard descriptors: a connection that is open already would pass the
// guard. It returns the terminals among them, by path, which the agent may open again.
func checkStandard() (terminals []string, err error) {
	for fd := range 3 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil {
			continue // closed
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFSOCK:
			domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
			if err != nil || domain != unix.AF_UNIX {
				return nil, guardFailure("descriptor %d is a network socket: the guard does not hold connections that are open already; put cat between", fd)
			}
		case unix.S_IFCHR:
			path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
			if err == nil && strings.HasPrefix(path, "/dev/") && !slices.Contains(terminals, path) {
				terminals = append(terminals, path)
			}
		}
	}
	return terminals, nil
}

// keepOnlyPipes lets go, at the next exec, of every inherited descriptor beyond the standard ones but pipes: a file, folder or
// socket that the caller left open would reach past the policy. Pipes carry what a shell passes on purpose (<(…), make -j).
func keepOnlyPipes() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("look at inherited descriptors: %w", err)
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil || fd <= 2 {
			continue
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT != unix.S_IFIFO {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
