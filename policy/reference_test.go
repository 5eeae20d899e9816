package policy

import (
	"math/rand/v2"
	"strings"
	"unicode/utf8"
)

// The reference: the pattern language as its definition reads, slow and plain, sharing no code with the package.

// referenceMatch reports whether path, absolute and clean, matches the pattern text.
func referenceMatch(text, path string) bool {
	text = strings.ReplaceAll(text, "**", deepSign) // before braces: {*,a}* is no **
	for _, one := range referenceBraces(text) {
		var components []string
		for _, c := range strings.Split(one, "/")[1:] {
			if c != "" && c != "." {
				components = append(components, c)
			}
		}
		var names []string
		if path != "/" {
			names = strings.Split(path, "/")[1:]
		}
		if referenceComponents(components, names) {
			return true
		}
	}
	return false
}

const deepSign = "\x01"

// referenceBraces expands the first innermost pair of braces until none is left.
func referenceBraces(text string) []string {
	end := strings.IndexByte(text, '}')
	if end < 0 {
		return []string{text}
	}
	start := strings.LastIndexByte(text[:end], '{')
	var all []string
	for _, choice := range strings.Split(text[start+1:end], ",") {
		// A comma that this choice lets out of its own pair still belongs to the pair around it.
		all = append(all, referenceBraces(text[:start]+choice+text[end+1:])...)
	}
	return all
}

func referenceComponents(components, names []string) bool {
	if len(components) == 0 {
		return len(names) == 0
	}
	if components[0] == deepSign {
		return referenceComponents(components[1:], names) || (len(names) > 0 && referenceComponents(components, names[1:]))
	}
	return len(names) > 0 && referenceName(components[0], names[0]) && referenceComponents(components[1:], names[1:])
}

func referenceName(glob, name string) bool {
	if glob == "" {
		return name == ""
	}
	switch glob[0] {
	case '*':
		return referenceName(glob[1:], name) || (name != "" && referenceName(glob, skipCharacter(name)))
	case '?':
		return name != "" && referenceName(glob[1:], skipCharacter(name))
	}
	return name != "" && glob[0] == name[0] && referenceName(glob[1:], name[1:])
}

func skipCharacter(name string) string {
	_, width := utf8.DecodeRuneInString(name)
	return name[width:]
}

// smallPaths are all paths of at most three of a few short names of a, b, a dot and a character that no pattern has.
func smallPaths() []string {
	names := []string{"a", "b", "x", "aa", "ab", "ba", "xb", ".a"}
	paths := []string{"/"}
	level := []string{""}
	for range 3 {
		var next []string
		for _, folder := range level {
			for _, name := range names {
				next = append(next, folder+"/"+name)
			}
		}
		paths = append(paths, next...)
		level = next
	}
	return paths
}

// randomPattern makes a pattern whose inclusions show on small paths: at most three components over a, b and the wildcards.
func randomPattern(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(3) {
		b.WriteByte('/')
		if r.IntN(5) == 0 {
			b.WriteString("**")
			continue
		}
		for range 1 + r.IntN(2) {
			b.WriteString([]string{"a", "b", "a", "b", "?", "*", ".", "{a,b}", "{a,?b}", "{,a}", "{b/a,a}"}[r.IntN(11)])
		}
	}
	text := b.String()
	if _, f := parsePattern(text); f != nil {
		return randomPattern(r)
	}
	return text
}

func randomPatterns(r *rand.Rand, most int) []string {
	var texts []string
	for range r.IntN(most + 1) {
		texts = append(texts, randomPattern(r))
	}
	return texts
}

func randomFilesystem(r *rand.Rand) *Filesystem {
	return &Filesystem{
		Read: randomPatterns(r, 3), Write: randomPatterns(r, 2), Exec: randomPatterns(r, 1),
		Deny: randomPatterns(r, 1), RequireApproval: randomPatterns(r, 1),
	}
}

// referenceVerdict is the meaning of a filesystem section, said once more.
func referenceVerdict(f *Filesystem, path string, a Access) Verdict {
	in := func(texts []string) bool {
		for _, text := range texts {
			if referenceMatch(text, path) {
				return true
			}
		}
		return false
	}
	read, write, exec := in(f.Read) || in(f.Exec), in(f.Write), in(f.Exec)
	granted := (a&Read == 0 || read) && (a&Write == 0 || write) && (a&Exec == 0 || exec)
	switch {
	case in(f.Deny):
		return VerdictBlock
	case in(f.RequireApproval):
		if granted || (!read && !write && !exec) {
			return VerdictApproval
		}
		return VerdictBlock
	case granted:
		return VerdictAllow
	}
	return VerdictBlock
}
