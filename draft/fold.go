package draft

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/trace"
)

// Paths become patterns by these rules, in this order:
//
//  1. What is risky, a device, a pipe by name, and a program that is executed stays the path that it is.
//  2. A name in the home folder begins with ~.
//  3. Reading in /proc/self is /proc/self/**; the number of another process is *. What a process writes there stays the path that it is.
//  4. Reading in a tree of libraries (libraryTrees), or below a folder of packages (packageFolders), is that whole tree.
//  5. What of a name looks made up is a * (names.go), and a short name that is nothing else as many ?; a folder of two hexadecimal digits above a made-up name is ??.
//  6. A folder in which so many entries were used (Options.Many) is folder/*; one in which entries of so many of its folders were
//     used is folder/**. Never a wide folder (wide).
//  7. What is renamed or linked may be used under its old name in every way in which it is used under the new one: the guard refuses
//     moves that widen. A folder that is renamed makes both names part of one tree.
//  8. A library that is written too needs an exec rule of its own.
//  9. A socket that is made needs the whole folder: the kernel alone decides on it, and knows no names.

// files are the paths of a draft.
type files struct {
	home    string // empty: none that is known
	many    int
	access  map[string]policy.Access
	special map[string]bool
	pairs   []pair
	mapped  map[string]bool // for execution, as libraries are
	sockets map[string]bool // folders in which one is made
	fanOuts map[string]bool
	made    map[string]bool   // by one of the runs
	removed map[string]bool   // by one of the runs
	became  map[string]string // new names of what was made
	beyond  []string
}

// pair is a rename or a link.
type pair struct {
	from, to string
	folder   bool
}

func newFiles(home string, many int) *files {
	if home == "/" || !path.IsAbs(home) {
		home = ""
	}
	return &files{home: home, many: many, access: map[string]policy.Access{}, special: map[string]bool{}, sockets: map[string]bool{}, mapped: map[string]bool{}, fanOuts: map[string]bool{},
		made: map[string]bool{}, removed: map[string]bool{}, became: map[string]string{}}
}

func (f *files) add(e trace.Entry) {
	if !path.IsAbs(e.Path) {
		return
	}
	if e.Operation == trace.BindUnix {
		f.sockets[path.Dir(e.Path)] = true
		return
	}
	var a policy.Access
	for letter, access := range map[string]policy.Access{trace.AccessRead: policy.Read, trace.AccessWrite: policy.Write, trace.AccessExec: policy.Exec} {
		if strings.Contains(e.Access, letter) {
			a |= access
		}
	}
	if e.Operation != trace.Link || e.To == "" { // what is linked is not changed
		f.access[e.Path] |= a
	}
	switch e.Operation {
	case "create", "mkdir", "mknod", "symlink":
		f.made[e.Path] = true
	case "unlink", "rmdir":
		f.removed[e.Path] = true
	case trace.Rename:
		if path.IsAbs(e.To) {
			f.became[e.Path] = e.To
		}
	}
	if e.Operation == trace.MapExec {
		f.mapped[e.Path] = true
	}
	if e.Special {
		f.special[e.Path] = true
	}
	if path.IsAbs(e.To) {
		f.access[e.To] |= a
		f.pairs = append(f.pairs, pair{e.Path, e.To, e.Folder})
	}
}

// about is what the runs tell of a path's name.
func (f *files) about(p string) about {
	a := about{temporary: slices.Contains(temporaryFolders, path.Dir(p))}
	if f.made[p] {
		to, moved := f.became[p]
		a.vanished = f.removed[p] || moved
		if moved {
			a.became = path.Base(to)
		}
	}
	return a
}

// written is a path as a pattern for it alone.
func (f *files) written(p string) string {
	if f.home != "" && (p == f.home || strings.HasPrefix(p, f.home+"/")) {
		return "~" + escape(p[len(f.home):])
	}
	if p == "/~" || strings.HasPrefix(p, "/~/") {
		return `/\~` + escape(p[len("/~"):]) // a folder of that name, and nobody's home
	}
	return escape(p)
}

// rules are the rules for all paths.
func (f *files) rules() []Rule {
	f.closePairs()
	f.findFanOuts()
	lists := map[string]*node{ListRead: {}, ListWrite: {}}
	var rules []Rule
	f.moveFolders(lists)
	rules = append(rules, f.socketRules()...)
	for _, p := range sortedKeys(f.access) {
		for _, list := range []string{ListRead, ListWrite, ListExec} {
			if f.access[p]&accessOf(list) == 0 || list == ListRead && f.access[p]&policy.Exec != 0 {
				continue // executing is reading too
			}
			literal := f.written(p)
			grade, why := risk(list, unescaped(f, p))
			if list == ListExec && f.access[p]&policy.Write != 0 {
				grade, why = GradeNote, whyWritten
				if f.made[p] || slices.ContainsFunc(f.pairs, func(pair pair) bool { return pair.to == p }) {
					f.beyond = append(f.beyond, fmt.Sprintf("exec %s: the run made it, and what is made while an agent runs is executed only below a tree of exec, such as %s/**", literal, f.written(path.Dir(p))))
				}
			}
			if list == ListExec || grade == GradeRisky || f.special[p] || strings.HasPrefix(p, "/dev/") {
				rules = append(rules, Rule{List: list, Pattern: literal, Grade: grade, Why: why, Example: p})
				continue
			}
			lists[list].insert(f.pattern(list, p), p)
		}
	}
	for _, list := range []string{ListRead, ListWrite} {
		lists[list].fold("", f.many)
		rules = append(rules, f.limited(list, lists[list])...)
	}
	return dropCovered(f.keepPairs(rules))
}

// unescaped is a path with ~, for the table of risks.
func unescaped(f *files, p string) string {
	if f.home != "" && (p == f.home || strings.HasPrefix(p, f.home+"/")) {
		return "~" + p[len(f.home):]
	}
	return p
}

// closePairs lets the old name of what was moved be used as the new one is.
func (f *files) closePairs() {
	for changed, round := true, 0; changed && round < 64; round++ {
		changed = false
		for _, p := range f.pairs {
			if missing := f.access[p.to] &^ f.access[p.from]; missing != 0 {
				f.access[p.from] |= missing
				changed = true
			}
		}
	}
}

// findFanOuts looks for folders named by the first digits of the hashes that lie in them.
func (f *files) findFanOuts() {
	for p := range f.access {
		folder, name := path.Split(p)
		folder = strings.TrimSuffix(folder, "/")
		if isFanOut(path.Base(folder)) && strings.Contains(generalise(name, f.about(p)), "*") {
			f.fanOuts[folder] = true
		}
	}
}

// moveFolders puts the names of renamed folders into one tree each, and takes what lies in it out of the paths.
func (f *files) moveFolders(lists map[string]*node) {
	for _, p := range f.pairs {
		if !p.folder {
			continue
		}
		common := path.Dir(p.from)
		for common != "/" && !strings.HasPrefix(p.to, common+"/") {
			common = path.Dir(common)
		}
		tree := f.written(common)
		if wide(tree) {
			f.beyond = append(f.beyond, fmt.Sprintf("rename %s to %s: no narrow rule allows a folder to move there; it is answered EXDEV, and most programs then copy", p.from, p.to))
			continue
		}
		for _, below := range sortedKeys(f.access) {
			if below != common && !strings.HasPrefix(below, common+"/") {
				continue
			}
			for list, root := range lists {
				grade, _ := risk(list, unescaped(f, below))
				if a := accessOf(list); f.access[below]&a != 0 && grade != GradeRisky && !f.special[below] {
					f.access[below] &^= a
					root.insert(append(split(tree), "**"), below)
				}
			}
		}
	}
}

// socketRules are those of rule 9.
func (f *files) socketRules() []Rule {
	var rules []Rule
	for _, folder := range sortedKeys(f.sockets) {
		tree := f.written(folder)
		if tree == "/" || tree == "~" {
			f.beyond = append(f.beyond, fmt.Sprintf("a socket made in %s: it would need %s/**", folder, strings.TrimSuffix(folder, "/")))
			continue
		}
		rule := Rule{List: ListWrite, Pattern: tree + "/**", Grade: GradeNote, Why: "a socket is made in it, for which the kernel needs the whole folder", Example: folder + "/socket"}
		if grade, why := risk(ListWrite, unescaped(f, folder)+"/socket"); grade == GradeRisky {
			rule.Grade, rule.Why = grade, why
		} else if wide(tree) {
			rule.Grade = GradeRisky
		}
		rules = append(rules, rule)
	}
	return rules
}

// pattern is the pattern of one path, by components.
func (f *files) pattern(list, p string) []string {
	if inside, ok := procPattern(p); ok && list == ListRead {
		return inside
	}
	literal := split(f.written(p))
	if list == ListRead {
		if tree, ok := libraryTree(p); ok {
			return append(split(tree), "**")
		}
		for i, name := range literal[:max(len(literal)-1, 0)] {
			if slices.Contains(packageFolders, name) {
				return append(slices.Clone(literal[:i+1]), "**")
			}
		}
	}
	names := strings.Split(strings.TrimPrefix(p, "/"), "/")
	offset := len(names) - len(literal) // the home folder has more names than ~
	out := slices.Clone(literal)
	for i := range literal {
		if i+offset < 0 || literal[i] == "~" || i == 0 && len(literal) == 1 {
			continue
		}
		above := "/" + strings.Join(names[:i+offset], "/")
		here := path.Join(above, names[i+offset])
		switch made := generalise(names[i+offset], f.about(here)); {
		case made != escape(names[i+offset]) && sensitiveEntry(unescaped(f, above), names[i+offset], made):
		case f.fanOuts[here]:
			out[i] = "??"
		case made == "*" && (wide(f.written(above)) || shortName(names[i+offset])):
			out[i] = strings.Repeat("?", len([]rune(names[i+offset]))) // a * would be the whole folder
		default:
			out[i] = made
		}
	}
	return out
}

// shortName reports whether a made-up name has a length of its own that is worth writing.
func shortName(name string) bool { return len(name) <= 16 && strings.Trim(name, "0123456789") != "" }

// split is a pattern by components. The first of an absolute one is empty, so that joining gives it back.
func split(pattern string) []string {
	if strings.HasPrefix(pattern, "/") {
		return strings.Split(pattern[1:], "/")
	}
	return strings.Split(pattern, "/")
}

// procPattern is rule 3.
func procPattern(p string) ([]string, bool) {
	below, ok := strings.CutPrefix(p, "/proc/")
	if !ok {
		return nil, false
	}
	names := strings.Split(below, "/")
	switch {
	case names[0] == "self":
		return []string{"proc", "self", "**"}, true
	case strings.Trim(names[0], "0123456789") == "":
		names[0] = "*"
	default:
		return append([]string{"proc"}, strings.Split(escape(below), "/")...), true
	}
	for i := 1; i < len(names); i++ {
		if names[i] = escape(names[i]); strings.Trim(names[i], "0123456789") == "" {
			names[i] = "*"
		}
	}
	return append([]string{"proc"}, names...), true
}

// keepPairs adds what renames need once paths are patterns: a wider pattern that takes in a new name alone would be a widening.
func (f *files) keepPairs(rules []Rule) []Rule {
	for range 8 {
		p := &policy.Policy{Filesystem: &policy.Filesystem{}}
		for _, r := range rules {
			r.addTo(p)
		}
		home := f.home
		if home == "" {
			home = "/"
		}
		expanded, err := p.Expand(home)
		if err != nil {
			return rules
		}
		compiled, missing := expanded.FileRules(), false
		for _, pair := range f.pairs {
			for _, list := range []string{ListRead, ListWrite, ListExec} {
				a := accessOf(list)
				if compiled.Decide(pair.to, a).Verdict != policy.VerdictAllow || compiled.Decide(pair.from, a).Verdict == policy.VerdictAllow {
					continue
				}
				rule := Rule{List: list, Pattern: f.joined(f.pattern(list, pair.from)), Example: pair.from, Grade: GradeNote, Why: "it is moved to where that is granted"}
				if list == ListExec {
					rule.Pattern = f.written(pair.from)
				}
				rules, missing = append(rules, rule), true
			}
		}
		for _, p := range sortedKeys(f.mapped) {
			if compiled.Decide(p, policy.Write).Verdict == policy.VerdictAllow && compiled.Decide(p, policy.Exec).Verdict != policy.VerdictAllow {
				rules = append(rules, Rule{List: ListExec, Pattern: f.written(p), Example: p, Grade: GradeNote, Why: whyWritten})
				missing = true
			}
		}
		if !missing {
			break
		}
	}
	return rules
}

// joined is a pattern of its components.
func (f *files) joined(names []string) string {
	if len(names) > 0 && names[0] == "~" {
		return strings.Join(names, "/")
	}
	return "/" + strings.Join(names, "/")
}

// limited are the rules of a list, folded further until a manifest holds them.
func (f *files) limited(list string, root *node) []Rule {
	for {
		rules := root.rules(list, "")
		if len(rules) <= maxRules {
			return rules
		}
		if !root.foldLargest("") {
			f.beyond = append(f.beyond, fmt.Sprintf("%d rules in %s: more than the %d that a manifest holds", len(rules), list, maxRules))
			return rules
		}
	}
}

// dropCovered takes out rules that a tree of the same list holds too, and reading of what is executed.
func dropCovered(rules []Rule) []Rule {
	trees := map[string]bool{}
	for _, r := range rules {
		if r.Grade != GradeRisky && strings.HasSuffix(r.Pattern, "/**") {
			trees[r.List+strings.TrimSuffix(r.Pattern, "/**")] = true
		}
	}
	return slices.DeleteFunc(rules, func(r Rule) bool {
		if r.Grade == GradeRisky {
			return false
		}
		self := strings.TrimSuffix(r.Pattern, "/**")
		if self == r.Pattern && trees[r.List+self] {
			return true
		}
		for at := strings.LastIndexByte(self, '/'); at > 0; at = strings.LastIndexByte(self, '/') {
			if self = self[:at]; trees[r.List+self] {
				return true
			}
		}
		return false
	})
}
