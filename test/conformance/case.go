// Package conformance is the specification of the guard over files, programs and processes as a table: a policy, an action under
// it, what its system call answers, what is reported of it, and what has changed, seen from outside the agent.
//
// The same table holds natively and in virtual machines, for root and for a plain user, under each backend. Whoever runs it gives
// it a Guard that starts agents: package launch its parts, this package's own test the programs as a person uses them,
// test/vm/guest the same under other kernels. docs/conformance.md is made from it.
package conformance

import (
	"strings"

	"github.com/raypher/raypher/test/probe"
)

// Backends, as visas and `raypher doctor` name them.
const (
	Broker = "broker"
	LSM    = "lsm"
)

// action keeps the tables short.
type action = probe.Action

// Case is one line: what an agent does and what comes of it.
//
// In actions, targets, rules and effects FOLDER is the world's folder, PROGRAM the probe, VICTIM the number of a process of the same
// user outside the agent. Targets and effects below FOLDER leave it out.
type Case struct {
	Name   string
	Do     action
	Want   string // ok, or the name of an errno
	Effect string // what changed, as World.changes tells it; empty: nothing at all
	Report string // "operation target" or "operation target | rule", of the verdict; empty: none

	holds   string // the only backend that holds it; empty: both
	reason  string // why the other one does not, in words
	without outcome
	lsm     *outcome // where lsm, which holds it too, answers or reports something else
	modes   bool     // under lsm the kernel's own rules refuse a plain user before the guard is asked: nothing is reported
	late    bool     // a system call that kernels before this one may not have
	arch    string   // as GOARCH; empty: all
	scoped  bool     // needs scopes of Landlock (Linux 6.12)
}

// outcome is what happens under the backend that does not hold a case.
type outcome struct{ want, effect, report string }

// Holds names the backends that hold the case: both, lsm or broker.
func (c Case) Holds() string {
	if c.holds == "" {
		return "both"
	}
	return c.holds
}

// Reason says why a backend does not hold the case; empty where both do.
func (c Case) Reason() string { return c.reason }

// under is what the case comes to under a backend, for a user.
func (c Case) under(backend string, uid int) outcome {
	switch {
	case c.holds != "" && c.holds != backend:
		return c.without
	case backend == LSM && c.lsm != nil:
		return *c.lsm
	case backend == LSM && c.modes && uid != 0:
		return outcome{c.Want, c.Effect, ""}
	}
	return outcome{c.Want, c.Effect, c.Report}
}

// underLSM marks a case that lsm holds too, with another answer or report.
func underLSM(o outcome, c Case) Case { c.lsm = &o; return c }

// modesFirst marks a case that a file's mode refuses to a plain user. The broker is asked before the kernel looks at it, hooks after.
func modesFirst(c Case) Case { c.modes = true; return c }

// late marks a system call that came after Linux 6.1: where the kernel does not know it, the case is left out.
func late(c Case) Case { c.late = true; return c }

// onlyLSM marks a case that only the lsm backend holds: without it, the outcome is the given one.
func onlyLSM(reason string, without outcome, c Case) Case {
	c.holds, c.reason, c.without = LSM, reason, without
	return c
}

// on limits a case to an architecture.
func on(arch string, c Case) Case { c.arch = arch; return c }

// setsAttribute reports whether a case needs a file system with attributes of users: where there are none, what is refused is refused
// before that shows, and what is granted fails.
func (c Case) setsAttribute() bool { return c.Want == "ok" && strings.HasSuffix(c.Do[0], "xattr") }

// Section is the cases of one class.
type Section struct {
	Class string
	Cases []Case
}

// Setting is a policy with what it needs, and all that is tried under it by one agent.
type Setting struct {
	Name     string
	Policy   string
	Furnish  func(*World) error
	Sections []Section
	Decision string // of the verdicts; empty: block
	Dies     bool   // the agent is killed by its first case
	needs    func(uid int) string
}

// Missing says in words what this host lacks for a setting to be played as a user; empty: nothing.
func (s Setting) Missing(uid int) string {
	if s.needs == nil {
		return ""
	}
	return s.needs(uid)
}

// Count is how many cases a setting has.
func (s Setting) Count() (n int) {
	for _, section := range s.Sections {
		n += len(section.Cases)
	}
	return n
}

// held612 marks what Landlock holds since Linux 6.12. Before, the warden decides signals (package launch tries that), and abstract
// sockets are not held; the case is left out there.
func held612(c Case) Case { c.scoped = true; return c }
