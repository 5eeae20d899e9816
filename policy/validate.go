package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Bounds of one policy. They keep what a hostile file can cost small.
const (
	maxListItems    = 4096    // of one list
	maxAlternatives = 32768   // path patterns in all, after braces
	maxFDs          = 1 << 30 // fs.nr_open never exceeds it
	maxMemoryMB     = 1 << 30 // a pebibyte
	maxProcesses    = 1 << 22 // PID_MAX_LIMIT of include/linux/threads.h
)

// Problem is one mistake in a policy file. Line and Column start at 1; 0: not known.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	Message string `json:"message"`
	Fix     string `json:"fix,omitempty"`
}

func (p *Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		b.WriteByte(':')
	}
	if p.Line > 0 {
		fmt.Fprintf(&b, "%d:%d:", p.Line, p.Column)
	}
	if b.Len() > 0 {
		b.WriteByte(' ')
	}
	b.WriteString(p.Message)
	if p.Fix != "" {
		b.WriteString(": ")
		b.WriteString(p.Fix)
	}
	return b.String()
}

// Errors are all the mistakes of one file, in the order of the file.
type Errors []*Problem

// maxErrorLines bounds the text of an error that lists what a hostile file can make long.
const maxErrorLines = 100

// Error is one line for each of the first mistakes; the slice has them all.
func (e Errors) Error() string {
	lines := make([]string, 0, min(len(e), maxErrorLines+1))
	for i, p := range e {
		if i == maxErrorLines {
			lines = append(lines, fmt.Sprintf("and %d more", len(e)-i))
			break
		}
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// location is the place of a value in a policy, for example filesystem.read[2] or syscalls.ptrace.
type location string

// key is the place of the key itself, where location is that of its value.
func (l location) key() location { return l + "@" }

func (l location) item(i int) location { return location(fmt.Sprintf("%s[%d]", l, i)) }

// validation checks the values of a policy that has the right shape. It does not stop at the first problem.
type validation struct {
	problems     []located
	alternatives int
}

type located struct {
	at    location
	fault *fault
}

func (v *validation) report(at location, f *fault) {
	if f != nil {
		v.problems = append(v.problems, located{at, f})
	}
}

// errors gives each problem its position in a file.
func (v *validation) errors(file string, positions map[location]position) Errors {
	problems := make(Errors, 0, len(v.problems))
	for _, p := range v.problems {
		problem := &Problem{File: file, Message: p.fault.message, Fix: p.fault.fix}
		if where, ok := positions[p.at]; ok {
			problem.Line, problem.Column = where.line, where.column
		} else {
			problem.Message = strings.TrimSuffix(string(p.at), "@") + ": " + problem.Message
		}
		problems = append(problems, problem)
	}
	slices.SortStableFunc(problems, func(a, b *Problem) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	return problems
}

func (v *validation) policy(p *Policy) {
	v.report("namespace", checkNamespace(p.Namespace))
	v.report("mode", oneOf(p.Mode, Enforce, Audit, Permissive))
	v.report("on_violation", oneOf(p.OnViolation, Block, Kill))
	for _, name := range sortedKeys(p.Syscalls) {
		at := location("syscalls." + name)
		if _, known := syscallTable[name]; !known {
			v.report(at.key(), unknownSyscall(name, len(v.problems) < maxErrorLines))
			continue
		}
		if p.Syscalls[name] == "" {
			v.report(at, faultf("write allow, deny or log", "no action"))
			continue
		}
		v.report(at, oneOf(p.Syscalls[name], SyscallAllow, SyscallDeny, SyscallLog))
	}
	if f := p.Filesystem; f != nil {
		for l := range listCount {
			v.paths(location("filesystem."+l.String()), f.patterns(l))
		}
	}
	if n := p.Network; n != nil {
		v.report("network.default_action", oneOf(n.DefaultAction, Drop, Allow))
		v.report("network.on_deny", oneOf(n.OnDeny, Blackhole, Reject))
		v.list("network.egress", n.Egress, func(text string) *fault { _, f := parseEgress(text); return f })
		v.list("network.listen", n.Listen, func(text string) *fault { _, f := parseListen(text); return f })
		v.paths("network.unix", n.Unix)
	}
	if r := p.Resources; r != nil {
		v.report("resources.max_fds", withinLimit(r.MaxFDs, maxFDs))
		v.report("resources.max_memory_mb", withinLimit(r.MaxMemoryMB, maxMemoryMB))
		v.report("resources.max_processes", withinLimit(r.MaxProcesses, maxProcesses))
	}
}

func (v *validation) list(at location, items []string, check func(string) *fault) {
	if len(items) > maxListItems {
		v.report(at, faultf("use wider patterns", "%d items, at most %d", len(items), maxListItems))
		return
	}
	for i, item := range items {
		v.report(at.item(i), check(item))
	}
}

func (v *validation) paths(at location, items []string) {
	v.list(at, items, func(text string) *fault {
		patterns, f := parsePattern(text)
		before := v.alternatives
		v.alternatives += len(patterns)
		if f == nil && before <= maxAlternatives && v.alternatives > maxAlternatives {
			f = faultf("use fewer braces", "the braces of all paths stand for more than %d patterns", maxAlternatives)
		}
		return f
	})
}

// checkNamespace wants a DNS label (RFC 1123 section 2.1): a namespace is a part of a SPIFFE ID. Empty is the default.
func checkNamespace(name string) *fault {
	if name == "" || (len(name) <= 63 && !strings.ContainsAny(name, "._") && isHostName(name)) {
		return nil
	}
	return faultf("write 1 to 63 lower-case letters, digits and -, with no - at an end", "%q is no namespace", shorten(name))
}

func oneOf[T ~string](value T, allowed ...T) *fault {
	if value == "" || slices.Contains(allowed, value) {
		return nil
	}
	words := make([]string, len(allowed))
	for i, a := range allowed {
		words[i] = string(a)
	}
	choice := strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
	return faultf("write "+choice, "%q is not known here", shorten(string(value)))
}

// unknownSyscall looks for the name that was meant only when suggest is set: it costs too much for a file full of them.
func unknownSyscall(name string, suggest bool) *fault {
	fix := "see `raypher policy schema` for the names"
	if suggest {
		if near := nearest(strings.ToLower(name), Syscalls()); near != "" {
			fix = fmt.Sprintf("did you mean %s?", near)
		}
	}
	return faultf(fix, "no system call %q on amd64 or arm64", shorten(name))
}

func withinLimit(value *uint64, highest uint64) *fault {
	if value == nil || (*value >= 1 && *value <= highest) {
		return nil
	}
	return faultf("leave the key out for no limit", "%d is not between 1 and %d", *value, highest)
}

// shorten keeps messages readable when the value is not.
func shorten(text string) string {
	if len(text) <= 80 {
		return text
	}
	return text[:77] + "..."
}
