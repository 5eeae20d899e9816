package conformance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// globCase is one question about the meaning of a pattern: does it match a path? Both lie in a folder of their own.
type globCase struct {
	pattern, path string
	match         bool
}

var longName = strings.Repeat("n", 255)

// globCases are the meaning of patterns (docs/policy.md). Each is asked by opening the path for reading.
var globCases = []globCase{
	{"file", "file", true},
	{"file", "file2", false},
	{"file", "FILE", false},
	{"file", "file/below", false},
	{"*", "any", true},
	{"*", ".hidden", true},
	{"*", "sub/any", false},
	{"a*", "a", true},
	{"a*", "ba", false},
	{"*.txt", "x.txt", true},
	{"*.txt", ".txt", true},
	{"*.txt", "x.txt2", false},
	{"*.txt", "x.log", false},
	{"*.txt", "sub/x.txt", false},
	{"a*z", "az", true},
	{"a*z", "amz", true},
	{"a*z", "a/z", false},
	{"a*b*c", "aXbYc", true},
	{"a*b*c", "acb", false},
	{"?", "x", true},
	{"?", "xy", false},
	{"a?c", "abc", true},
	{"a?c", "ac", false},
	{"a?c", "a/c", false},
	{"a?c", "aéc", true},
	{"a?c", "a\nc", true},
	{"a??c", "aéc", false},
	{"**", "x", true},
	{"**", "a/b/c/d", true},
	{"a/**", "a", true},
	{"a/**", "a/b", true},
	{"a/**", "a/b/c", true},
	{"a/**", "ab", false},
	{"a/**/b", "a/b", true},
	{"a/**/b", "a/x/b", true},
	{"a/**/b", "a/x/y/b", true},
	{"a/**/b", "a/xb", false},
	{"a/**/b", "a/b/c", false},
	{"**/b", "b", true},
	{"**/b", "x/y/b", true},
	{"**/b", "xb", false},
	{"**/*.key", "deep/er/x.key", true},
	{"**/*.key", "deep/er/x.keys", false},
	{"a/*/c", "a/b/c", true},
	{"a/*/c", "a/c", false},
	{"a/*/c", "a/b/b/c", false},
	{"{a,b}", "a", true},
	{"{a,b}", "b", true},
	{"{a,b}", "c", false},
	{"{a,b}", "ab", false},
	{"x{,y}", "x", true},
	{"x{,y}", "xy", true},
	{"{a,b/c}", "b/c", true},
	{"{a,b/c}", "b", false},
	{"{a,{b,c}d}", "cd", true},
	{"{a,{b,c}d}", "c", false},
	{"{a,b}/**/*.{x,y}", "b/deep/f.y", true},
	{"{a,b}/**/*.{x,y}", "b/deep/f.z", false},
	{`\*`, "*", true},
	{`\*`, "x", false},
	{`\{a\}`, "{a}", true},
	{`a\?`, "a?", true},
	{`a\?`, "ab", false},
	{"with space", "with space", true},
	{"naïve", "naïve", true},
	{"naïve", "naive", false},
	{"*", "new\nline", true},
	{"*", "not\xffutf8", true},
	{"*", longName, true},
	{longName, longName, true},
	{"**", deepPath(), true},
	{"**/end", deepPath() + "/end", true},
}

// deepPath is a path that comes near PATH_MAX with the folder above it, and leaves some room.
func deepPath() string {
	return strings.TrimSuffix(strings.Repeat(strings.Repeat("d", 99)+"/", 37), "/")
}

// globs is a policy of all these patterns.
func globs() Setting {
	var rules []string
	var cases []Case
	for i, g := range globCases {
		folder := fmt.Sprintf("p%02d", i)
		rules = append(rules, "\n    - 'FOLDER/"+folder+"/"+g.pattern+"'")
		c := Case{Name: fmt.Sprintf("pattern %.40q, path %.40q", g.pattern, g.path), Do: action{"open", folder + "/" + g.path, "r"}, Want: "ok"}
		if !g.match {
			c.Want, c.Report = "EACCES", "open-read "+filepath.Clean(folder+"/"+g.path)
		}
		cases = append(cases, c)
	}
	return Setting{
		Name: "globs",
		Policy: `
mode: enforce
filesystem:
  exec: [PROGRAM]
  deny: ["FOLDER/deny/**/.env", FOLDER/deny/*/private, "FOLDER/deny/{x,y}/*.key"]
  read:
    - /sys/kernel/mm/transparent_hugepage/**
    - /proc/self/**
    - /sys/fs/cgroup/**
    - FOLDER/deny/**` + strings.Join(rules, "") + "\n",
		Furnish: func(w *World) (err error) {
			for i, g := range globCases {
				err = errors.Join(err, w.globFile(fmt.Sprintf("p%02d/%s", i, g.path)))
			}
			return errors.Join(err, w.File("deny/.env", "deny/a/.env", "deny/a/b/c/.env", "deny/a/env", "deny/a/private", "deny/a/b/private", "deny/x/id.key", "deny/z/id.key", "deny/x/deep/id.key"))
		},
		Sections: []Section{{"patterns", cases}, {"deny inside allow", []Case{
			line("deny at any depth, at none", action{"open", "deny/.env", "r"}, "EACCES", "", "open-read deny/.env | deny/**/.env"),
			line("deny at any depth, at one", action{"open", "deny/a/.env", "r"}, "EACCES", "", "open-read deny/a/.env | deny/**/.env"),
			line("deny at any depth, deep", action{"open", "deny/a/b/c/.env", "r"}, "EACCES", "", "open-read deny/a/b/c/.env | deny/**/.env"),
			line("beside what is denied at any depth", action{"open", "deny/a/env", "r"}, "ok", "", ""),
			line("deny below one name", action{"open", "deny/a/private", "r"}, "EACCES", "", "open-read deny/a/private | deny/*/private"),
			line("not below two", action{"open", "deny/a/b/private", "r"}, "ok", "", ""),
			line("deny of alternatives", action{"open", "deny/x/id.key", "r"}, "EACCES", "", "open-read deny/x/id.key | deny/{x,y}/*.key"),
			line("beside the alternatives", action{"open", "deny/z/id.key", "r"}, "ok", "", ""),
			line("below the alternatives", action{"open", "deny/x/deep/id.key", "r"}, "ok", "", ""),
			line("listing a tree with denials in it", action{"open", "deny/a", "r,dir"}, "ok", "", ""),
		}}},
	}
}

// globFile makes a file where nothing lies. Its path may be longer than a system call takes.
func (w *World) globFile(name string) error {
	if _, err := os.Lstat(w.Path(name)); err == nil {
		return nil
	}
	return w.File(name)
}
