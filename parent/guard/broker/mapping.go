package broker

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// Landlock's right to execute holds execve and nothing else. The dynamic loader executes programs and libraries by mapping them:
// `ld.so program` runs what only may be read, LD_PRELOAD puts code into a program that is granted. So file mappings for execution are
// notified (floor.MapCall), a handful for each start of a program, and decided by the file behind the descriptor.
//
// The mapping itself is the kernel's: the call goes on, and a thread that exchanges the descriptor meanwhile maps another file. Such
// a thread is native code already. It could as well read that file into anonymous memory and jump there, which no rule on files can
// hold; who keeps an agent from running code of its own grants it no compiler and no interpreter with access to memory. What holds
// against every thread is that nothing but what is granted can be *started*: an exec leaves no other thread and no shared table of
// descriptors behind, so the loader of a new program maps what was decided.

// Rules of mappings that are refused.
const (
	ruleWritable = "what the agent may write is executed by an exec rule only"
	ruleProgram  = "a program is executed by an exec rule only"
	ruleNameless = "a file without a name is not executed"
)

// mapCall decides a mapping of a file for execution, or by the loader, whatever for: relocations can make code of what it reads.
func mapCall(w *worker, n *notification, r *ruling) answer {
	if n.Args[2]&unix.PROT_EXEC == 0 && n.Args[3]&unix.MAP_DENYWRITE == 0 || n.Args[3]&unix.MAP_ANONYMOUS != 0 {
		return goOn // notified for another reason
	}
	if path, named := w.descriptorName(n, int32(n.Args[4])); named && w.executed(n, r, path) {
		return goOn
	}
	fd, err := w.descriptor(n, int32(n.Args[4]))
	if err != nil {
		return result(err)
	}
	o, err := w.describe(fd)
	if err != nil {
		return result(err)
	}
	defer o.close()
	if !w.valid(n) {
		return answer{kind: answerNever}
	}
	if o.kind() != unix.S_IFREG {
		return goOn
	}
	if rule, mapped := w.mayMap(n, r, o, n.Args[3]&unix.MAP_TYPE == unix.MAP_PRIVATE); !mapped {
		return w.refuse(n, r, event{operation: "map-exec", target: o.path, rule: rule, errno: unix.EACCES, access: missingToMap(o, rule)})
	}
	return goOn
}

// executed reports whether an exec rule grants what lies at path, whatever its content is.
func (w *worker) executed(n *notification, r *ruling, path string) bool {
	_, fixed := r.programs[path]
	return !fixed && r.files.Governed() && w.decide(n, r, path, policy.Exec).Verdict == policy.VerdictAllow
}

// mayMap reports whether a file may be mapped for execution: by an exec rule, with its hash where it has one; or as a library, which
// is what may be read, is not the agent's to write, and is no program. A file without a name may be mapped as shared memory, as
// compilers at run time do who write through a second mapping; a loader maps for itself alone.
func (w *worker) mayMap(n *notification, r *ruling, o *object, private bool) (rule string, mapped bool) {
	if !r.files.Governed() {
		return "", true
	}
	if !o.named() {
		return ruleNameless, !private
	}
	executed := w.decide(n, r, o.path, policy.Exec)
	switch {
	case executed.Verdict != policy.VerdictBlock:
		return ruleHash, w.hasItsHash(r, o)
	case w.decide(n, r, o.path, policy.Read).Verdict == policy.VerdictBlock:
		return executed.Rule, false // opened before a rule was narrowed, or handed over
	case w.decide(n, r, o.path, policy.Write).Verdict != policy.VerdictBlock:
		return ruleWritable, false
	case o.stat().Mode&0o111 != 0 && !namedAsLibrary(o.path):
		return ruleProgram, false
	}
	return "", true
}

// missingToMap is the access that a mapping lacks: to read a library suffices.
func missingToMap(o *object, rule string) policy.Access {
	if rule == "" && (o.stat().Mode&0o111 == 0 || namedAsLibrary(o.path)) {
		return policy.Read
	}
	return policy.Exec
}

// namedAsLibrary reports whether a path is named as what is loaded and not started: on some systems libraries have the mode of
// programs.
func namedAsLibrary(path string) bool {
	name := path[strings.LastIndexByte(path, '/')+1:]
	return strings.HasSuffix(name, ".so") || strings.Contains(name, ".so.") || strings.HasSuffix(name, ".node")
}
