package policy

import "strings"

// Verdict is the answer to one access. Greater is wider.
type Verdict uint8

const (
	VerdictBlock    Verdict = iota // refused
	VerdictApproval                // a person is asked
	VerdictAllow                   // granted
)

func (v Verdict) String() string {
	switch v {
	case VerdictAllow:
		return "allow"
	case VerdictApproval:
		return "require_approval"
	default:
		return "block"
	}
}

// Decision is a verdict and the rule that led to it, as the policy writes it. An empty rule: no list grants the access.
type Decision struct {
	Verdict Verdict
	Rule    string
}

// list names the lists of a filesystem section. The values index arrays and, shifted, are bits of a mask.
type list uint8

const (
	listRead list = iota
	listWrite
	listExec
	listDeny
	listApproval
	listCount
)

func (l list) bit() mask { return 1 << l }

// String is the list's key in a policy.
func (l list) String() string {
	return [listCount]string{"read", "write", "exec", "deny", "require_approval"}[l]
}

// patterns returns the list's patterns as written.
func (f *Filesystem) patterns(l list) []string {
	return [listCount][]string{f.Read, f.Write, f.Exec, f.Deny, f.RequireApproval}[l]
}

// mask is a set of lists.
type mask uint16

const maskNamed = mask(1<<listRead | 1<<listWrite | 1<<listExec)

// grants reports whether the lists that match a path grant all of a, approvals and denials aside. Exec implies read.
func (m mask) grants(a Access) bool {
	have := Access(0)
	if m&(listRead.bit()|listExec.bit()) != 0 {
		have |= Read
	}
	if m&listWrite.bit() != 0 {
		have |= Write
	}
	if m&listExec.bit() != 0 {
		have |= Exec
	}
	return a != 0 && a&^have == 0
}

// verdict is the meaning of the five lists, for a path that exactly the lists of m match. Deny wins. A path in
// require_approval asks for what the other lists grant it; one that no other list names asks for every access.
func (m mask) verdict(a Access) Verdict {
	switch {
	case a == 0 || m&listDeny.bit() != 0:
		return VerdictBlock
	case m&listApproval.bit() != 0 && (m.grants(a) || m&maskNamed == 0):
		return VerdictApproval
	case m&listApproval.bit() == 0 && m.grants(a):
		return VerdictAllow
	}
	return VerdictBlock
}

// Rules are the file rules of one permit, compiled. They are immutable and safe for concurrent use.
type Rules struct {
	governed bool
	root     *node
	loops    int    // nodes behind a **
	broken   string // a pattern that could not be compiled: everything is refused
}

// node is a point in the tree of all patterns: what has been matched so far is the way from the root.
type node struct {
	literals map[string]*node
	globs    []globEdge
	deep     *node // behind a **; it stays active whatever comes
	loop     int   // index among nodes behind a **, from 1; 0: no such node
	end      outcome
}

type globEdge struct {
	glob []piece
	next *node
}

// outcome is which lists match, and for each the first rule that does.
type outcome struct {
	lists mask
	rules [listCount]string
}

func (o *outcome) merge(other *outcome) {
	if other.lists&^o.lists == 0 {
		return
	}
	for l := range listCount {
		if other.lists&l.bit() != 0 && o.lists&l.bit() == 0 {
			o.rules[l] = other.rules[l]
		}
	}
	o.lists |= other.lists
}

// FileRules compiles the file rules. The policy must be expanded. Where a pattern still starts with ~ or is malformed, which
// Parse and Expand do not let through, a deny rule could be lost: such rules refuse everything and name that pattern.
func (p *Policy) FileRules() *Rules {
	if p.Filesystem == nil {
		return &Rules{}
	}
	r := &Rules{governed: true, root: &node{}}
	for l := range listCount {
		r.add(p.Filesystem.patterns(l), l)
	}
	return r
}

// compileUnix makes rules whose read list is the patterns of unix sockets.
func compileUnix(patterns []string) *Rules {
	r := &Rules{governed: true, root: &node{}}
	r.add(patterns, listRead)
	return r
}

func (r *Rules) add(texts []string, l list) {
	for _, text := range texts {
		patterns, f := parsePattern(text)
		if f != nil {
			r.broken = text
			continue
		}
		for _, p := range patterns {
			if p.home {
				r.broken = text
			}
			r.insert(p.components, l, text)
		}
	}
}

func (r *Rules) insert(components []component, l list, rule string) {
	at := r.root
	for _, c := range components {
		switch {
		case c.deep:
			if at.deep == nil {
				r.loops++
				at.deep = &node{loop: r.loops}
			}
			at = at.deep
		case c.glob != nil:
			at = at.globNext(c.glob)
		default:
			if at.literals == nil {
				at.literals = map[string]*node{}
			}
			next := at.literals[c.literal]
			if next == nil {
				next = &node{}
				at.literals[c.literal] = next
			}
			at = next
		}
	}
	one := outcome{lists: l.bit()}
	one.rules[l] = rule
	at.end.merge(&one)
}

func (n *node) globNext(glob []piece) *node {
	for _, edge := range n.globs {
		if equalGlobs(edge.glob, glob) {
			return edge.next
		}
	}
	next := &node{}
	n.globs = append(n.globs, globEdge{glob: glob, next: next})
	return next
}

func equalGlobs(a, b []piece) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// Governed is false when the policy has no filesystem section: then no file access is decided here.
func (r *Rules) Governed() bool { return r.governed }

// Decide says whether all of a is granted on path, which is absolute and clean; any other path is refused. Rules that are
// not governed allow everything.
func (r *Rules) Decide(path string, a Access) Decision {
	if !r.governed {
		return Decision{Verdict: VerdictAllow}
	}
	if r.broken != "" {
		return Decision{Rule: r.broken}
	}
	o, ok := r.match(path)
	if !ok {
		return Decision{}
	}
	d := Decision{Verdict: o.lists.verdict(a)}
	switch {
	case o.lists&listDeny.bit() != 0:
		d.Rule = o.rules[listDeny]
	case d.Verdict == VerdictApproval:
		d.Rule = o.rules[listApproval]
	case d.Verdict == VerdictAllow:
		d.Rule = o.grantedBy(a)
	}
	return d
}

// grantedBy names one rule that grants a: the rarest access first.
func (o *outcome) grantedBy(a Access) string {
	switch {
	case a&Exec != 0:
		return o.rules[listExec]
	case a&Write != 0:
		return o.rules[listWrite]
	case o.lists&listRead.bit() != 0:
		return o.rules[listRead]
	}
	return o.rules[listExec]
}

// match walks path through the tree, with the nodes that are active after the components so far. Its cost grows with the
// components times the nodes that are active at once.
func (r *Rules) match(path string) (found outcome, ok bool) {
	if path == "" || path[0] != '/' {
		return outcome{}, false
	}
	var room [2][16]*node
	var bits [8]uint64
	active, next, seen := room[0][:0], room[1][:0], bits[:]
	if need := r.loops/64 + 1; need > len(bits) {
		seen = make([]uint64, need)
	}
	active = enter(active, r.root, seen, &found)
	for rest := path[1:]; rest != ""; {
		name := rest
		if cut := strings.IndexByte(rest, '/'); cut >= 0 {
			name, rest = rest[:cut], rest[cut+1:]
			if rest == "" {
				return outcome{}, false // a slash at the end
			}
		} else {
			rest = ""
		}
		if name == "" || name == "." || name == ".." {
			return outcome{}, false
		}
		next = next[:0]
		for _, n := range active {
			if n.loop != 0 {
				next = append(next, n)
			}
			if to := n.literals[name]; to != nil {
				next = enter(next, to, seen, &found)
			}
			for i := range n.globs {
				if matchGlob(n.globs[i].glob, name) {
					next = enter(next, n.globs[i].next, seen, &found)
				}
			}
		}
		active, next = next, active
	}
	for _, n := range active {
		found.merge(&n.end)
	}
	return found, true
}

// enter adds n to the active nodes, and with it the node behind a ** that follows: ** also matches no component. A node is
// reached only from its parent or by its own loop, so that only loops, which seen holds, could stand there twice. A ** that
// nothing follows holds for all that comes, and goes into found at once.
func enter(active []*node, n *node, seen []uint64, found *outcome) []*node {
	active = append(active, n)
	deep := n.deep
	if deep == nil || seen[deep.loop/64]&(1<<(deep.loop%64)) != 0 {
		return active
	}
	seen[deep.loop/64] |= 1 << (deep.loop % 64)
	if deep.literals == nil && deep.globs == nil {
		found.merge(&deep.end)
		return active
	}
	return append(active, deep)
}
