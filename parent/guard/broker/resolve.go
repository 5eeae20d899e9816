package broker

import (
	"errors"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// object is what a path led to: an O_PATH descriptor, so that nothing can put another object in its place.
type object struct {
	fd     int
	path   string // where it lies, as the kernel names it now
	alive  bool   // its name ends with what the kernel adds to removed ones, and it is still there
	known  bool   // status is filled in
	status unix.Stat_t
}

func (o *object) close() { quickClose(o.fd) }

// stat is the object's status. Where the kernel does not give it, it is that of nothing at all, which is granted to nobody.
func (o *object) stat() *unix.Stat_t {
	if !o.known {
		if err := unix.Fstat(o.fd, &o.status); err != nil {
			o.status = unix.Stat_t{}
		}
		o.known = true
	}
	return &o.status
}

func (o *object) kind() uint32 { return o.stat().Mode & unix.S_IFMT }

// named is false for what has no path: pipes, sockets, memory files, files that were removed or lie outside this root.
func (o *object) named() bool {
	return strings.HasPrefix(o.path, "/") && (o.alive || !strings.HasSuffix(o.path, deleted))
}

// deleted is what the kernel adds to the name of what was removed (fs/d_path.c). A file can also be called so.
const deleted = " (deleted)"

// stillThere reports whether the object lies at its path as that is written.
func (o *object) stillThere() bool {
	var st unix.Stat_t
	return unix.Lstat(o.path, &st) == nil && st.Dev == o.stat().Dev && st.Ino == o.stat().Ino
}

// reopen is the object's path in the broker's own /proc.
func (o *object) reopen() string { return ownFD(o.fd) }

func ownFD(fd int) string { return procSelfFD + itoa(fd) }

const procSelfFD = "/proc/self/fd/"

// ownDescriptors is a descriptor of procSelfFD: what is opened from there takes two thirds of the time. -1, from which nothing is
// opened, where there is no /proc.
var ownDescriptors = sync.OnceValue(func() int {
	fd, err := unix.Open(procSelfFD, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
})

// lookupFlags say how the last component is treated and what openat2's caller forbids on the way.
type lookupFlags struct {
	noFollow bool
	folder   bool
	resolve  uint64 // RESOLVE_* of the target's own openat2
}

// openHow are the flags of an O_PATH open.
func (f lookupFlags) openHow() unix.OpenHow {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: f.resolve | unix.RESOLVE_NO_MAGICLINKS}
	if f.noFollow {
		how.Flags |= unix.O_NOFOLLOW
	}
	if f.folder {
		how.Flags |= unix.O_DIRECTORY
	}
	return how
}

// fromStart are the RESOLVE_* flags under which an absolute path starts at the given folder too.
const fromStart = unix.RESOLVE_BENEATH | unix.RESOLVE_IN_ROOT

// start opens the folder that a path of the target is relative to. It is AT_FDCWD for an absolute path, which means the same
// here as there: an agent cannot change its root or its mounts. The caller closes it with closeStart.
func (w *worker) start(n *notification, folder int32, path string, resolve uint64) (int, error) {
	if strings.HasPrefix(path, "/") && resolve&fromStart == 0 {
		return unix.AT_FDCWD, nil
	}
	return w.descriptor(n, folder)
}

// descriptor opens the object behind a descriptor of the target, or its working directory, as O_PATH.
func (w *worker) descriptor(n *notification, number int32) (int, error) {
	name, err := descriptorPath(n, number)
	if err != nil {
		return -1, err
	}
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		err = unix.EBADF
	}
	return fd, err
}

// descriptorPath is a descriptor of the target, or its working directory, in /proc.
func descriptorPath(n *notification, number int32) (string, error) {
	switch {
	case number == unix.AT_FDCWD:
		return procPath(n.PID, "cwd"), nil
	case number < 0:
		return "", unix.EBADF
	}
	return procPath(n.PID, "fd/"+itoa(int(number))), nil
}

func closeStart(fd int) {
	if fd >= 0 {
		unix.Close(fd)
	}
}

// lookup resolves a path of the target to the object that it leads to, as the target would. The errors are those that the
// target would get.
func (w *worker) lookup(n *notification, folder int32, path string, f lookupFlags) (*object, error) {
	if path == "" {
		return nil, unix.ENOENT
	}
	from, err := w.start(n, folder, path, f.resolve)
	if err != nil {
		return nil, err
	}
	defer closeStart(from)
	return w.lookupFrom(n, from, path, f)
}

func (w *worker) lookupFrom(n *notification, from int, path string, f lookupFlags) (*object, error) {
	fd, err := w.openName(from, path, f.openHow())
	if err == nil {
		o, err := w.describe(fd)
		if err != nil || !within(o.path, "/proc") || f.resolve != 0 && !within(o.path, ownProc) {
			return o, err
		}
		o.close() // /proc/self was the broker's own: look again, step by step
	} else if !w.mayBeMagic(err, from, path) {
		return nil, err
	}
	if f.resolve&(unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS) != 0 && err != nil {
		return nil, err
	}
	if f.resolve != 0 {
		return nil, errUnsupported
	}
	k := walk{worker: w, target: n}
	fd, err = k.to(from, path, f)
	if err != nil {
		return nil, err
	}
	return w.describe(fd)
}

// errUnsupported is what the broker does not follow: it is refused, because the floor is wider than the permit in /proc.
var errUnsupported = errors.New("not followed by the broker")

// errNoName is a path whose last component names no entry of a folder: /, . or .. at its end.
var errNoName = errors.New("the path names no entry")

// ownProc is what /proc/self means here.
var ownProc = "/proc/" + itoa(os.Getpid())

// mayBeMagic reports whether a failed lookup may have met a link of procfs, which means something else for the target: one
// that has no text (ELOOP), or a file of the broker's own folder that it does not have. Links to there in the middle of a path
// that starts elsewhere are not looked for: the error stands.
func (w *worker) mayBeMagic(err error, from int, path string) bool {
	switch {
	case errors.Is(err, unix.ELOOP):
		return true
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOTDIR):
		if strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/dev/") {
			return true
		}
		if !strings.HasPrefix(path, "/") && magicOf(from) == unix.PROC_SUPER_MAGIC {
			return true
		}
		fd, err := unix.Openat2(from, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW})
		if err != nil {
			return false
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK
	}
	return false
}

// describe takes over an O_PATH descriptor and finds out where its object lies.
func (w *worker) describe(fd int) (*object, error) {
	length, err := quickReadlink(fd, w.link[:])
	if err == nil && length == len(w.link) {
		err = unix.ENAMETOOLONG
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	o := &object{fd: fd, path: string(w.link[:length])}
	o.alive = strings.HasSuffix(o.path, deleted) && o.stillThere()
	return o, nil
}

// entry is a place in a folder, whether or not something lies there.
type entry struct {
	folder *object
	name   string // as passed; may end with a slash
}

func (e *entry) close() { e.folder.close() }

// path is where the entry lies.
func (e *entry) path() string {
	return strings.TrimSuffix(e.folder.path, "/") + "/" + strings.TrimRight(e.name, "/")
}

// lookupEntry resolves all of a path but its last component, under the restrictions of openat2. What leads somewhere and has
// no proper last component (/, ., ..) is errNoName: every call on it fails anyway.
func (w *worker) lookupEntry(n *notification, folder int32, path string, resolve uint64) (*entry, error) {
	if path == "" {
		return nil, unix.ENOENT
	}
	above, name := splitLast(path)
	bare := strings.TrimRight(name, "/")
	proper := bare != "" && bare != "." && bare != ".."
	if !proper {
		above = path
	}
	o, err := w.lookup(n, folder, above, lookupFlags{folder: true, resolve: resolve})
	if err != nil {
		return nil, err
	}
	if !proper {
		o.close()
		return nil, errNoName
	}
	return &entry{folder: o, name: name}, nil
}

// splitLast parts a path before its last component. Slashes at the end stay with the component.
func splitLast(path string) (above, name string) {
	bare := strings.TrimRight(path, "/")
	slash := strings.LastIndexByte(bare, '/')
	if slash < 0 {
		return ".", path
	}
	above = path[:slash]
	if strings.Trim(above, "/") == "" {
		above = "/"
	}
	return above, path[slash+1:]
}

// specialFS are file systems whose files act with their opener's identity or are no files at all: never injected.
var specialFS = map[int64]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true,
	unix.BPF_FS_MAGIC: true, unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true, unix.SECURITYFS_MAGIC: true,
	unix.DEVPTS_SUPER_MAGIC: true, unix.NSFS_MAGIC: true, unix.PID_FS_MAGIC: true, unix.EFIVARFS_MAGIC: true,
	unix.SELINUX_MAGIC: true, unix.SMACK_MAGIC: true, unix.BINFMTFS_MAGIC: true, unix.PSTOREFS_MAGIC: true,
}

// readable are those of them whose files show the same to everybody of the same identity: reading them may be injected.
var readable = map[int64]bool{unix.SYSFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true}

// injectable reports whether the object may be opened by the broker: a file or folder of an ordinary file system.
func (o *object) injectable(a policy.Access) bool {
	if kind := o.kind(); kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return false
	}
	magic := magicOf(o.fd)
	return magic != 0 && (!specialFS[magic] || a == policy.Read && readable[magic])
}

// kernels reports whether the object is the kernel's: it lies in one of the special file systems, wherever that is mounted.
// Terminals are files like others.
func (o *object) kernels() bool {
	magic := magicOf(o.fd)
	return magic == 0 || specialFS[magic] && magic != unix.DEVPTS_SUPER_MAGIC
}

// magicOf is the type of the file system that an open file lies in; 0: it cannot be found out.
func magicOf(fd int) int64 {
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil {
		return 0
	}
	return int64(fs.Type)
}
