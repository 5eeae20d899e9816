package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/policy"
)

func itoa(n int) string { return strconv.Itoa(n) }

// opening is an open, openat, openat2 or creat of the target.
type opening struct {
	folder int32
	path   string
	flags  uint64
	mode   uint64
	lookup lookupFlags
}

// openFlags are those that the kernel takes in open and openat; it ignores others (VALID_OPEN_FLAGS, include/linux/fcntl.h).
const openFlags = unix.O_ACCMODE | unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_TRUNC | unix.O_APPEND | unix.O_NONBLOCK |
	unix.O_SYNC | unix.O_DSYNC | unix.O_ASYNC | unix.O_DIRECT | unix.O_LARGEFILE | unix.O_DIRECTORY | unix.O_NOFOLLOW |
	unix.O_NOATIME | unix.O_CLOEXEC | unix.O_PATH | unix.O_TMPFILE

func openCall(w *worker, n *notification, r *ruling) answer {
	return w.open(n, r, unix.AT_FDCWD, n.Args[0], n.Args[1]&openFlags, n.Args[2])
}

func creatCall(w *worker, n *notification, r *ruling) answer {
	return w.open(n, r, unix.AT_FDCWD, n.Args[0], unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, n.Args[1])
}

func openatCall(w *worker, n *notification, r *ruling) answer {
	return w.open(n, r, int32(n.Args[0]), n.Args[1], n.Args[2]&openFlags, n.Args[3])
}

// Sizes of struct open_how (include/uapi/linux/openat2.h): its first version, and the most that the kernel reads. What lies
// beyond the first version must be zero until a kernel gives it a meaning.
const (
	sizeOpenHow    = 24
	maxSizeOpenHow = pageSize
)

func openat2Call(w *worker, n *notification, r *ruling) answer {
	if !w.truncationHeld && !r.lenient {
		return fail(unix.ENOSYS) // its flags lie in memory: a thread could add O_TRUNC to them while they are decided (cutsUnheld)
	}
	size := n.Args[3]
	if size < sizeOpenHow {
		return fail(unix.EINVAL)
	}
	if size > maxSizeOpenHow {
		return fail(unix.E2BIG)
	}
	if err := w.memory(n, n.Args[2], w.bytes[:size]); err != nil {
		return result(err)
	}
	how, errno := parseOpenHow(w.bytes[:size])
	if errno != 0 {
		return fail(errno)
	}
	path, err := w.pathArgument(n, n.Args[1])
	if err != nil {
		return result(err)
	}
	return w.openPath(n, r, opening{
		folder: int32(n.Args[0]), path: path, flags: how.Flags, mode: how.Mode, lookup: lookupFlags{resolve: how.Resolve},
	})
}

// parseOpenHow reads a struct open_how of at least its first size.
func parseOpenHow(raw []byte) (unix.OpenHow, unix.Errno) {
	for _, b := range raw[sizeOpenHow:] {
		if b != 0 {
			return unix.OpenHow{}, unix.E2BIG
		}
	}
	how := unix.OpenHow{
		Flags:   binary.LittleEndian.Uint64(raw),
		Mode:    binary.LittleEndian.Uint64(raw[8:]),
		Resolve: binary.LittleEndian.Uint64(raw[16:]),
	}
	if how.Flags&^openFlags != 0 || how.Mode&^0o7777 != 0 {
		return unix.OpenHow{}, unix.EINVAL
	}
	return how, 0
}

func (w *worker) open(n *notification, r *ruling, folder int32, address, flags, mode uint64) answer {
	path, err := w.pathArgument(n, address)
	if err != nil {
		return result(err)
	}
	return w.openPath(n, r, opening{folder: folder, path: path, flags: flags, mode: mode})
}

// access is what the flags ask for.
func (o opening) access() policy.Access {
	a := policy.Access(0)
	switch o.flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
		a = policy.Read
	case unix.O_WRONLY:
		a = policy.Write
	default: // O_RDWR, and 3, which only allows ioctl but asks for both permissions
		a = policy.Read | policy.Write
	}
	if o.flags&unix.O_TRUNC != 0 {
		a |= policy.Write
	}
	return a
}

func operationOf(a policy.Access) string {
	switch a {
	case policy.Read:
		return "open-read"
	case policy.Write:
		return "open-write"
	case policy.Exec:
		return "exec"
	}
	return "open-read-write"
}

// cutsUnheld reports whether an open cuts a file without the right to write that Landlock would look at: for reading, or with mode
// 3, which is for neither. Where Landlock does not hold truncation, the kernel would then cut whatever another thread had put in the
// path's place.
func (w *worker) cutsUnheld(o opening) bool {
	mode := o.flags & unix.O_ACCMODE
	return o.flags&unix.O_TRUNC != 0 && mode != unix.O_WRONLY && mode != unix.O_RDWR && !w.truncationHeld
}

func (w *worker) openPath(n *notification, r *ruling, o opening) answer {
	if w.cutsUnheld(o) {
		return w.refuse(n, r, event{operation: "truncate", target: o.path, rule: ruleCutting, errno: unix.EACCES, asPassed: true})
	}
	if o.flags&unix.O_PATH != 0 {
		return goOn // a name, no access: whatever is done with it is decided then
	}
	if o.flags&(unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY) != 0 && o.mode&floor.SetID != 0 {
		return w.refuse(n, r, event{operation: "create", target: o.path, rule: ruleSetID, errno: unix.EPERM})
	}
	o.lookup.noFollow = o.flags&unix.O_NOFOLLOW != 0 || o.flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL
	if o.flags&unix.O_TMPFILE == unix.O_TMPFILE {
		return w.openTemporary(n, r, o)
	}
	if a, settled := w.openPlain(n, r, o); settled {
		return a
	}
	at, err := w.lookup(n, o.folder, o.path, o.lookup)
	switch {
	case err == nil:
		defer at.close()
		if !o.lookup.noFollow && !r.narrowed && w.openCovered(n, r, o, at) {
			return goOn
		}
		if !w.valid(n) {
			return answer{kind: answerNever}
		}
		return w.openObject(n, r, o, at)
	case errors.Is(err, unix.ENOENT) && o.flags&unix.O_CREAT != 0:
		return w.create(n, r, o, 0)
	}
	return w.unresolved(n, r, o.path, operationOf(o.access()), err)
}

// openCovered is the common case, as cheap as it can be: what the permit grants in a tree that the floor grants too.
func (w *worker) openCovered(n *notification, r *ruling, o opening, at *object) bool {
	access := o.access()
	return at.named() && w.options.Coverage.Tree(at.path, access) && w.decideOn(n, r, at, at.path, access).Verdict == policy.VerdictAllow
}

// unresolved answers a call whose path leads nowhere, or where the broker does not follow. It never goes on: another thread
// could put another path in its place.
func (w *worker) unresolved(n *notification, r *ruling, path, operation string, err error) answer {
	switch {
	case r.lenient && !errors.Is(err, errUnsupported):
		return goOn
	case errors.Is(err, errUnsupported):
		return w.refuse(n, r, event{operation: operation, target: path, errno: unix.EACCES, asPassed: true})
	}
	return result(err)
}

// openObject opens something that exists.
func (w *worker) openObject(n *notification, r *ruling, o opening, at *object) answer {
	if o.flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL {
		return fail(unix.EEXIST)
	}
	if at.kind() == unix.S_IFLNK {
		return fail(unix.ELOOP) // O_NOFOLLOW
	}
	access := o.access()
	if at.path == w.options.VisaPath && w.options.VisaPath != "" {
		return w.openVisa(o, access)
	}
	if !at.named() {
		return w.openUnnamed(n, r, o, at, access)
	}
	d := w.decideOn(n, r, at, at.path, access)
	if d.Verdict == policy.VerdictApproval && !r.lenient && !at.injectable(access) && !w.ownProcFile(at, access) && !w.goesOn(at, access) {
		d = policy.Decision{Rule: ruleKernelOpens}
	}
	if a, settled := w.settle(n, r, d, event{operation: operationOf(access), target: at.path, access: access, special: w.special(at, access)}); settled {
		return a
	}
	if r.lenient || !r.narrowed && w.options.Coverage.Object(at.path, uint64(at.stat().Dev), at.stat().Ino, access) {
		return goOn
	}
	if !at.injectable(access) && !w.ownProcFile(at, access) {
		return w.openSpecial(n, r, at, access, d.Rule)
	}
	fd, err := w.openHere(at, o)
	if err != nil {
		return result(err)
	}
	return inject(fd, o.flags&unix.O_CLOEXEC != 0)
}

// openHere opens the very object. What does not apply to something that is already found is left out.
func (w *worker) openHere(at *object, o opening) (int, error) {
	how := unix.OpenHow{Flags: o.flags&^(unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW) | unix.O_CLOEXEC | unix.O_NOCTTY}
	return w.openName(ownDescriptors(), itoa(at.fd), how)
}

// ownProcFile reports whether a file of procfs is one that a process may write about itself (decideProc saw to that): what
// such a file does depends on who writes, not on who opened it.
func (w *worker) ownProcFile(at *object, a policy.Access) bool {
	return a&policy.Write != 0 && within(at.path, "/proc") && at.kind() == unix.S_IFREG
}

// openSpecial is for devices, pipes by name and special file systems, beyond the floor. The kernel opens them, and with a
// narrowed permit, where the floor is no bound, nobody does, except for reading one's own files in /proc.
func (w *worker) openSpecial(n *notification, r *ruling, at *object, a policy.Access, rule string) answer {
	if at.kind() == unix.S_IFSOCK {
		return fail(unix.ENXIO)
	}
	if !r.narrowed {
		return goOn
	}
	if w.goesOn(at, a) {
		return goOn
	}
	return w.refuse(n, r, event{operation: operationOf(a), target: at.path, rule: rule, errno: unix.EACCES})
}

// goesOn reports whether the kernel opens a special file also where the floor is no bound: it allows reading in /proc and these devices,
// and no more than that.
func (w *worker) goesOn(at *object, a policy.Access) bool {
	return a == policy.Read && within(at.path, "/proc") || at.kind() == unix.S_IFCHR && w.device(at.path)
}

// openUnnamed is for what has no path. The target reaches such an object only through a descriptor that it already has.
func (w *worker) openUnnamed(n *notification, r *ruling, o opening, at *object, a policy.Access) answer {
	if !r.narrowed || r.lenient {
		return goOn
	}
	if at.kind() == unix.S_IFIFO {
		o.flags |= unix.O_NONBLOCK // never wait here for the other end
		fd, err := w.openHere(at, o)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, int(o.flags&^unix.O_NONBLOCK))
		}
		if err != nil {
			return result(err)
		}
		return inject(fd, o.flags&unix.O_CLOEXEC != 0)
	}
	return w.refuse(n, r, event{operation: operationOf(a), target: at.path, errno: unix.EACCES})
}

// create opens a file that does not exist yet. links counts those that it came through.
func (w *worker) create(n *notification, r *ruling, o opening, links int) answer {
	in, err := w.lookupEntry(n, o.folder, o.path, o.lookup.resolve)
	if errors.Is(err, errNoName) {
		err = unix.EISDIR
	}
	if err != nil {
		return w.unresolved(n, r, o.path, "create", err)
	}
	defer in.close()
	if strings.HasSuffix(in.name, "/") {
		return fail(unix.EISDIR)
	}
	if target, ok := danglingLink(in); ok && !o.lookup.noFollow {
		if links >= maxLinks {
			return fail(unix.ELOOP)
		}
		return w.createThrough(n, r, o, in, target, links+1)
	}
	if !w.valid(n) {
		return answer{kind: answerNever}
	}
	access := o.access() | policy.Write
	d := w.decideOn(n, r, in.folder, in.path(), access)
	if a, settled := w.settle(n, r, onlyIf(in.folder.named(), d), event{operation: "create", target: in.path(), access: access}); settled {
		return a
	}
	if r.lenient || !r.narrowed && w.options.Coverage.Entry(in.folder.path) && w.options.Coverage.Object(in.path(), 0, 0, access) {
		return goOn
	}
	if !in.folder.injectable(policy.Write) {
		return fail(unix.EACCES)
	}
	fd := -1
	err = w.withUmask(n, func() (err error) {
		// Nothing is followed: what lies at the name now was put there by someone who may.
		how := unix.OpenHow{Flags: o.flags | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NOCTTY, Mode: o.mode & 0o7777}
		fd, err = unix.Openat2(in.folder.fd, in.name, &how)
		return err
	})
	if err != nil {
		return result(err)
	}
	return inject(fd, o.flags&unix.O_CLOEXEC != 0)
}

// danglingLink returns the text of a link at the entry.
func danglingLink(in *entry) (string, bool) {
	room := make([]byte, unix.PathMax)
	length, err := unix.Readlinkat(in.folder.fd, in.name, room)
	if err != nil || length == len(room) {
		return "", false
	}
	return string(room[:length]), true
}

// createThrough creates the file that a link points to.
func (w *worker) createThrough(n *notification, r *ruling, o opening, in *entry, target string, links int) answer {
	if o.lookup.resolve != 0 {
		return w.unresolved(n, r, o.path, "create", errUnsupported)
	}
	if !strings.HasPrefix(target, "/") {
		target = in.folder.path + "/" + target
	}
	o.path, o.folder = target, unix.AT_FDCWD
	at, err := w.lookup(n, o.folder, o.path, o.lookup)
	if err == nil { // made in the meantime
		defer at.close()
		return w.openObject(n, r, o, at)
	}
	return w.create(n, r, o, links)
}

// openTemporary makes a file without a name in a folder (O_TMPFILE).
func (w *worker) openTemporary(n *notification, r *ruling, o opening) answer {
	in, err := w.lookup(n, o.folder, o.path, lookupFlags{folder: true, resolve: o.lookup.resolve})
	if err != nil {
		return w.unresolved(n, r, o.path, "create", err)
	}
	defer in.close()
	if !w.valid(n) {
		return answer{kind: answerNever}
	}
	// The file can get a name in this folder later, so it is decided like one.
	inside := strings.TrimSuffix(in.path, "/") + "/#tmpfile"
	access := o.access() | policy.Write
	d := w.decideOn(n, r, in, inside, access)
	if a, settled := w.settle(n, r, onlyIf(in.named(), d), event{operation: "create", target: in.path, place: inside, access: access}); settled {
		return a
	}
	if r.lenient || !r.narrowed && w.options.Coverage.Entry(in.path) && w.options.Coverage.Object(inside, 0, 0, access) {
		return goOn
	}
	if !in.injectable(policy.Write) {
		return fail(unix.EACCES)
	}
	fd := -1
	err = w.withUmask(n, func() (err error) {
		fd, err = unix.Openat2(in.fd, ".", &unix.OpenHow{Flags: o.flags&^unix.O_NOFOLLOW | unix.O_CLOEXEC, Mode: o.mode & 0o7777})
		return err
	})
	if err != nil {
		return result(err)
	}
	return inject(fd, o.flags&unix.O_CLOEXEC != 0)
}

// openVisa answers with a file in memory that holds the visa as it is now.
func (w *worker) openVisa(o opening, a policy.Access) answer {
	if a != policy.Read {
		return fail(unix.EACCES)
	}
	fd, err := sealedFile("visa", w.options.Visa())
	if err != nil {
		return result(err)
	}
	return inject(fd, o.flags&unix.O_CLOEXEC != 0)
}

// sealedFile returns a descriptor, open for reading, of a file in memory that nobody can change.
func sealedFile(name string, content []byte) (int, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return -1, fmt.Errorf("write %s: %w", name, err)
	}
	if err := unix.Fchmod(fd, 0o400); err != nil {
		return -1, err
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return -1, err
	}
	return unix.Open(ownFD(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}
