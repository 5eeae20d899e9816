package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/raypher/raypher/policy"
)

// listKind is one of the four lists of permissions.
type listKind int

const (
	listRead listKind = iota
	listWrite
	listExec
	listEgress
)

// check says what is wrong with one item, by the rules of the policy language itself; empty: nothing.
func (k listKind) check(item string) (problem, fix string) {
	if k != listEgress {
		if problem, fix := checkForm(item); problem != "" {
			return problem, fix
		}
		item = absolute("/skill", item)
	}
	p := &policy.Policy{}
	switch k {
	case listRead:
		p.Filesystem = &policy.Filesystem{Read: []string{item}}
	case listWrite:
		p.Filesystem = &policy.Filesystem{Write: []string{item}}
	case listExec:
		p.Filesystem = &policy.Filesystem{Exec: []string{item}}
	case listEgress:
		p.Network = &policy.Network{Egress: []string{item}}
	}
	err := validate(p)
	var found policy.Errors
	switch {
	case err == nil:
		return "", ""
	case errors.As(err, &found) && len(found) > 0:
		return found[0].Message, found[0].Fix
	}
	return err.Error(), ""
}

// validate runs p through the parser of the policy language.
func validate(p *policy.Policy) error {
	text, err := json.Marshal(p)
	if err != nil {
		return err
	}
	_, err = policy.Parse(FileName, text)
	return err
}

// checkForm says what is wrong with where a path pattern begins and whether it stays there.
func checkForm(pattern string) (problem, fix string) {
	if slices.Contains(strings.Split(pattern, "/"), "..") {
		return "has a .. in it", "name the folder itself"
	}
	if pattern == "." || pattern == "~" || strings.HasPrefix(pattern, "./") || strings.HasPrefix(pattern, "/") || strings.HasPrefix(pattern, "~/") {
		return "", ""
	}
	return "is neither absolute nor begins with ./ or ~/", fmt.Sprintf("write %q for a path in the skill's folder", "./"+pattern)
}

// absolute sets root in front of a pattern that begins with ./
func absolute(root, pattern string) string {
	if pattern == "." {
		return root
	}
	if below, relative := strings.CutPrefix(pattern, "./"); relative {
		return strings.TrimSuffix(root, "/") + "/" + strings.TrimLeft(below, "/")
	}
	return pattern
}

// patternSyntax are the characters that mean something in a path pattern. A folder with one of them in its name cannot be
// written as one.
const patternSyntax = `*?{}[],\`

// Permissions returns what the manifest asks for as a policy, ready to be the inner side of policy.Narrow. Root is the folder of
// the manifest, an absolute path; symbolic links in it are resolved, because the guard decides on resolved paths.
//
// What the manifest does not mention it does not ask for: filesystem and network are always present in the result, so that
// Narrow does not fill them from the outer policy. Namespace, mode, system calls and resources are absent and inherited: they
// are the operator's. A leading ~ stays; policy.Expand knows whose home it is.
func (m *Manifest) Permissions(root string) (*policy.Policy, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("permissions of %s: the skill's folder %q is not an absolute path", m.SkillID, root)
	}
	root, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, fmt.Errorf("permissions of %s: the skill's folder: %w", m.SkillID, err)
	}
	if strings.ContainsAny(root, patternSyntax) && m.relative() {
		return nil, fmt.Errorf("permissions of %s: the skill's folder %q has one of %s in its path, which are pattern syntax: move it", m.SkillID, root, patternSyntax)
	}
	all := func(patterns []string) []string {
		result := make([]string, 0, len(patterns))
		for _, p := range patterns {
			result = append(result, absolute(root, p))
		}
		return result
	}
	p := &policy.Policy{
		Filesystem: &policy.Filesystem{Exec: all(m.Asks.Exec)},
		Network:    &policy.Network{DefaultAction: policy.Drop},
	}
	if f := m.Asks.Filesystem; f != nil {
		p.Filesystem.Read, p.Filesystem.Write = all(f.Read), all(f.Write)
	}
	if n := m.Asks.Network; n != nil {
		p.Network.Egress = slices.Clone(n.Egress)
	}
	if err := validate(p); err != nil {
		return nil, fmt.Errorf("permissions of %s: %w", m.SkillID, err)
	}
	return p, nil
}

// relative says whether any pattern begins with the skill's folder.
func (m *Manifest) relative() bool {
	lists := [][]string{m.Asks.Exec}
	if f := m.Asks.Filesystem; f != nil {
		lists = append(lists, f.Read, f.Write)
	}
	for _, l := range lists {
		if slices.ContainsFunc(l, func(p string) bool { return p == "." || strings.HasPrefix(p, "./") }) {
			return true
		}
	}
	return false
}

// skillRoot is the folder that patterns are set against where only their relation to other files of the skill matters.
const skillRoot = "/skill"

// writable returns a function that says whether the skill may write path, which is relative to its folder. root is the
// resolved folder: an absolute pattern may reach into it too.
func (m *Manifest) writable(root string) func(path string) (rule string, ok bool) {
	f := m.Asks.Filesystem
	if f == nil || len(f.Write) == 0 {
		return func(string) (string, bool) { return "", false }
	}
	var relative, other []string
	for _, p := range f.Write {
		if p == "." || strings.HasPrefix(p, "./") {
			relative = append(relative, absolute(skillRoot, p))
		} else {
			other = append(other, p)
		}
	}
	inside := (&policy.Policy{Filesystem: &policy.Filesystem{Write: relative}}).FileRules()
	outside := (&policy.Policy{Filesystem: &policy.Filesystem{Write: other}}).FileRules()
	return func(path string) (string, bool) {
		if d := inside.Decide(skillRoot+"/"+path, policy.Write); d.Verdict == policy.VerdictAllow {
			return "." + strings.TrimPrefix(d.Rule, skillRoot), true
		}
		d := outside.Decide(root+"/"+path, policy.Write)
		return d.Rule, d.Verdict == policy.VerdictAllow
	}
}

// sections lists the document by section, each with its items in order, for fingerprints and their comparison. A section
// that the document does not have is absent.
func (m *Manifest) sections() map[string][]string {
	s := map[string][]string{"skill_id": {m.SkillID}, "version": {m.Version}}
	set := func(name string, items []string) {
		if items != nil {
			s[name] = items
		}
	}
	set("permissions.exec", m.Asks.Exec)
	if f := m.Asks.Filesystem; f != nil {
		s["permissions.filesystem"] = []string{}
		set("permissions.filesystem.read", f.Read)
		set("permissions.filesystem.write", f.Write)
	}
	if n := m.Asks.Network; n != nil {
		s["permissions.network"] = []string{}
		set("permissions.network.egress", n.Egress)
	}
	if m.Hashes != nil {
		s["hashes"] = []string{}
		for _, path := range slices.Sorted(maps.Keys(m.Hashes)) {
			s["hashes"] = append(s["hashes"], path+" "+m.Hashes[path])
		}
	}
	return s
}
