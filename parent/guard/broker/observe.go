package broker

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/trace"
)

// What mode audit lets pass is observed in full (Options.Observe): not folded, and with what a policy would have to say to grant it.
// package trace bounds it.

// unchangeable are the rules that no policy overrules.
var unchangeable = []string{
	ruleClosed, ruleNeverWritten, ruleNotItsOwn, ruleSetID, ruleDevice, ruleCutting, ruleAway, ruleFixed,
	ruleNameless, ruleHash,
}

// observe hands on what is not granted.
func (w *worker) observe(n *notification, e event) {
	entry := trace.Entry{
		Operation: e.operation, Access: letters(e.access), Path: e.target, Special: e.special, AsPassed: e.asPassed,
		Rule: e.rule, Fixed: slices.Contains(unchangeable, e.rule),
	}
	switch {
	case e.operation == "connect":
		entry.Operation = trace.Unix
	case e.place != "":
		entry.Path = e.place
	case e.of[0] != "":
		entry.Path, entry.To, entry.Folder = e.of[0], e.of[1], e.folder
		if !strings.HasPrefix(entry.Path, "/") || strings.HasSuffix(entry.Path, " (deleted)") {
			entry.Path, entry.To = e.of[1], "" // what is linked had no name
		}
	case e.access == 0 && !e.asPassed: // nothing of a file
		entry.Target, entry.Path = e.target, ""
	}
	entry.Path = w.ownName(n, entry.Path)
	if !strings.HasPrefix(entry.Path, "/") && entry.Path != "" {
		entry.AsPassed = true
	}
	w.options.Observe(entry)
}

func letters(a policy.Access) string {
	text := ""
	for _, one := range []struct {
		access policy.Access
		letter string
	}{{policy.Read, trace.AccessRead}, {policy.Write, trace.AccessWrite}, {policy.Exec, trace.AccessExec}} {
		if a&one.access != 0 {
			text += one.letter
		}
	}
	return text
}

// ownName is the path by which rules name a file of procfs: /proc/self for the process's own folder (decideProc).
func (w *worker) ownName(n *notification, path string) string {
	below, ok := strings.CutPrefix(path, "/proc/")
	if !ok {
		return path
	}
	first, rest, deeper := strings.Cut(below, "/")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return path
	}
	if s, err := readStatus(n.PID); err != nil || s.group != pid {
		return path
	}
	if !deeper {
		return "/proc/self"
	}
	return "/proc/self/" + rest
}

// special reports, where it is observed, whether only the kernel could open the object for the agent.
func (w *worker) special(o *object, a policy.Access) bool {
	return w.options.Observe != nil && !within(o.path, "/proc") && !o.injectable(a)
}

// isFolder reports, where it is observed, whether a folder lies at the entry.
func (w *worker) isFolder(e *entry) bool {
	var st unix.Stat_t
	return w.options.Observe != nil && unix.Fstatat(e.folder.fd, strings.TrimRight(e.name, "/"), &st, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// bindCall observes the making of a unix socket, which Landlock alone decides where the permit enforces: the filter notifies it
// only where it is observed (floor.Filter).
func bindCall(w *worker, n *notification, r *ruling) answer {
	length := uint32(n.Args[2])
	if !r.lenient || w.options.Observe == nil || length < 3 || length > 128 {
		return goOn
	}
	raw := make([]byte, length)
	if err := w.memory(n, n.Args[1], raw); err != nil {
		return goOn // the kernel says so
	}
	address, ok := parseAddress(raw[:min(length, sizeUnixAddress)])
	if !ok || address.path == "" {
		return goOn
	}
	e, err := w.lookupEntry(n, unix.AT_FDCWD, address.path, 0)
	if err != nil {
		return goOn
	}
	defer e.close()
	if w.decideOn(n, r, e.folder, e.path(), policy.Write).Verdict != policy.VerdictAllow {
		w.options.Observe(trace.Entry{Operation: trace.BindUnix, Access: trace.AccessWrite, Path: w.ownName(n, e.path())})
	}
	return goOn
}
