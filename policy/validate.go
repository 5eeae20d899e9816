package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/raypher/raypher/internal/strictyaml"
)

// Bounds of one policy. They keep what a hostile file can cost small.
const (
	maxListItems    = 4096    // of one list
	maxAlternatives = 32768   // path patterns in all, after braces
	maxFDs          = 1 << 30 // fs.nr_open never exceeds it
	maxMemoryMB     = 1 << 30 // a pebibyte
	maxProcesses    = 1 << 22 // PID_MAX_LIMIT of include/linux/threads.h
)

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

// errors are the problems of a policy that is no file: they are named by their places. Nil when there are none.
func (v *validation) errors() error {
	if len(v.problems) == 0 {
		return nil
	}
	problems := make(Errors, 0, len(v.problems))
	for _, p := range v.problems {
		problems = append(problems, &Problem{Message: strings.TrimSuffix(string(p.at), "@") + ": " + p.fault.Message, Fix: p.fault.Fix})
	}
	return problems
}

func (v *validation) policy(p *Policy) {
	if p.Namespace != "" {
		v.report("namespace", CheckNamespace(p.Namespace))
	}
	v.report("mode", oneOf(p.Mode, Enforce, Audit, Permissive))
	v.report("on_violation", oneOf(p.OnViolation, Block, Kill))
	for _, name := range sortedKeys(p.Syscalls) {
		at := location("syscalls." + name)
		if _, known := syscallTable[name]; !known {
			v.report(at.Key(), unknownSyscall(name, len(v.problems) < maxErrorLines))
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
		v.hashes(f)
	}
	if n := p.Network; n != nil {
		v.report("network.default_action", oneOf(n.DefaultAction, Drop, Allow))
		v.report("network.on_deny", oneOf(n.OnDeny, Blackhole, Reject))
		v.report("network.unmetered", oneOf(n.Unmetered, UnmeteredRefuse, UnmeteredAllow))
		v.list("network.egress", n.Egress, func(text string) *fault { _, f := parseEgress(text); return f })
		v.asksNetwork(n)
		v.list("network.listen", n.Listen, func(text string) *fault { _, f := parseListen(text); return f })
		v.list("network.ingress", n.Ingress, func(text string) *fault { _, f := parseIngress(text); return f })
		v.paths("network.unix", n.Unix)
	}
	if p.Approval != nil {
		v.approval(p.Approval)
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
		v.report(at.Item(i), check(item))
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

// CheckNamespace wants a DNS label (RFC 1123 section 2.1): a namespace is a part of a SPIFFE ID. Nil is no mistake.
func CheckNamespace(name string) *strictyaml.Fault {
	if name != "" && len(name) <= 63 && !strings.ContainsAny(name, "._") && isHostName(name) {
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
