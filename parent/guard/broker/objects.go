package broker

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// Landlock knows no right on owners, modes, times and attributes: the floor bounds nothing here. So these calls never go on in
// the kernel where the permit enforces: the broker changes the very object that it decided on.

// change is done on an object. path names it in the broker's /proc; on is its descriptor, O_PATH unless file is set.
type change struct {
	path  string
	on    int
	file  bool // on is the target's own open file
	flags int  // AT_*
}

// objectCall changes something about the object at a path.
type objectCall struct {
	operation    string
	folder, path int // arguments
	flags        int // argument, or noFlags
	always       int // flags that the call itself stands for
	do           func(w *worker, n *notification, c change) error
}

func (c objectCall) handle(w *worker, n *notification, r *ruling) answer {
	flags := c.always
	if c.flags != noFlags {
		flags |= int(int32(n.Args[c.flags]))
	}
	if flags&^(unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return fail(unix.EINVAL)
	}
	var path string
	var err error
	if n.Args[c.path] != 0 || flags&unix.AT_EMPTY_PATH == 0 {
		if path, err = w.pathArgument(n, n.Args[c.path]); err != nil {
			return result(err)
		}
	}
	if path == "" && flags&unix.AT_EMPTY_PATH != 0 {
		if number := folderArgument(n, c.folder); number != unix.AT_FDCWD {
			return descriptorCall{c.operation, c.do}.on(w, n, r, number)
		}
		path = "."
	}
	o, err := w.lookup(n, folderArgument(n, c.folder), path, lookupFlags{noFollow: flags&unix.AT_SYMLINK_NOFOLLOW != 0})
	if err != nil {
		return w.unresolved(n, r, path, c.operation, err)
	}
	defer o.close()
	return changeObject(w, n, r, c.operation, o, change{path: o.reopen(), on: o.fd, flags: flags}, c.do)
}

// nullIsDescriptor is handle for calls where a null path means the open file itself.
func (c objectCall) nullIsDescriptor(w *worker, n *notification, r *ruling) answer {
	if n.Args[c.path] == 0 && int32(n.Args[c.folder]) != unix.AT_FDCWD {
		return descriptorCall{c.operation, c.do}.on(w, n, r, int32(n.Args[c.folder]))
	}
	return c.handle(w, n, r)
}

func changeObject(w *worker, n *notification, r *ruling, operation string, o *object, c change, do func(*worker, *notification, change) error) answer {
	if !w.valid(n) {
		return answer{kind: answerNever}
	}
	// What has no path belongs to whoever holds it open: a pipe, a socket, a file in memory, a file that was removed.
	if o.named() {
		d := w.decideOn(n, r, o, o.path, policy.Write)
		e := event{operation: operation, target: o.path, access: policy.Write}
		if d.Verdict == policy.VerdictApproval {
			e.how = w.sets(n)
		}
		if a, settled := w.settle(n, r, d, e); settled {
			return a
		}
	}
	if r.lenient {
		return goOn
	}
	err := do(w, n, c)
	if err == errSetID {
		return w.refuse(n, r, event{operation: operation, target: o.path, rule: ruleSetID, errno: unix.EPERM})
	}
	return result(err)
}

// descriptorCall changes something about a file that the target has open.
type descriptorCall struct {
	operation string
	do        func(w *worker, n *notification, c change) error
}

func (c descriptorCall) handle(w *worker, n *notification, r *ruling) answer {
	return c.on(w, n, r, int32(n.Args[0]))
}

func (c descriptorCall) on(w *worker, n *notification, r *ruling, number int32) answer {
	if r.lenient && r.permit.Mode == policy.Permissive {
		return goOn
	}
	fd, err := w.take(n, number)
	if err != nil {
		return result(err)
	}
	o, err := w.describe(fd)
	if err != nil {
		return result(err)
	}
	defer o.close()
	return changeObject(w, n, r, c.operation, o, change{path: o.reopen(), on: o.fd, file: true, flags: unix.AT_EMPTY_PATH}, c.do)
}

// take duplicates a descriptor of the target, so that another thread of the target cannot put another file under its number.
func (w *worker) take(n *notification, number int32) (int, error) {
	if number < 0 {
		return -1, unix.EBADF
	}
	fd, err := -1, error(unix.EPERM)
	if !w.relayed.Load() {
		fd, err = w.takeDirectly(n, number)
	}
	if err != unix.EPERM || !w.mayRelay() {
		return fd, err
	}
	fd, err = w.options.Relay.Descriptor(int(n.PID), int(number))
	w.heard(err)
	if err == nil && !w.valid(n) {
		unix.Close(fd)
		return -1, unix.EINTR
	}
	return fd, err
}

func (w *worker) takeDirectly(n *notification, number int32) (int, error) {
	pidfd, err := unix.PidfdOpen(int(n.PID), pidfdThread)
	if err != nil {
		if pidfd, err = w.pidfdOfGroup(n); err != nil {
			return -1, err
		}
	}
	defer unix.Close(pidfd)
	if !w.valid(n) {
		return -1, unix.EINTR
	}
	return unix.PidfdGetfd(pidfd, int(number), 0)
}

// pidfdThread is PIDFD_THREAD (Linux 6.9): the descriptor is of that thread.
const pidfdThread = unix.O_EXCL

// pidfdOfGroup is for older kernels, where a descriptor table that threads do not share cannot be reached.
func (w *worker) pidfdOfGroup(n *notification) (int, error) {
	s, err := readStatus(n.PID)
	if err != nil {
		return -1, unix.EINTR
	}
	return unix.PidfdOpen(s.group, 0)
}

// sets is what a call would make of an object, in words, where that is in its arguments: no thread can change those. What lies in
// memory (times, attributes) is read when it is done, and nobody is asked about it.
func (w *worker) sets(n *notification) string {
	mode := func(argument int) string { return fmt.Sprintf("mode %04o", n.Args[argument]&0o7777) }
	owner := func(argument int) string {
		return fmt.Sprintf("owner %d:%d", int32(n.Args[argument]), int32(n.Args[argument+1]))
	}
	switch w.calls.of(n.Number).name {
	case "chmod", "fchmod":
		return mode(1)
	case "fchmodat", "fchmodat2":
		return mode(2)
	case "chown", "lchown", "fchown":
		return owner(1)
	case "fchownat":
		return owner(2)
	case "truncate":
		return fmt.Sprintf("length %d", int64(n.Args[1]))
	}
	return ""
}

func changeMode(argument int) func(*worker, *notification, change) error {
	return func(_ *worker, n *notification, c change) error {
		mode := uint32(n.Args[argument]) & 0o7777
		if err := checkSetID(c.on, mode); err != nil {
			return err
		}
		if c.file {
			return unix.Fchmod(c.on, mode)
		}
		if c.flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
			return unix.Fchmodat(c.on, "", mode, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
		}
		return unix.Chmod(c.path, mode)
	}
}

func changeOwner(argument int) func(*worker, *notification, change) error {
	return func(_ *worker, n *notification, c change) error {
		user, group := int(int32(n.Args[argument])), int(int32(n.Args[argument+1]))
		if c.file {
			return unix.Fchown(c.on, user, group)
		}
		return unix.Fchownat(c.on, "", user, group, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	}
}

func cutFile(_ *worker, n *notification, c change) error {
	return unix.Truncate(c.path, int64(n.Args[1]))
}

// changeTimes reads the new times by read from the address in an argument; a null address means now.
func changeTimes(argument int, read func(*worker, *notification, uint64) ([]unix.Timespec, error)) func(*worker, *notification, change) error {
	return func(w *worker, n *notification, c change) error {
		var times []unix.Timespec
		if address := n.Args[argument]; address != 0 {
			var err error
			if times, err = read(w, n, address); err != nil {
				return err
			}
		}
		if c.file {
			return unix.UtimesNanoAt(unix.AT_FDCWD, c.path, times, 0)
		}
		return unix.UtimesNanoAt(c.on, "", times, unix.AT_EMPTY_PATH)
	}
}

func readTimespecs(w *worker, n *notification, address uint64) ([]unix.Timespec, error) {
	return w.timePairs(n, address, 1)
}

func readTimevals(w *worker, n *notification, address uint64) ([]unix.Timespec, error) {
	times, err := w.timePairs(n, address, 1000)
	for _, t := range times {
		if t.Nsec < 0 || t.Nsec >= 1e9 {
			return nil, unix.EINVAL
		}
	}
	return times, err
}

// timePairs reads two pairs of 64-bit numbers, whose second ones count in units of nanoseconds.
func (w *worker) timePairs(n *notification, address uint64, unit int64) ([]unix.Timespec, error) {
	var raw [32]byte
	if err := w.memory(n, address, raw[:]); err != nil {
		return nil, err
	}
	times := make([]unix.Timespec, 2)
	for i := range times {
		times[i].Sec = int64(binary.LittleEndian.Uint64(raw[16*i:]))
		times[i].Nsec = int64(binary.LittleEndian.Uint64(raw[16*i+8:])) * unit
	}
	return times, nil
}

// readUtimbuf reads two 64-bit seconds.
func readUtimbuf(w *worker, n *notification, address uint64) ([]unix.Timespec, error) {
	var raw [16]byte
	if err := w.memory(n, address, raw[:]); err != nil {
		return nil, err
	}
	return []unix.Timespec{
		{Sec: int64(binary.LittleEndian.Uint64(raw[:]))}, {Sec: int64(binary.LittleEndian.Uint64(raw[8:]))},
	}, nil
}

// Bounds of extended attributes (include/uapi/linux/limits.h).
const (
	maxAttributeName  = 255
	maxAttributeValue = 65536
)

func (w *worker) attributeName(n *notification, address uint64) (string, error) {
	return w.text(n, address, maxAttributeName+1, unix.ERANGE)
}

func (w *worker) attributeValue(n *notification, address, size uint64) ([]byte, error) {
	if size > maxAttributeValue {
		return nil, unix.E2BIG
	}
	value := make([]byte, size)
	return value, w.memory(n, address, value)
}

func setAttribute(w *worker, n *notification, c change) error {
	return w.setAttribute(n, c, n.Args[1], n.Args[2], n.Args[3], uint32(n.Args[4]))
}

func (w *worker) setAttribute(n *notification, c change, name, value, size uint64, flags uint32) error {
	key, err := w.attributeName(n, name)
	if err != nil {
		return err
	}
	content, err := w.attributeValue(n, value, size)
	if err != nil {
		return err
	}
	if !w.valid(n) {
		return unix.EINTR
	}
	if c.file {
		return unix.Fsetxattr(c.on, key, content, int(flags))
	}
	return unix.Setxattr(c.path, key, content, int(flags))
}

// setAttributeAt is setxattrat (Linux 6.13): value, size and flags lie in struct xattr_args.
func setAttributeAt(w *worker, n *notification, c change) error {
	var raw [16]byte
	if n.Args[5] < uint64(len(raw)) {
		return unix.EINVAL
	}
	if n.Args[5] > uint64(len(raw)) {
		return unix.E2BIG
	}
	if err := w.memory(n, n.Args[4], raw[:]); err != nil {
		return err
	}
	return w.setAttribute(n, c, n.Args[3], binary.LittleEndian.Uint64(raw[:]),
		uint64(binary.LittleEndian.Uint32(raw[8:])), binary.LittleEndian.Uint32(raw[12:]))
}

func removeAttribute(argument int) func(*worker, *notification, change) error {
	return func(w *worker, n *notification, c change) error {
		key, err := w.attributeName(n, n.Args[argument])
		if err != nil {
			return err
		}
		if !w.valid(n) {
			return unix.EINTR
		}
		if c.file {
			return unix.Fremovexattr(c.on, key)
		}
		return unix.Removexattr(c.path, key)
	}
}
