package broker

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/policy"
)

// Rules that are not of the policy, in verdicts.
const (
	ruleClosed       = "closed to every agent"
	ruleNeverWritten = "never written by agents"
	ruleWouldWiden   = "moving it would widen what may be done with it"
	ruleAway         = "raypherd, which must look at the call under kernel.yama.ptrace_scope, does not answer"
	ruleCutting      = "cutting a file without opening it for writing, before Linux 6.2"
	ruleHoldsClosed  = "what is closed to every agent lies in it"
	ruleKernelOpens  = "require_approval: only the kernel opens devices and named pipes, and it cannot be held to the answer"
	ruleTooLate      = "granted, but it was not there when the agent started"
)

// ruling is a permit, compiled. It is immutable.
type ruling struct {
	permit   *policy.Policy
	files    *policy.Rules
	programs map[string][32]byte // whose content is fixed
	narrowed bool                // the floor is wider than the permit
	lenient  bool                // nothing is refused
}

func newRuling(permit *policy.Policy, narrowed bool) *ruling {
	return &ruling{
		permit:   permit,
		files:    permit.FileRules(),
		programs: permit.Filesystem.HashedPrograms(),
		narrowed: narrowed,
		lenient:  permit.Mode == policy.Audit || permit.Mode == policy.Permissive,
	}
}

// event is one decision, as it will be reported.
type event struct {
	operation string
	target    string
	of        [2]string // what a person is asked about where that is two paths: instead of target
	how       string    // what a person is told besides: the mode of a chmod, the operation where it has another name than in verdicts
	rule      string
	layer     string // empty: broker
	errno     unix.Errno
	asPassed  bool

	// For who observes (observe.go).
	access  policy.Access // that is missing; 0: the event is of no file
	place   string        // the path that was decided, where target is not
	special bool          // only the kernel can open it
	folder  bool          // of is of folders
}

// refuse answers a call that is not granted: with the event's errno, or by letting it pass where the mode says so.
func (w *worker) refuse(n *notification, r *ruling, e event) answer {
	decision := journal.Block
	if r.lenient {
		decision = journal.WouldBlock
	}
	w.note(n, r, decision, e)
	switch {
	case r.lenient:
		return goOn
	case r.permit.OnViolation == policy.Kill && w.options.Kill != nil:
		w.options.Kill(int(n.PID))
		return answer{kind: answerNever}
	}
	return fail(e.errno)
}

// note reports a verdict, or counts it in mode permissive.
func (w *worker) note(n *notification, r *ruling, decision string, e event) {
	if w.options.Observe != nil && decision == journal.WouldBlock {
		w.observe(n, e)
	}
	if r.permit.Mode == policy.Permissive {
		if w.options.Count != nil {
			w.options.Count(e.operation)
		}
		return
	}
	v := journal.Verdict{
		Time: time.Now().UnixNano(), PID: n.PID, Comm: comm(n.PID), Decision: decision, Layer: e.layer,
		Operation: e.operation, Target: e.target, Rule: e.rule, Errno: int32(e.errno), Count: 1, AsPassed: e.asPassed,
	}
	if v.Layer == "" {
		v.Layer = "broker"
	}
	if decision != journal.Block {
		v.Errno = 0
	}
	w.fold.add(v)
}

// neverWritten are the trees that no agent writes (package floor), and ownFiles those in a process's own folder in /proc that
// it may write when its permit says so: what they change stays with the process.
var (
	neverWritten = []string{"/proc", "/sys"}
	ownFiles     = []string{"oom_score_adj", "oom_adj", "comm", "coredump_filter", "timerslack_ns", "clear_refs"}
)

// baseDevices are granted to every agent, as in package floor.
var baseDevices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// device reports whether path is a device file that every agent may use, or its own terminal.
func (w *worker) device(path string) bool {
	return slices.Contains(baseDevices, path) || slices.Contains(w.options.Devices, path)
}

// decideOn is decide for path at or right below an object that is at hand. What is the kernel's is never written, also where it
// is mounted a second time or bound to another path; in /proc itself decideProc knows better.
func (w *worker) decideOn(n *notification, r *ruling, o *object, path string, a policy.Access) policy.Decision {
	if a&policy.Write != 0 && !within(path, "/proc") && o.kernels() {
		return policy.Decision{Rule: ruleNeverWritten}
	}
	return w.decide(n, r, path, a)
}

// decide asks the permit about an access to the object at path.
func (w *worker) decide(n *notification, r *ruling, path string, a policy.Access) policy.Decision {
	if inAny(path, w.options.Closed) {
		return policy.Decision{Rule: ruleClosed}
	}
	if strings.HasPrefix(path, "/proc/") {
		return w.decideProc(n, r, path, a)
	}
	if a&policy.Write != 0 && (inAny(path, neverWritten) || inAny(path, w.options.Sealed)) {
		return policy.Decision{Rule: ruleNeverWritten}
	}
	if _, fixed := r.programs[path]; fixed && a&policy.Write != 0 {
		return policy.Decision{Rule: ruleFixed}
	}
	if a&policy.Exec == 0 && w.device(path) {
		return policy.Decision{Verdict: policy.VerdictAllow}
	}
	return r.files.Decide(path, a)
}

// decideProc decides on a file of procfs. A process's own folder also goes by the name /proc/self, and a thread's by
// /proc/thread-self.
func (w *worker) decideProc(n *notification, r *ruling, path string, a policy.Access) policy.Decision {
	first, rest, _ := strings.Cut(strings.TrimPrefix(path, "/proc/"), "/")
	pid, err := strconv.Atoi(first)
	if err != nil {
		if a&policy.Write != 0 {
			return policy.Decision{Rule: ruleNeverWritten}
		}
		return r.files.Decide(path, a)
	}
	s, err := readStatus(n.PID)
	own := err == nil && s.group == pid
	if a&policy.Write != 0 && (!own || !slices.Contains(ownFiles, rest)) {
		return policy.Decision{Rule: ruleNeverWritten}
	}
	d := r.files.Decide(path, a)
	if d.Verdict == policy.VerdictAllow || !own {
		return d
	}
	names := []string{"/proc/self"}
	if inner, ok := strings.CutPrefix(rest, "task/"+strconv.Itoa(int(n.PID))); ok && (inner == "" || inner[0] == '/') {
		names = append(names, "/proc/thread-self"+inner)
	}
	if rest != "" {
		names[0] += "/" + rest
	}
	for _, name := range names {
		if other := r.files.Decide(name, a); other.Verdict > d.Verdict || d.Rule == "" {
			d = other
		}
	}
	return d
}

func inAny(path string, trees []string) bool {
	return slices.ContainsFunc(trees, func(tree string) bool { return within(path, tree) })
}

// within reports whether path is root or lies below it.
func within(path, root string) bool {
	return path == root || strings.HasPrefix(path, root) && (root == "/" || path[len(root)] == '/')
}
