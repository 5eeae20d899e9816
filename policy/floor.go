package policy

// Floor is what a mechanism that knows only files and trees, such as Landlock, can hold of a filesystem section. Each allow
// pattern is in exactly one of the three, once for each list that it stands in.
type Floor struct {
	Rules []FloorRule // whole: nothing inside is denied or asks a person
	Cut   []CutRule   // files and trees with something inside that is denied or asks a person
	Globs []FloorGlob // patterns with other wildcards: no mechanism of trees can hold them
}

// FloorRule grants Access to Path, and when Tree is set to everything below it. Without Tree, a directory at Path is granted
// alone: a Landlock rule on it would grant its content too.
type FloorRule struct {
	Path   string
	Tree   bool
	Access Access
	Rule   string // as written
}

// CutRule is a FloorRule with the deny and require_approval patterns that reach into it. Granting its Path as a whole would
// undo them: grant what lies beside the cuts, or decide each access.
type CutRule struct {
	FloorRule
	Cuts []string // as written, deny rules first
}

// FloorGlob is an allow pattern with wildcards. Root is the deepest folder that holds everything it matches.
type FloorGlob struct {
	Root   string
	Access Access
	Rule   string // as written
}

// Floor splits the section, which must be expanded: patterns that start with ~ are left out. A tree that a deny rule covers
// whole is left out too. Exec rules give Read and Exec.
func (f *Filesystem) Floor() Floor {
	var floor Floor
	if f == nil {
		return floor
	}
	for _, allow := range []struct {
		texts  []string
		access Access
	}{{f.Read, Read}, {f.Write, Write}, {f.Exec, Read | Exec}} {
		for _, text := range allow.texts {
			patterns, fault := parsePattern(text)
			if fault != nil {
				continue
			}
			for _, p := range patterns {
				f.place(&floor, p, allow.access, text)
			}
		}
	}
	return floor
}

// place puts one pattern without braces where it belongs.
func (f *Filesystem) place(floor *Floor, p pattern, access Access, text string) {
	if p.home {
		return
	}
	root, rest := literalPrefix(p.components)
	tree := len(rest) == 1 && rest[0].deep
	if len(rest) > 0 && !tree {
		floor.Globs = append(floor.Globs, FloorGlob{Root: root, Access: access, Rule: text})
		return
	}
	rule := FloorRule{Path: root, Tree: tree, Access: access, Rule: text}
	cuts, gone := f.cuts(rule)
	switch {
	case gone:
	case len(cuts) > 0:
		floor.Cut = append(floor.Cut, CutRule{FloorRule: rule, Cuts: cuts})
	default:
		floor.Rules = append(floor.Rules, rule)
	}
}

// literalPrefix is the path of the components before the first wildcard, and the components from there on.
func literalPrefix(components []component) (path string, rest []component) {
	for len(components) > 0 && !components[0].deep && components[0].glob == nil {
		path += "/" + components[0].literal
		components = components[1:]
	}
	if path == "" {
		path = "/"
	}
	return path, components
}

// cuts returns the patterns that reach into rule. gone: nothing of it is left.
func (f *Filesystem) cuts(rule FloorRule) (cuts []string, gone bool) {
	if len(f.Deny)+len(f.RequireApproval) == 0 {
		return nil, false // as the search below would find out, once for each rule of each launch
	}
	self := quotePattern(rule.Path)
	if rule.Tree {
		self = cleanPattern(self + "/**")
	}
	all, denied := newAutomaton(), newAutomaton()
	for _, text := range f.Deny {
		all.add(text, 1)
		denied.add(text, 1)
	}
	for _, text := range f.RequireApproval {
		all.add(text, 1)
	}
	matched := func(m mask) bool { return m != 0 }
	if _, found, ok := all.search(self, matched, nil); ok && !found {
		return nil, false
	}
	for _, texts := range [][]string{f.Deny, f.RequireApproval} {
		for _, text := range texts {
			one := newAutomaton()
			one.add(text, 1)
			if _, found, ok := one.search(self, matched, nil); found || !ok {
				cuts = append(cuts, text)
			}
		}
	}
	_, left, ok := denied.search(self, func(m mask) bool { return m == 0 }, matched)
	return cuts, ok && !left
}
