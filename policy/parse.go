package policy

import (
	"github.com/raypher/raypher/internal/strictyaml"
)

// The words of package strictyaml that this package speaks in.
type (
	// Problem is one mistake in a policy file.
	Problem = strictyaml.Problem
	// Errors are all the mistakes of one file, in the order of the file.
	Errors = strictyaml.Errors

	fault    = strictyaml.Fault
	location = strictyaml.Place
)

var (
	faultf  = strictyaml.Faultf
	shorten = strictyaml.Shorten
	nearest = strictyaml.Nearest
)

const maxErrorLines = strictyaml.MaxErrorLines

// Parse reads a policy from YAML, or from JSON, which is YAML as far as a policy needs it. name is the file's name for
// messages. It is strict: unknown keys, values of the wrong kind and values that could not be enforced are errors. The error
// is of type Errors and has all mistakes at once; after a mistake of YAML itself only that one is known. The policy comes
// back normalised, as Canonical writes it, with its defaults filled in.
func Parse(name string, data []byte) (*Policy, error) {
	p, err := ParseIntent(name, data)
	if err != nil {
		return nil, err
	}
	return p.withDefaults(), nil
}

func (p *Policy) withDefaults() *Policy {
	p.Namespace = withDefault(p.Namespace, DefaultNamespace)
	p.Mode = withDefault(p.Mode, Enforce)
	p.OnViolation = withDefault(p.OnViolation, Block)
	return p
}

// emptyFix is what to write where there is no policy.
const emptyFix = "write at least one section; `filesystem: {}` alone grants nothing"

// ParseIntent is Parse for what is only ever the inner side of Narrow: namespace, mode and on_violation that the text does not
// have stay empty, so that they are inherited.
func ParseIntent(name string, data []byte) (*Policy, error) {
	r, document, err := strictyaml.Load(strictyaml.File{Name: name, What: "policy", Empty: emptyFix, Limit: MaxSize}, data)
	if err != nil {
		return nil, err
	}
	p := read(r, document)
	return p, r.Err()
}

// ReadSection reads a policy that is a section of another file, with its defaults filled in. Its mistakes are reported to outer;
// with any, the policy is nil.
func ReadSection(outer *strictyaml.Reader, n *strictyaml.Node) *Policy {
	r := outer.Inner()
	defer r.Close(outer)
	if p := read(r, n); p != nil {
		return p.withDefaults()
	}
	return nil
}

// read decodes and checks a policy and returns it in its normal form, or nil.
func read(r *strictyaml.Reader, n *strictyaml.Node) *Policy {
	p := decoder{r}.policy(n)
	var v validation
	v.policy(p)
	for _, found := range v.problems {
		r.Report(found.at, found.fault)
	}
	if r.Count() > 0 {
		return nil
	}
	normal := p.normalised()
	if size := len(normal.encode()); size > MaxSize {
		r.Report("", faultf("use wider patterns", "canonical form of %d bytes, at most %d", size, MaxSize))
		return nil
	}
	return normal
}

// decoder turns YAML nodes into a Policy.
type decoder struct{ *strictyaml.Reader }

func (d decoder) policy(n *strictyaml.Node) *Policy {
	p := &Policy{}
	fields := map[string]func(location, *strictyaml.Node){
		"namespace":    func(at location, n *strictyaml.Node) { d.Text(at, n, &p.Namespace) },
		"mode":         func(at location, n *strictyaml.Node) { d.Text(at, n, (*string)(&p.Mode)) },
		"on_violation": func(at location, n *strictyaml.Node) { d.Text(at, n, (*string)(&p.OnViolation)) },
		"syscalls":     func(at location, n *strictyaml.Node) { d.syscalls(at, n, p) },
		"filesystem": func(at location, n *strictyaml.Node) {
			p.Filesystem = &Filesystem{}
			d.filesystem(at, n, p.Filesystem)
		},
		"network": func(at location, n *strictyaml.Node) {
			p.Network = &Network{}
			d.network(at, n, p.Network)
		},
		"approval": func(at location, n *strictyaml.Node) {
			p.Approval = &Approval{}
			d.approval(at, n, p.Approval)
		},
		"resources": func(at location, n *strictyaml.Node) {
			p.Resources = &Resources{}
			d.resources(at, n, p.Resources)
		},
	}
	d.Fields("", n, fields)
	return p
}

// paths are lists of path patterns.
var paths = strictyaml.Items{Null: `~ alone is nothing in YAML: write "~" in quotes`}

func (d decoder) filesystem(at location, n *strictyaml.Node, f *Filesystem) {
	d.Fields(at, n, map[string]func(location, *strictyaml.Node){
		"read":             func(at location, n *strictyaml.Node) { d.List(at, n, &f.Read, paths) },
		"write":            func(at location, n *strictyaml.Node) { d.List(at, n, &f.Write, paths) },
		"exec":             func(at location, n *strictyaml.Node) { d.List(at, n, &f.Exec, d.execItems(f)) },
		"deny":             func(at location, n *strictyaml.Node) { d.List(at, n, &f.Deny, paths) },
		"require_approval": func(at location, n *strictyaml.Node) { d.List(at, n, &f.RequireApproval, paths) },
		"static":           func(at location, n *strictyaml.Node) { d.Truth(at, n, &f.Static) },
	})
}

func (d decoder) network(at location, n *strictyaml.Node, w *Network) {
	d.Fields(at, n, map[string]func(location, *strictyaml.Node){
		"default_action":   func(at location, n *strictyaml.Node) { d.Text(at, n, (*string)(&w.DefaultAction)) },
		"require_approval": func(at location, n *strictyaml.Node) { d.List(at, n, &w.RequireApproval, strictyaml.Items{}) },
		"on_deny":          func(at location, n *strictyaml.Node) { d.Text(at, n, (*string)(&w.OnDeny)) },
		"egress":           func(at location, n *strictyaml.Node) { d.List(at, n, &w.Egress, strictyaml.Items{}) },
		"listen":           func(at location, n *strictyaml.Node) { d.List(at, n, &w.Listen, strictyaml.Items{Numbers: true}) },
		"ingress":          func(at location, n *strictyaml.Node) { d.List(at, n, &w.Ingress, strictyaml.Items{Numbers: true}) },
		"isolate":          func(at location, n *strictyaml.Node) { d.Truth(at, n, &w.Isolate) },
		"unmetered":        func(at location, n *strictyaml.Node) { d.Text(at, n, (*string)(&w.Unmetered)) },
		"unix":             func(at location, n *strictyaml.Node) { d.List(at, n, &w.Unix, paths) },
	})
}

func (d decoder) approval(at location, n *strictyaml.Node, a *Approval) {
	d.Fields(at, n, map[string]func(location, *strictyaml.Node){
		"timeout":    func(at location, n *strictyaml.Node) { d.Text(at, n, &a.Timeout) },
		"on_timeout": func(at location, n *strictyaml.Node) { d.Text(at, n, (*string)(&a.OnTimeout)) },
	})
}

func (d decoder) resources(at location, n *strictyaml.Node, r *Resources) {
	d.Fields(at, n, map[string]func(location, *strictyaml.Node){
		"max_fds":       func(at location, n *strictyaml.Node) { d.Number(at, n, &r.MaxFDs) },
		"max_memory_mb": func(at location, n *strictyaml.Node) { d.Number(at, n, &r.MaxMemoryMB) },
		"max_processes": func(at location, n *strictyaml.Node) { d.Number(at, n, &r.MaxProcesses) },
	})
}

func (d decoder) syscalls(at location, n *strictyaml.Node, p *Policy) {
	p.Syscalls = map[string]SyscallAction{}
	d.Mapping(at, n, func(name string, at location, value *strictyaml.Node) {
		var action string
		if d.Text(at, value, &action) {
			p.Syscalls[name] = SyscallAction(action)
		}
	})
}
