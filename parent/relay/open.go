package relay

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/cgroup"
)

// subject is a task that something is asked of, held by its folder in /proc. Such a folder is of one task for good, or of the thread
// that took its place by executing a program: when that is gone, nothing in it can be opened any more, whoever has its number then
// (fs/proc/base.c, get_proc_task).
type subject struct {
	task   int
	folder int
}

// openSubject holds a task.
func openSubject(task int) (*subject, error) {
	folder, err := unix.Open("/proc/"+strconv.Itoa(task), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		err = unix.ESRCH
	}
	if err != nil {
		return nil, err
	}
	return &subject{task: task, folder: folder}, nil
}

func (s *subject) close() { unix.Close(s.folder) }

// open opens a file of the task for reading.
func (s *subject) open(name string) (int, error) {
	fd, err := unix.Openat(s.folder, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		err = unix.ESRCH
	}
	return fd, err
}

// read is the content of a small file of the task.
func (s *subject) read(name string) (string, error) {
	fd, err := s.open(name)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	room := make([]byte, 16<<10)
	have := 0
	for have < len(room) {
		n, err := unix.Read(fd, room[have:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", err
		}
		if n == 0 {
			break
		}
		have += n
	}
	return string(room[:have]), nil
}

// of says whether the task lives, in this agent, and has no more rights than that. What was opened of it before is then of a task
// of this agent: none ever leaves it.
//
// The kernel asks nothing of raypherd that it would ask of the agent's user, so that is asked here: who starts an agent may have it
// take no floor and execute programs that are more than their user. Nothing shown is theirs:
//
//   - no_new_privs is never taken back, and is inherited: what has it executes nothing that gains rights.
//   - What has gained them before cannot be dumped, or has another user; so cannot what hides from its own user.
func (s *subject) of(a Agent) error {
	raw, err := s.read("cgroup")
	if err != nil {
		return unix.ESRCH
	}
	path, err := cgroup.Parse(raw)
	if err != nil {
		return unix.ESRCH
	}
	if !a.Holds(path) {
		return unix.EPERM
	}
	status, err := s.status()
	if err != nil {
		return err
	}
	if status["NoNewPrivs"] != "1" {
		return unix.EPERM
	}
	// Its files are its user's, and root's as long as it cannot be dumped (fs/proc/base.c, task_dump_owner).
	var st unix.Stat_t
	if err := unix.Fstatat(s.folder, "mem", &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return unix.ESRCH
	}
	if st.Uid != a.UID() {
		return unix.EPERM
	}
	return nil
}

// memory opens the memory of a task of an agent. No deeper right than reading is ever asked of the kernel. It is looked at twice
// what the task is: before, so that of a stranger nothing is opened even for a moment, and after.
func memory(a Agent, task int) (int, error) {
	s, err := openSubject(task)
	if err != nil {
		return -1, err
	}
	defer s.close()
	if err := s.of(a); err != nil {
		return -1, err
	}
	fd, err := s.open("mem")
	if err != nil {
		return -1, err
	}
	if err := s.of(a); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// pidfdThread is PIDFD_THREAD (Linux 6.9): the descriptor is of that thread.
const pidfdThread = unix.O_EXCL

// descriptor duplicates descriptor `number` of a task of an agent. Before Linux 6.9 it is that of the task's thread group: a
// descriptor table that its threads do not share cannot be reached.
//
// A pidfd is of whoever has the number when it is opened. The task has it before, as its folder was opened, and after, as its
// cgroup could be read: so it also had it in between, when the descriptor was taken too. The number of its thread group is not given away while a thread of it
// lives.
func descriptor(a Agent, task, number int) (int, error) {
	s, err := openSubject(task)
	if err != nil {
		return -1, err
	}
	defer s.close()
	if err := s.of(a); err != nil {
		return -1, err
	}
	pidfd, err := unix.PidfdOpen(task, pidfdThread)
	if err != nil {
		group, err := s.group()
		if err != nil {
			return -1, err
		}
		if pidfd, err = unix.PidfdOpen(group, 0); err != nil {
			return -1, err
		}
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		return -1, err
	}
	// Last: what it is now it was when the descriptor was taken, or less. A thread that executes a program takes the number and the
	// folder of its group's first one, and may have rights that that one gave up (fs/exec.c, de_thread).
	if err := s.of(a); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// group is the number of the task's thread group.
func (s *subject) group() (int, error) {
	status, err := s.status()
	if err != nil {
		return 0, err
	}
	group, err := strconv.Atoi(status["Tgid"])
	if err != nil || group <= 0 {
		return 0, fmt.Errorf("status of task %d names no thread group: %w", s.task, os.ErrInvalid)
	}
	return group, nil
}

// status is what the kernel says of the task, by name (proc_pid_status(5)).
func (s *subject) status() (map[string]string, error) {
	raw, err := s.read("status")
	if err != nil {
		return nil, unix.ESRCH
	}
	values := make(map[string]string)
	for line := range strings.Lines(raw) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			values[name] = strings.TrimSpace(value)
		}
	}
	return values, nil
}
