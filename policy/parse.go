package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
	"go.yaml.in/yaml/v4/plugin/loaderlimits"
)

// Bounds of YAML: what aliases may make of a file of MaxSize.
const (
	maxNodes = 100_000
	maxDepth = 32
)

type position struct{ line, column int }

// Parse reads a policy from YAML, or from JSON, which is YAML as far as a policy needs it. name is the file's name for
// messages. It is strict: unknown keys, values of the wrong kind and values that could not be enforced are errors. The error
// is of type Errors and has all mistakes at once; after a mistake of YAML itself only that one is known. The policy comes
// back normalised, as Canonical writes it, with its defaults filled in.
func Parse(name string, data []byte) (*Policy, error) {
	p, err := ParseIntent(name, data)
	if err != nil {
		return nil, err
	}
	p.Namespace = withDefault(p.Namespace, DefaultNamespace)
	p.Mode = withDefault(p.Mode, Enforce)
	p.OnViolation = withDefault(p.OnViolation, Block)
	return p, nil
}

// ParseIntent is Parse for what is only ever the inner side of Narrow: namespace, mode and on_violation that the text does not
// have stay empty, so that they are inherited.
func ParseIntent(name string, data []byte) (*Policy, error) {
	fail := func(at position, message, fix string) (*Policy, error) {
		return nil, Errors{{File: name, Line: at.line, Column: at.column, Message: message, Fix: fix}}
	}
	if len(data) > MaxSize {
		return fail(position{}, fmt.Sprintf("policy of %d bytes, at most %d", len(data), MaxSize), "use wider patterns")
	}
	if at, ok := firstInvalid(data); ok {
		return fail(at, "not UTF-8 text", "save the file as UTF-8")
	}
	document, problem := loadDocument(data)
	if problem != nil {
		problem.File = name
		return nil, Errors{problem}
	}
	d := decoder{positions: map[location]position{}}
	p := d.policy(document)
	v := validation{}
	if p != nil {
		v.policy(p)
	}
	v.problems = append(v.problems, d.problems...)
	if len(v.problems) > 0 {
		return nil, v.errors(name, d.positions)
	}
	normal := p.normalised()
	if size := len(normal.encode()); size > MaxSize {
		return fail(position{1, 1}, fmt.Sprintf("canonical form of %d bytes, at most %d", size, MaxSize), "use wider patterns")
	}
	return normal, nil
}

// firstInvalid finds the first byte that is no text: not UTF-8, or NUL.
func firstInvalid(data []byte) (position, bool) {
	at := position{1, 1}
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		if (r == utf8.RuneError && size == 1) || r == 0 {
			return at, true
		}
		at.column++
		if r == '\n' {
			at = position{at.line + 1, 1}
		}
		data = data[size:]
	}
	return at, false
}

// loadDocument reads the only YAML document of data.
func loadDocument(data []byte) (*yaml.Node, *Problem) {
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithPlugin(loaderlimits.New(loaderlimits.DepthValue(maxDepth))))
	if err != nil {
		return nil, &Problem{Message: err.Error()}
	}
	var document, next yaml.Node
	err = loader.Load(&document)
	switch {
	case errors.Is(err, io.EOF):
		return nil, &Problem{Line: 1, Column: 1, Message: "empty policy", Fix: "write at least one section; `filesystem: {}` alone grants nothing"}
	case err != nil:
		return nil, yamlProblem(err)
	}
	switch err := loader.Load(&next); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, yamlProblem(err)
	default:
		return nil, &Problem{Line: next.Line, Column: next.Column, Message: "second YAML document", Fix: "keep one policy in one file"}
	}
	return document.Content[0], nil
}

// yamlProblem explains a mistake of YAML, with the traps that patterns lay.
func yamlProblem(err error) *Problem {
	p := &Problem{Line: 1, Column: 1, Message: err.Error()}
	var loadErr *yaml.LoadError
	if errors.As(err, &loadErr) {
		p.Message = "YAML: " + loadErr.Message
		p.Line, p.Column = max(1, loadErr.Mark.Line), max(1, loadErr.Mark.Column)
	}
	switch {
	case strings.Contains(p.Message, "unknown anchor"):
		p.Fix = `a value that starts with * is an alias: put quotes around it, as in "*.example.com"`
	case strings.Contains(p.Message, "',' or ']'"), strings.Contains(p.Message, "',' or '}'"):
		p.Fix = `put quotes around values with { } [ ] or , as in ["/usr/{bin,lib}/**"]`
	case strings.Contains(p.Message, "cannot start any token"):
		p.Fix = "indent with spaces, and put quotes around values that start with a sign"
	}
	return p
}

// decoder turns YAML nodes into a Policy and remembers where each value stood.
type decoder struct {
	positions map[location]position
	problems  []located
	nodes     int
}

func (d *decoder) report(at location, n *yaml.Node, f *fault) {
	if n != nil {
		d.positions[at] = position{n.Line, n.Column}
	}
	d.problems = append(d.problems, located{at, f})
}

// visit follows an alias and counts what is visited: an alias counts each time it is used.
func (d *decoder) visit(at location, n *yaml.Node) (*yaml.Node, bool) {
	if d.nodes++; d.nodes > maxNodes {
		if d.nodes == maxNodes+1 {
			d.report(at, n, faultf("use fewer aliases", "aliases make more than %d values of this file", maxNodes))
		}
		return nil, false
	}
	d.positions[at] = position{n.Line, n.Column}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n, true
}

func (d *decoder) policy(n *yaml.Node) *Policy {
	p := &Policy{}
	fields := map[string]func(location, *yaml.Node){
		"namespace":    func(at location, n *yaml.Node) { d.text(at, n, &p.Namespace) },
		"mode":         func(at location, n *yaml.Node) { d.text(at, n, (*string)(&p.Mode)) },
		"on_violation": func(at location, n *yaml.Node) { d.text(at, n, (*string)(&p.OnViolation)) },
		"syscalls":     func(at location, n *yaml.Node) { d.syscalls(at, n, p) },
		"filesystem": func(at location, n *yaml.Node) {
			p.Filesystem = &Filesystem{}
			d.filesystem(at, n, p.Filesystem)
		},
		"network": func(at location, n *yaml.Node) {
			p.Network = &Network{}
			d.network(at, n, p.Network)
		},
		"resources": func(at location, n *yaml.Node) {
			p.Resources = &Resources{}
			d.resources(at, n, p.Resources)
		},
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		d.report("policy", n, faultf("write at least one section; `filesystem: {}` alone grants nothing", "empty policy"))
		return nil
	}
	d.fields("", n, fields)
	return p
}

func (d *decoder) filesystem(at location, n *yaml.Node, f *Filesystem) {
	d.fields(at, n, map[string]func(location, *yaml.Node){
		"read":             func(at location, n *yaml.Node) { d.list(at, n, &f.Read, pathHint) },
		"write":            func(at location, n *yaml.Node) { d.list(at, n, &f.Write, pathHint) },
		"exec":             func(at location, n *yaml.Node) { d.list(at, n, &f.Exec, pathHint) },
		"deny":             func(at location, n *yaml.Node) { d.list(at, n, &f.Deny, pathHint) },
		"require_approval": func(at location, n *yaml.Node) { d.list(at, n, &f.RequireApproval, pathHint) },
	})
}

func (d *decoder) network(at location, n *yaml.Node, w *Network) {
	d.fields(at, n, map[string]func(location, *yaml.Node){
		"default_action": func(at location, n *yaml.Node) { d.text(at, n, (*string)(&w.DefaultAction)) },
		"on_deny":        func(at location, n *yaml.Node) { d.text(at, n, (*string)(&w.OnDeny)) },
		"egress":         func(at location, n *yaml.Node) { d.list(at, n, &w.Egress, "") },
		"listen":         func(at location, n *yaml.Node) { d.list(at, n, &w.Listen, "") },
		"unix":           func(at location, n *yaml.Node) { d.list(at, n, &w.Unix, pathHint) },
	})
}

func (d *decoder) resources(at location, n *yaml.Node, r *Resources) {
	d.fields(at, n, map[string]func(location, *yaml.Node){
		"max_fds":       func(at location, n *yaml.Node) { d.number(at, n, &r.MaxFDs) },
		"max_memory_mb": func(at location, n *yaml.Node) { d.number(at, n, &r.MaxMemoryMB) },
		"max_processes": func(at location, n *yaml.Node) { d.number(at, n, &r.MaxProcesses) },
	})
}

func (d *decoder) syscalls(at location, n *yaml.Node, p *Policy) {
	p.Syscalls = map[string]SyscallAction{}
	d.mapping(at, n, func(name string, at location, value *yaml.Node) {
		var action string
		if d.text(at, value, &action) {
			p.Syscalls[name] = SyscallAction(action)
		}
	})
}

// fields decodes a mapping whose keys are known.
func (d *decoder) fields(at location, n *yaml.Node, fields map[string]func(location, *yaml.Node)) {
	d.mapping(at, n, func(key string, at location, value *yaml.Node) {
		if decode, known := fields[key]; known {
			decode(at, value)
			return
		}
		fix := "known keys: " + strings.Join(sortedKeys(fields), ", ")
		if near := nearest(strings.ToLower(key), sortedKeys(fields)); near != "" {
			fix = fmt.Sprintf("did you mean %s?", near)
		}
		d.problems = append(d.problems, located{at, faultf(fix, "unknown key %q", shorten(key))})
	})
}

// mapping calls each for every key of n with the key's location. Own keys win over merged ones (<<), earlier merges over later ones.
func (d *decoder) mapping(at location, n *yaml.Node, each func(key string, at location, value *yaml.Node)) {
	m := mappingReader{decoder: d, each: each, own: map[string]bool{}}
	m.read(at, n, 0)
}

type mappingReader struct {
	decoder *decoder
	each    func(key string, at location, value *yaml.Node)
	own     map[string]bool // keys that were decoded
}

func (m *mappingReader) read(at location, n *yaml.Node, depth int) {
	d := m.decoder
	n, ok := d.visit(at, n)
	if !ok {
		return
	}
	if depth > maxDepth {
		d.report(at, n, faultf("write the keys out", "merge keys nest deeper than %d", maxDepth))
		return
	}
	if n.Kind != yaml.MappingNode {
		d.problems = append(d.problems, located{at, faultf("write `key: value` lines; {} for an empty section", "%s where keys are wanted", describe(n))})
		return
	}
	var merges []*yaml.Node
	here := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" {
			merges = append(merges, value)
			continue
		}
		m.entry(at, key, value, here)
	}
	for _, merge := range merges {
		m.merge(at, merge, depth)
	}
}

func (m *mappingReader) entry(at location, key, value *yaml.Node, here map[string]int) {
	d := m.decoder
	if key.Kind == yaml.AliasNode {
		key = key.Alias
	}
	if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
		d.report(location(fmt.Sprintf("%s@%d:%d", at, key.Line, key.Column)), key, faultf("keys are words", "%s as a key", describe(key)))
		return
	}
	if line, twice := here[key.Value]; twice {
		where := location(fmt.Sprintf("%s@%d:%d", at, key.Line, key.Column))
		d.report(where, key, faultf("keep one of them", "key %q stands twice, first in line %d", shorten(key.Value), line))
		return
	}
	here[key.Value] = key.Line
	if m.own[key.Value] {
		return // a merged key that the mapping itself has
	}
	m.own[key.Value] = true
	child := location(key.Value)
	if at != "" {
		child = at + "." + child
	}
	d.positions[child] = position{key.Line, key.Column}
	d.positions[child.key()] = position{key.Line, key.Column}
	m.each(key.Value, child, value)
}

// merge reads the value of <<: a mapping, or a list of mappings.
func (m *mappingReader) merge(at location, n *yaml.Node, depth int) {
	target := n
	if target.Kind == yaml.AliasNode {
		target = target.Alias
	}
	if target.Kind != yaml.SequenceNode {
		m.read(at, n, depth+1)
		return
	}
	for _, part := range target.Content {
		m.read(at, part, depth+1)
	}
}

// pathHint is what to write for the value that YAML takes for nothing.
const pathHint = `~ alone is nothing in YAML: write "~" in quotes`

func (d *decoder) list(at location, n *yaml.Node, into *[]string, nullHint string) {
	n, ok := d.visit(at, n)
	if !ok {
		return
	}
	if n.Kind != yaml.SequenceNode {
		fix := "write a list: [a, b], or one `- a` line for each"
		if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
			fix = fmt.Sprintf("write a list: [%q]", shorten(n.Value))
		} else if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
			fix = "write [] for an empty list, or leave the key out"
		}
		d.problems = append(d.problems, located{at, faultf(fix, "%s where a list is wanted", describe(n))})
		return
	}
	for _, item := range n.Content {
		d.item(at, item, into, nullHint, 0)
		if d.nodes > maxNodes {
			return
		}
	}
}

// item adds one text to the list at. A list inside a list, which an alias to a shared list makes, is laid flat.
func (d *decoder) item(list location, n *yaml.Node, into *[]string, nullHint string, depth int) {
	at := list.item(len(*into))
	n, ok := d.visit(at, n)
	if !ok {
		return
	}
	isPort := list == "network.listen" && n.ShortTag() == "!!int"
	switch {
	case n.Kind == yaml.ScalarNode && (n.ShortTag() == "!!str" || isPort):
		*into = append(*into, n.Value)
	case n.Kind == yaml.SequenceNode && depth < maxDepth:
		for _, inner := range n.Content {
			d.item(list, inner, into, nullHint, depth+1)
			if d.nodes > maxNodes {
				return
			}
		}
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" && nullHint != "":
		d.fail(at, n, faultf(nullHint, "nothing where text is wanted"))
	default:
		d.fail(at, n, faultf("put quotes around text that YAML takes for something else", "%s where text is wanted", describe(n)))
	}
}

// fail reports a problem with an item that gets no place in its list, so that its index may be used again.
func (d *decoder) fail(at location, n *yaml.Node, f *fault) {
	where := d.positions[at]
	own := location(fmt.Sprintf("%s@%d:%d", at, where.line, where.column))
	d.positions[own] = where
	d.problems = append(d.problems, located{own, f})
}

func (d *decoder) text(at location, n *yaml.Node, into *string) bool {
	n, ok := d.visit(at, n)
	if !ok {
		return false
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" || n.Value == "" {
		d.problems = append(d.problems, located{at, faultf("write a word, in quotes if YAML takes it for something else", "%s where text is wanted", describe(n))})
		return false
	}
	*into = n.Value
	return true
}

func (d *decoder) number(at location, n *yaml.Node, into **uint64) {
	n, ok := d.visit(at, n)
	if !ok {
		return
	}
	value, err := strconv.ParseUint(n.Value, 10, 64)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil || strconv.FormatUint(value, 10) != n.Value {
		d.problems = append(d.problems, located{at, faultf("write a whole number without unit, as in 1024", "%s where a number is wanted", describe(n))})
		return
	}
	*into = &value
}

// describe names what a node is, for messages.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a section"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!str":
		return fmt.Sprintf("text %q", shorten(n.Value))
	case "!!int", "!!float":
		return "number " + shorten(n.Value)
	case "!!bool":
		return "truth value " + shorten(n.Value)
	}
	return "a value of type " + shorten(n.ShortTag())
}
