// Package task holds processes by pidfd, so that a pid which the kernel gives to somebody else is never taken for the
// process that was meant. What /proc says of a process counts only if the process still lives after it was read; the
// methods here see to that.
package task

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrGone says that the process has ended.
var ErrGone = errors.New("the process has ended")

// Task is one process. Its methods may be called from several goroutines. Close it in the end.
type Task struct {
	pid  int
	file *os.File // the pidfd, non-blocking, so that the runtime's poller waits for it

	watch sync.Once
	gone  chan struct{}
}

// Open holds the process that has this pid now.
func Open(pid int) (*Task, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err == unix.ESRCH || err == unix.EINVAL {
		return nil, fmt.Errorf("process %d: %w", pid, ErrGone)
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: pidfd_open: %w", pid, err)
	}
	return hold(fd, pid), nil
}

// Peer holds the process that connected a unix socket. Where the kernel has no SO_PEERPIDFD (before 6.5) it goes by the pid
// of SO_PEERCRED; a peer that ended and whose pid was given away in that moment could then be mistaken.
func Peer(socket int) (*Task, *unix.Ucred, error) {
	cred, err := unix.GetsockoptUcred(socket, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return nil, nil, fmt.Errorf("peer of the socket: SO_PEERCRED: %w", err)
	}
	fd, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch err {
	case nil:
		if err := unix.SetNonblock(fd, true); err != nil {
			unix.Close(fd)
			return nil, nil, fmt.Errorf("peer of the socket: %w", err)
		}
		return hold(fd, int(cred.Pid)), cred, nil
	case unix.ENOPROTOOPT:
		t, err := Open(int(cred.Pid))
		return t, cred, err
	case unix.ESRCH, unix.EINVAL:
		return nil, nil, fmt.Errorf("peer of the socket: %w", ErrGone)
	}
	return nil, nil, fmt.Errorf("peer of the socket: SO_PEERPIDFD: %w", err)
}

func hold(fd, pid int) *Task {
	return &Task{pid: pid, file: os.NewFile(uintptr(fd), "pidfd"), gone: make(chan struct{})}
}

// PID is the process id in this process's namespace.
func (t *Task) PID() int { return t.pid }

// Alive says whether the process has not ended; a zombie has.
func (t *Task) Alive() bool {
	alive := false
	raw, err := t.file.SyscallConn()
	if err != nil {
		return false
	}
	if err := raw.Control(func(fd uintptr) { alive = !ended(int(fd)) }); err != nil {
		return false
	}
	return alive
}

// ended polls a pidfd: it is readable once the process has ended (pidfd_open(2)).
func ended(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if err == unix.EINTR {
			continue
		}
		return n > 0 || err != nil
	}
}

// Gone is closed when the process has ended, or when the task is closed.
func (t *Task) Gone() <-chan struct{} {
	t.watch.Do(func() {
		go func() {
			defer close(t.gone)
			raw, err := t.file.SyscallConn()
			if err != nil {
				return
			}
			_ = raw.Read(func(fd uintptr) bool { return ended(int(fd)) })
		}()
	})
	return t.gone
}

// Close lets go of the process.
func (t *Task) Close() error { return t.file.Close() }

// Identity is what /proc says of a process.
type Identity struct {
	UID     uint32 // real, effective, saved and file system uid are equal
	Groups  []uint32
	Started uint64 // clock ticks since boot; with the pid it names a process for good
}

// Identity reads who runs the process. A process whose four uids differ is an error: it is on its way from one user to another.
func (t *Task) Identity() (Identity, error) {
	var id Identity
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.pid))
	if err == nil {
		err = id.readStatus(string(status))
	}
	var stat []byte
	if err == nil {
		stat, err = os.ReadFile(fmt.Sprintf("/proc/%d/stat", t.pid))
	}
	if err == nil {
		id.Started, err = started(string(stat))
	}
	if !t.Alive() {
		return Identity{}, fmt.Errorf("process %d: %w", t.pid, ErrGone)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("process %d: %w", t.pid, err)
	}
	return id, nil
}

func (id *Identity) readStatus(status string) error {
	found := false
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		fields := strings.Fields(value)
		switch name {
		case "Uid":
			if len(fields) != 4 || fields[0] != fields[1] || fields[0] != fields[2] || fields[0] != fields[3] {
				return fmt.Errorf("its user ids differ (%s)", strings.Join(fields, " "))
			}
			uid, err := strconv.ParseUint(fields[0], 10, 32)
			if err != nil {
				return fmt.Errorf("uid: %w", err)
			}
			id.UID, found = uint32(uid), true
		case "Gid", "Groups":
			for _, field := range fields {
				if gid, err := strconv.ParseUint(field, 10, 32); err == nil {
					id.Groups = append(id.Groups, uint32(gid))
				}
			}
		}
	}
	if !found {
		return errors.New("its status names no user")
	}
	return nil
}

// started reads field 22 of proc_pid_stat(5). The second field, the name, may hold anything; it ends with the last ")".
func started(stat string) (uint64, error) {
	i := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[i+1:])
	const starttime = 22 - 3 // the first field after the name is number 3
	if i < 0 || len(fields) <= starttime {
		return 0, errors.New("its stat is too short")
	}
	return strconv.ParseUint(fields[starttime], 10, 64)
}

// OpenFile opens what descriptor number fd of the process refers to, for reading, if it is a regular file.
func (t *Task) OpenFile(fd int) (*os.File, error) {
	path := fmt.Sprintf("/proc/%d/fd/%d", t.pid, fd)
	// First without opening: a FIFO or a device must not be touched.
	probe, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d of process %d: %w", fd, t.pid, err)
	}
	defer unix.Close(probe)
	var st unix.Stat_t
	if err := unix.Fstat(probe, &st); err != nil {
		return nil, fmt.Errorf("descriptor %d of process %d: %w", fd, t.pid, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("descriptor %d of process %d is no regular file", fd, t.pid)
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", probe))
	if err != nil {
		return nil, fmt.Errorf("descriptor %d of process %d: %w", fd, t.pid, err)
	}
	if !t.Alive() {
		file.Close()
		return nil, fmt.Errorf("process %d: %w", t.pid, ErrGone)
	}
	return file, nil
}

// LimitFiles sets how many descriptors the process may open, for good (RLIMIT_NOFILE, both limits). It never raises the hard limit.
func (t *Task) LimitFiles(n uint64) error {
	var old unix.Rlimit
	if err := unix.Prlimit(t.pid, unix.RLIMIT_NOFILE, nil, &old); err != nil {
		return fmt.Errorf("max_fds: reading the limit of process %d: %w", t.pid, err)
	}
	n = min(n, old.Max)
	if err := unix.Prlimit(t.pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}, nil); err != nil {
		return fmt.Errorf("max_fds: limiting process %d: %w", t.pid, err)
	}
	return nil
}
