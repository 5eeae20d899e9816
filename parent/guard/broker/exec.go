package broker

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/policy"
)

// maxInterpreters is how many interpreters may call each other (fs/exec.c, exec_binprm).
const maxInterpreters = 5

func execveCall(w *worker, n *notification, r *ruling) answer {
	return w.exec(n, r, unix.AT_FDCWD, n.Args[0], 0)
}

func execveatCall(w *worker, n *notification, r *ruling) answer {
	return w.exec(n, r, int32(n.Args[0]), n.Args[1], int(int32(n.Args[4])))
}

// exec decides on the program and on the interpreters of a script. Only the kernel can execute, so what is granted goes on:
// Landlock's right to execute bounds it. Nothing is executed that the floor does not hold.
func (w *worker) exec(n *notification, r *ruling, folder int32, address uint64, flags int) answer {
	path, err := w.pathArgument(n, address)
	if err != nil {
		return result(err)
	}
	if w.relayed.Load() {
		w.memories.executes(n)
	}
	var o *object
	if path == "" && flags&unix.AT_EMPTY_PATH != 0 {
		fd, openErr := w.descriptor(n, folder)
		if openErr != nil {
			return result(openErr)
		}
		o, err = w.describe(fd)
	} else {
		o, err = w.lookup(n, folder, path, lookupFlags{noFollow: flags&unix.AT_SYMLINK_NOFOLLOW != 0})
	}
	if err != nil {
		return w.unresolved(n, r, path, "exec", err)
	}
	defer func() { o.close() }()
	if !w.valid(n) {
		return answer{kind: answerNever}
	}
	for range maxInterpreters {
		// In mode audit a script that would be refused still leads to its interpreter.
		if a, decided := w.execObject(n, r, o); decided && !(r.lenient && o.kind() == unix.S_IFREG) {
			return a
		}
		interpreter, script := scriptInterpreter(o)
		if !script || interpreter == "" {
			return goOn
		}
		next, err := w.lookup(n, unix.AT_FDCWD, interpreter, lookupFlags{})
		if err != nil {
			return w.unresolved(n, r, interpreter, "exec", err)
		}
		o.close()
		o = next
	}
	return goOn // the kernel answers ELOOP
}

// execObject decides on one file. It is decided when the call may not go on.
func (w *worker) execObject(n *notification, r *ruling, o *object) (answer, bool) {
	if o.kind() != unix.S_IFREG && o.named() {
		return goOn, true // EACCES, EISDIR
	}
	d := policy.Decision{}
	if o.named() {
		d = w.decide(n, r, o.path, policy.Exec)
	} else if !r.files.Governed() {
		d.Verdict = policy.VerdictAllow
	}
	e := event{operation: "exec", target: o.path, rule: d.Rule, errno: unix.EACCES, access: policy.Exec}
	if a, settled := w.settle(n, r, d, e); settled {
		return a, true
	}
	if !w.hasItsHash(r, o) {
		e.rule = ruleHash
		return w.refuse(n, r, e), true
	}
	if !r.lenient && o.named() && !w.options.Coverage.Object(o.path, uint64(o.stat().Dev), o.stat().Ino, policy.Exec) {
		e.layer, e.rule = "landlock", ruleTooLate
		return w.refuse(n, r, e), true
	}
	return answer{}, false
}

// scriptInterpreter reads the first line of a file. What the target's user cannot read is no script here; the kernel may still
// find one, and then Landlock decides on its interpreter.
func scriptInterpreter(o *object) (string, bool) {
	if o.kind() != unix.S_IFREG {
		return "", false
	}
	fd, err := unix.Open(o.reopen(), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	head := make([]byte, floor.MaxScriptLine)
	length, err := unix.Pread(fd, head, 0)
	if err != nil {
		return "", false
	}
	return floor.ScriptInterpreter(head[:length])
}

// memfdCall makes a file in memory that cannot be executed. Otherwise an agent could write a program there: Landlock does not
// see such files, they have no path.
func memfdCall(w *worker, n *notification, r *ruling) answer {
	if r.lenient {
		return goOn
	}
	const maxName = 249 // MFD_NAME_MAX_LEN, mm/memfd.c
	name, err := w.text(n, n.Args[0], maxName+1, unix.EINVAL)
	if err != nil {
		return result(err)
	}
	asked := int(uint32(n.Args[1]))
	flags := asked&^unix.MFD_EXEC | unix.MFD_NOEXEC_SEAL | unix.MFD_CLOEXEC
	fd, err := unix.MemfdCreate(name, flags)
	if errors.Is(err, unix.EINVAL) {
		return goOn // older than Linux 6.3, or flags that do not exist: the kernel knows which
	}
	if err != nil {
		return result(err)
	}
	if asked&unix.MFD_ALLOW_SEALING == 0 {
		// NOEXEC_SEAL allows sealing; who did not ask for it gets a file that cannot be sealed.
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL); err != nil {
			unix.Close(fd)
			return result(err)
		}
	}
	return inject(fd, asked&unix.MFD_CLOEXEC != 0)
}
