package broker

import (
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// In the descriptions of calls, which argument holds a folder's descriptor or flags.
const (
	cwd     = -1 // no argument: relative to the working directory
	noFlags = -1
)

// folderArgument is the folder that a path is relative to.
func folderArgument(n *notification, argument int) int32 {
	if argument == cwd {
		return unix.AT_FDCWD
	}
	return int32(n.Args[argument])
}

// entryCall makes or removes one entry of a folder.
type entryCall struct {
	operation    string
	folder, path int // arguments
	do           func(w *worker, n *notification, e *entry) error
}

func (c entryCall) handle(w *worker, n *notification, r *ruling) answer {
	path, err := w.pathArgument(n, n.Args[c.path])
	if err != nil {
		return result(err)
	}
	e, err := w.lookupEntry(n, folderArgument(n, c.folder), path, 0)
	if errors.Is(err, errNoName) && !r.narrowed {
		return goOn // it fails, and the kernel knows how
	}
	if err != nil {
		return w.unresolved(n, r, path, c.operation, noName(err, unix.EBUSY))
	}
	defer e.close()
	if !w.valid(n) {
		return answer{kind: answerNever}
	}
	if c.operation == "mkdir" && r.lenient && w.isFolder(e) {
		return goOn // `mkdir -p` asks for what is there, and changes nothing
	}
	d := w.decideOn(n, r, e.folder, e.path(), policy.Write)
	if a, settled := w.settle(n, r, onlyIf(e.folder.named(), d), event{operation: c.operation, target: e.path(), access: policy.Write}); settled {
		return a
	}
	if r.lenient || !r.narrowed && w.options.Coverage.Entry(e.folder.path) {
		return goOn
	}
	if !e.folder.injectable(policy.Write) {
		return fail(unix.EACCES)
	}
	return result(c.do(w, n, e))
}

// noName is the error of a call for a path that names no entry.
func noName(err error, errno unix.Errno) error {
	if errors.Is(err, errNoName) {
		return errno
	}
	return err
}

func unlinkatCall(w *worker, n *notification, r *ruling) answer {
	flags := int(int32(n.Args[2]))
	if flags&^unix.AT_REMOVEDIR != 0 {
		return fail(unix.EINVAL)
	}
	operation := "unlink"
	if flags != 0 {
		operation = "rmdir"
	}
	return entryCall{operation, 0, 1, remove(flags)}.handle(w, n, r)
}

func makeFolder(mode int) func(*worker, *notification, *entry) error {
	return func(w *worker, n *notification, e *entry) error {
		return w.withUmask(n, func() error { return unix.Mkdirat(e.folder.fd, e.name, uint32(n.Args[mode])&0o7777) })
	}
}

func makeNode(mode int) func(*worker, *notification, *entry) error {
	return func(w *worker, n *notification, e *entry) error {
		return w.withUmask(n, func() error {
			return unix.Mknodat(e.folder.fd, e.name, uint32(n.Args[mode]), int(n.Args[mode+1]))
		})
	}
}

func makeLink(w *worker, n *notification, e *entry) error {
	text, err := w.pathArgument(n, n.Args[0])
	if err != nil {
		return err
	}
	if !w.valid(n) {
		return unix.EINTR
	}
	return unix.Symlinkat(text, e.folder.fd, e.name)
}

func remove(flags int) func(*worker, *notification, *entry) error {
	return func(_ *worker, _ *notification, e *entry) error { return unix.Unlinkat(e.folder.fd, e.name, flags) }
}

// pairCall links or renames: two entries. Where the permit enforces, the broker does it itself on the folders that it decided on,
// also inside the floor: with other names under the call's pointers, a file would get the name by which a rule knows another
// one. One at a time, so that nothing is exchanged between the decision and the deed.
type pairCall struct {
	operation string
	arguments [4]int // folder and path of the old one, folder and path of the new one
	flags     int    // argument, or noFlags
	noName    [2]unix.Errno
	do        func(w *worker, n *notification, r *ruling, p pair) answer
}

type pair struct {
	operation        string
	old, new         *entry
	oldPath, newPath string
	flags            uint
}

func (c pairCall) handle(w *worker, n *notification, r *ruling) answer {
	p := pair{operation: c.operation}
	if c.flags != noFlags {
		p.flags = uint(uint32(n.Args[c.flags]))
	}
	w.pairs.Lock()
	defer w.pairs.Unlock()
	var paths [2]string
	var entries [2]*entry
	for i := range paths {
		path, err := w.pathArgument(n, n.Args[c.arguments[2*i+1]])
		if err != nil {
			return result(err)
		}
		paths[i] = path
	}
	if paths[0] == "" && c.operation == "link" && p.flags&unix.AT_EMPTY_PATH != 0 {
		return w.linkDescriptor(n, r, int32(n.Args[0]), folderArgument(n, c.arguments[2]), paths[1])
	}
	for i, path := range paths {
		e, err := w.lookupEntry(n, folderArgument(n, c.arguments[2*i]), path, 0)
		if err != nil {
			return w.unresolved(n, r, path, c.operation, noName(err, c.noName[i]))
		}
		defer e.close()
		entries[i] = e
	}
	p.old, p.new = entries[0], entries[1]
	p.oldPath, p.newPath = p.old.path(), p.new.path()
	if !w.valid(n) {
		return answer{kind: answerNever}
	}
	return c.do(w, n, r, p)
}

// rename needs the right to write at both places, and that nothing may be done with what is moved that could not be done
// before.
func rename(w *worker, n *notification, r *ruling, p pair) answer {
	places := [][2]string{{p.oldPath, p.newPath}}
	of, how, folder := [2]string{p.oldPath, p.newPath}, "", w.isFolder(p.old)
	if p.flags&unix.RENAME_EXCHANGE != 0 {
		places, how = append(places, [2]string{p.newPath, p.oldPath}), "exchange"
	}
	for _, e := range []*entry{p.old, p.new} {
		path := e.path()
		d := w.decideOn(n, r, e.folder, path, policy.Write)
		if a, settled := w.settle(n, r, d, event{operation: "rename", target: path, of: of, how: how, folder: folder, access: policy.Write}); settled {
			return a
		}
	}
	if !r.lenient && (!p.old.folder.injectable(policy.Write) || !p.new.folder.injectable(policy.Write) || !p.old.folder.named() || !p.new.folder.named()) {
		return fail(unix.EACCES)
	}
	for i, place := range places {
		from := []*entry{p.old, p.new}[i]
		if rule, wider := w.widens(n, r, from, place[0], place[1]); wider {
			return w.refuse(n, r, event{operation: "rename", target: place[0], of: place, folder: folder, access: policy.Write, rule: rule, errno: unix.EXDEV})
		}
	}
	if r.lenient {
		return goOn
	}
	return result(unix.Renameat2(p.old.folder.fd, p.old.name, p.new.folder.fd, p.new.name, p.flags))
}

// widens reports whether what lies at an entry could be used in a new way at another path. For a folder that holds for
// everything that may lie below it, so only patterns that do not tell the two apart are let through; callers then copy and
// remove, as they do between file systems (EXDEV).
func (w *worker) widens(n *notification, r *ruling, from *entry, before, after string) (rule string, wider bool) {
	for _, a := range []policy.Access{policy.Read, policy.Write, policy.Exec} {
		if w.decide(n, r, after, a).Verdict > w.decide(n, r, before, a).Verdict {
			return ruleWouldWiden, true
		}
	}
	var st unix.Stat_t
	err := unix.Fstatat(from.folder.fd, strings.TrimRight(from.name, "/"), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return "", false // the call itself will say so
	}
	if w.holdsClosed(before) {
		return ruleHoldsClosed, true
	}
	f := r.permit.Filesystem
	for _, patterns := range [][]string{f.Read, f.Write, f.Exec, f.Deny, f.RequireApproval} {
		for _, pattern := range patterns {
			if tellsApart(pattern, before, after) {
				return pattern, true
			}
		}
	}
	return "", false
}

// holdsClosed reports whether something lies in a folder that goes by its path and would be open under another one.
func (w *worker) holdsClosed(folder string) bool {
	return slices.ContainsFunc(slices.Concat(w.options.Closed, w.options.Sealed), func(path string) bool { return within(path, folder) })
}

// tellsApart reports whether a pattern may match something below one of two folders and not the same below the other.
func tellsApart(pattern, before, after string) bool {
	literal, rest := pattern, ""
	if at := strings.IndexAny(pattern, `*?{}[]\`); at >= 0 {
		slash := strings.LastIndexByte(pattern[:at], '/')
		literal, rest = pattern[:max(slash, 0)], pattern[max(slash, 0):]
	}
	if literal == "" {
		literal = "/"
	}
	strictlyBelow := func(path string) bool { return path != literal && within(path, literal) }
	apart := !within(before, literal) && !within(after, literal) && !within(literal, before) && !within(literal, after)
	both := strictlyBelow(before) && strictlyBelow(after)
	switch {
	case apart:
		return false
	case rest == "/**":
		return !both
	case strings.HasPrefix(rest, "/**/") && !strings.Contains(rest[len("/**/"):], "/") && !strings.ContainsAny(rest, `{}\`):
		return !both // one name, at any depth: it does not look at the folders above
	}
	return true
}

// link needs the right to write at the new place, and that it grants no more than the old one.
func link(w *worker, n *notification, r *ruling, p pair) answer {
	if p.flags&^(unix.AT_SYMLINK_FOLLOW|unix.AT_EMPTY_PATH) != 0 {
		return fail(unix.EINVAL)
	}
	old, err := w.lookupFrom(n, p.old.folder.fd, p.old.name, lookupFlags{noFollow: p.flags&unix.AT_SYMLINK_FOLLOW == 0})
	if err != nil {
		return w.unresolved(n, r, p.oldPath, "link", err)
	}
	defer old.close()
	return w.linkObject(n, r, old, p.new)
}

// linkDescriptor gives a name to what the target has open (AT_EMPTY_PATH).
func (w *worker) linkDescriptor(n *notification, r *ruling, number, folder int32, path string) answer {
	e, err := w.lookupEntry(n, folder, path, 0)
	if err != nil {
		return w.unresolved(n, r, path, "link", noName(err, unix.EEXIST))
	}
	defer e.close()
	fd, err := w.descriptor(n, number)
	if err != nil {
		return result(err)
	}
	old, err := w.describe(fd)
	if err != nil {
		return result(err)
	}
	defer old.close()
	if !w.valid(n) {
		return answer{kind: answerNever}
	}
	return w.linkObject(n, r, old, e)
}

func (w *worker) linkObject(n *notification, r *ruling, old *object, e *entry) answer {
	path := e.path()
	d := w.decideOn(n, r, e.folder, path, policy.Write)
	if a, settled := w.settle(n, r, onlyIf(e.folder.named(), d), event{operation: "link", target: path, of: [2]string{old.path, path}, access: policy.Write}); settled {
		return a
	}
	if old.named() {
		for _, a := range []policy.Access{policy.Read, policy.Write, policy.Exec} {
			if w.decide(n, r, path, a).Verdict > w.decide(n, r, old.path, a).Verdict {
				return w.refuse(n, r, event{operation: "link", target: old.path, of: [2]string{old.path, path}, access: policy.Write, rule: ruleWouldWiden, errno: unix.EXDEV})
			}
		}
	}
	if r.lenient {
		return goOn
	}
	// What was made without a name (O_TMPFILE) may get one where such a file could have been made: the folder is in its path.
	temporary := old.kind() == unix.S_IFREG && old.stat().Nlink == 0 && within(old.path, e.folder.path)
	if !e.folder.injectable(policy.Write) || !old.named() && !temporary {
		return fail(unix.EACCES)
	}
	err := unix.Linkat(unix.AT_FDCWD, old.reopen(), e.folder.fd, e.name, unix.AT_SYMLINK_FOLLOW)
	if errors.Is(err, unix.ENOENT) && old.stat().Nlink == 0 {
		err = unix.EACCES
	}
	return result(err)
}
