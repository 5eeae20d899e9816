package broker

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/floor"
)

// Calls that act on other processes by number: scheduling always, signals all where Landlock does not hold them, and to single
// processes where it does, to tell what it refuses. They may only meet the agent's own. The numbers are values, not memory: no thread
// can change them after the decision, and the call goes on in the kernel. The warden runs as the same user as its agent; without this
// the agent could starve it.

// Rules of refusals that no policy holds.
const (
	ruleNotItsOwn = "a process that is not the agent's"
	ruleSetID     = "set-user-id and set-group-id bits"
	ruleDevice    = "no agent makes devices"
)

// taskCall acts on the process or thread whose number is an argument. 0 is the caller itself.
type taskCall struct {
	operation string
	task      int // argument
}

func (c taskCall) handle(w *worker, n *notification, r *ruling) answer {
	return w.onTask(n, r, c.operation, int32(n.Args[c.task]))
}

func (w *worker) onTask(n *notification, r *ruling, operation string, task int32) answer {
	if task <= 0 {
		return goOn // itself, or no number of a process: the kernel says so
	}
	own, err := w.ownTask(n, uint32(task))
	return w.onOthers(n, r, operation, fmt.Sprintf("process %d", task), own, err)
}

// onOthers answers a call whose targets are the agent's own or not. err: there are none.
func (w *worker) onOthers(n *notification, r *ruling, operation, target string, own bool, err error) answer {
	switch {
	case err != nil && !r.lenient:
		return fail(unix.ESRCH)
	case own || err != nil:
		return goOn
	}
	return w.refuse(n, r, event{operation: operation, target: target, rule: ruleNotItsOwn, errno: unix.EPERM})
}

// ownTask reports whether a process or thread is one of the agent's.
func (w *worker) ownTask(n *notification, task uint32) (bool, error) {
	caller, err := readStatus(n.PID)
	if err != nil {
		return false, err
	}
	s, err := readStatus(task)
	if err != nil {
		return false, err
	}
	if !w.valid(n) {
		return false, unix.ESRCH
	}
	return w.belongs(s.group, caller.group), nil
}

// ownGroup reports whether every process of a process group is one of the agent's. 0 is the caller's group.
func (w *worker) ownGroup(n *notification, group int) (bool, error) {
	if group == 0 {
		own, err := unix.Getpgid(int(n.PID))
		if err != nil {
			return false, err
		}
		group = own
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return false, nil // nothing is known of it
	}
	found := false
	for _, entry := range entries {
		pid, err := strconv.ParseUint(entry.Name(), 10, 31)
		if err != nil {
			continue
		}
		if of, err := unix.Getpgid(int(pid)); err != nil || of != group {
			continue
		}
		own, err := w.ownTask(n, uint32(pid))
		switch {
		case err != nil:
			continue // it ended meanwhile
		case !own:
			return false, nil
		}
		found = true
	}
	if !found {
		return false, unix.ESRCH
	}
	return true, nil
}

// priorityCall is setpriority or ioprio_set; the first argument says what the second one is a number of, starting with process.
type priorityCall struct{ process uint64 }

func (c priorityCall) handle(w *worker, n *notification, r *ruling) answer {
	who := int32(n.Args[1])
	switch uint64(uint32(n.Args[0])) {
	case c.process:
		return w.onTask(n, r, "schedule", who)
	case c.process + 1:
		own, err := w.ownGroup(n, int(who))
		return w.onOthers(n, r, "schedule", fmt.Sprintf("process group %d", who), own, err)
	}
	return w.refuse(n, r, event{operation: "schedule", target: "all processes of the user", rule: ruleNotItsOwn, errno: unix.EPERM})
}

// killCall signals a process, a process group (0 or below -1), or everything (-1).
func killCall(w *worker, n *notification, r *ruling) answer {
	switch target := int32(n.Args[0]); {
	case target > 0:
		return w.onTask(n, r, "signal", target)
	case target == -1:
		return w.refuse(n, r, event{operation: "signal", target: "all processes of the user", rule: ruleNotItsOwn, errno: unix.EPERM})
	default:
		own, err := w.ownGroup(n, int(-int64(target)))
		return w.onOthers(n, r, "signal", fmt.Sprintf("process group %d", -int64(target)), own, err)
	}
}

// pidfdSignalCall signals the process that a descriptor stands for. Another thread could put another descriptor under the same
// number: where Landlock does not keep signals inside, the broker sends the signal itself, to what it looked at. The receiver sees the
// warden as the sender.
func pidfdSignalCall(w *worker, n *notification, r *ruling) answer {
	switch {
	case n.Args[3] != 0 && w.options.Signals:
		return fail(unix.EINVAL) // flags came with Linux 6.9, which is newer than ABI 4
	case n.Args[3] != 0:
		return goOn // a thread or a group: Landlock leaves out who is not the agent's
	}
	pid := 0
	fd, err := w.take(n, int32(n.Args[0]))
	if err == nil {
		defer unix.Close(fd)
		pid, err = pidOf(fd)
	}
	switch {
	case err != nil && w.options.Signals:
		return result(err)
	case err != nil:
		return goOn // also folders of /proc stand for processes
	}
	own, err := w.ownTask(n, uint32(pid))
	a := w.onOthers(n, r, "signal", fmt.Sprintf("process %d", pid), own, err)
	if a != goOn || r.lenient || !w.options.Signals {
		return a
	}
	return result(unix.PidfdSendSignal(fd, unix.Signal(n.Args[1]), nil, 0))
}

// pidOf is the process of a pidfd, as /proc/self/fdinfo shows it.
func pidOf(fd int) (int, error) {
	raw, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil || pid <= 0 {
				return 0, unix.ESRCH
			}
			return pid, nil
		}
	}
	return 0, unix.EBADF
}

// plainNode refuses to make a device, or a file with set-id bits, by the mode that is an argument.
func plainNode(mode int, next handler) handler {
	return func(w *worker, n *notification, r *ruling) answer {
		e := event{operation: "mknod", target: fmt.Sprintf("mode %o", n.Args[mode]&0o7777), rule: ruleSetID, errno: unix.EPERM}
		switch n.Args[mode] & unix.S_IFMT {
		case unix.S_IFCHR, unix.S_IFBLK:
			e.target, e.rule = fmt.Sprintf("device %d:%d", unix.Major(n.Args[mode+1]), unix.Minor(n.Args[mode+1])), ruleDevice
			return w.refuse(n, r, e)
		}
		if n.Args[mode]&floor.SetID != 0 {
			return w.refuse(n, r, e)
		}
		return next(w, n, r)
	}
}

// errSetID is a change of mode that no agent may make.
var errSetID = errors.New(ruleSetID)

// checkSetID refuses set-id bits, but for set-group-id on a folder, which only says whom its files belong to.
func checkSetID(fd int, mode uint32) error {
	if mode&floor.SetID == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR && mode&unix.S_ISUID == 0 {
		return nil
	}
	return errSetID
}
