package broker

import (
	"errors"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// Most calls open by a plain path what the permit and the floor grant whole. Where no link is on the way, the path itself is where the
// object lies, and nobody need ask the kernel for it: that is a third of what a decision costs.

// openPlain answers such an open. It is not settled where anything is out of the ordinary; then the call is looked at in full.
//
// Nothing but the floor bounds a call that goes on, so what is looked at here is whether the path leads without a link to where the
// permit grants the access, and the floor too. A permit that was narrowed since is not bound by the floor.
func (w *worker) openPlain(n *notification, r *ruling, o opening) (a answer, settled bool) {
	if r.narrowed || o.lookup != (lookupFlags{}) || o.flags&unix.O_CREAT != 0 {
		return answer{}, false
	}
	path, plain := w.plainPath(n, o.folder, o.path)
	access := o.access()
	if !plain || within(path, "/proc") || !w.options.Coverage.Tree(path, access) || w.decide(n, r, path, access).Verdict != policy.VerdictAllow {
		return answer{}, false
	}
	fd, err := w.openName(unix.AT_FDCWD, path, unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	switch {
	case o.path[0] == '/' && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)): // no link was met: it is so for the target
		return w.unresolved(n, r, o.path, operationOf(access), err), true
	case err != nil:
		return answer{}, false
	}
	defer quickClose(fd)
	if access&policy.Write != 0 && (&object{fd: fd}).kernels() {
		return answer{}, false
	}
	return goOn, true
}

// plainPath is the path that an argument stands for, from the root, where it has only names: no component is empty, . or .. there.
func (w *worker) plainPath(n *notification, folder int32, path string) (string, bool) {
	if !onlyNames(strings.TrimPrefix(path, "/")) {
		return "", false
	}
	if path[0] == '/' {
		return path, true
	}
	above, ok := w.descriptorName(n, folder)
	return strings.TrimSuffix(above, "/") + "/" + path, ok
}

// onlyNames reports whether each component of a path is the name of an entry. A path that ends with a slash has an empty one.
func onlyNames(path string) bool {
	start := 0
	for i := 0; i <= len(path); i++ {
		if i < len(path) && path[i] != '/' {
			continue
		}
		if name := path[start:i]; name == "" || name == "." || name == ".." {
			return false
		}
		start = i + 1
	}
	return true
}

// descriptorName is where a file lies that the target has open, or its working directory. It has none when it was removed, cannot be
// reached from the root, or never had one.
func (w *worker) descriptorName(n *notification, number int32) (string, bool) {
	name, err := descriptorPath(n, number)
	if err != nil {
		return "", false
	}
	length, err := unix.Readlink(name, w.link[:])
	if err != nil || length == len(w.link) || w.link[0] != '/' {
		return "", false
	}
	path := string(w.link[:length])
	return path, !strings.HasSuffix(path, deleted)
}

// openName is openat2 without its allocations. It may wait for a slow file system.
func (w *worker) openName(from int, path string, how unix.OpenHow) (int, error) {
	if len(path) >= len(w.name) {
		return -1, unix.ENAMETOOLONG
	}
	if strings.IndexByte(path, 0) >= 0 {
		return -1, unix.EINVAL
	}
	w.name[copy(w.name[:], path)] = 0
	w.how = how
	fd, _, errno := unix.Syscall6(unix.SYS_OPENAT2, uintptr(from), uintptr(unsafe.Pointer(&w.name)), uintptr(unsafe.Pointer(&w.how)),
		unix.SizeofOpenHow, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
