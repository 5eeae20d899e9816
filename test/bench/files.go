package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// opens is how many opens one turn does.
const opens = 1000

// filePolicies are the policies of the figures about files.
var filePolicies = map[string]string{
	"static":  "filesystem:\n  static: true\n  read: [\"/{usr,bin,lib,lib64,etc,proc}/**\", ~/**]\n  write: [/dev/null, ~/work/**]\n  exec: [\"/{usr,bin,lib,lib64}/**\", ~/bench]\n",
	"decided": "filesystem:\n  read: [\"/{usr,bin,lib,lib64,etc,proc}/**\", ~/**]\n  write: [/dev/null, ~/work/**]\n  exec: [\"/{usr,bin,lib,lib64}/**\", ~/bench]\n",
	"beyond":  "filesystem:\n  read: [\"/{usr,bin,lib,lib64,etc,proc}/**\", ~/bench, \"~/work/*.txt\"]\n  exec: [\"/{usr,bin,lib,lib64}/**\", ~/bench]\n",
}

// alternatives is how many folders one pattern of withMany names: a policy has a bound on its bytes, and rules are what counts here.
const alternatives = 250

// withMany is a policy with rules for so many more folders that exist.
func (b *bench) withMany(kind string, rules int) (string, error) {
	var more strings.Builder
	for first := 0; first < rules; first += alternatives {
		var names []string
		for i := first; i < min(first+alternatives, rules); i++ {
			if err := os.MkdirAll(b.home.Path("many", strconv.Itoa(i)), 0o700); err != nil {
				return "", err
			}
			names = append(names, strconv.Itoa(i))
		}
		fmt.Fprintf(&more, "\"~/many/{%s}/**\", ", strings.Join(names, ","))
	}
	text := strings.Replace(filePolicies[kind], "  read: [", "  read: ["+more.String(), 1)
	path := filepath.Join(b.home.Root, fmt.Sprintf("%s-%d.yaml", kind, rules))
	return path, os.WriteFile(path, []byte(text), 0o644)
}

// open is a side that opens one file again and again.
func (b *bench) open(under, policy string) side {
	return side{policy, under, []string{"open", b.home.Path("work", "notes.txt")}}
}

// files are the figures about files and programs.
func (b *bench) files() error {
	paths := map[string]string{}
	for _, p := range []struct {
		kind  string
		rules int
	}{{"static", 0}, {"decided", 0}, {"beyond", 0}, {"static", 10}, {"static", 5000}, {"decided", 10}, {"decided", 5000}} {
		path, err := b.withMany(p.kind, p.rules)
		if err != nil {
			return err
		}
		paths[p.kind+strconv.Itoa(p.rules)] = path
	}
	for _, one := range []struct {
		names []string
		sides []side
	}{
		{[]string{"open: static policy, Landlock alone (goal: 1.02)", "open: static policy, nothing"},
			[]side{b.open("plain", paths["static0"]), b.open("landlock="+paths["static0"], ""), b.open("plain", "")}},
		{[]string{"open: decided in the floor, a notification (goal: 2)"}, []side{b.open("plain", paths["decided0"]), b.open("notified", "")}},
		{[]string{"open: opened by the warden, a notification (goal: 8)"}, []side{b.open("plain", paths["beyond0"]), b.open("notified", "")}},
		{[]string{"open: static policy, 5000 rules more, 10"}, []side{b.open("plain", paths["static5000"]), b.open("plain", paths["static10"])}},
		{[]string{"open: decided, 5000 rules more, 10"}, []side{b.open("plain", paths["decided5000"]), b.open("plain", paths["decided10"])}},
	} {
		if err := b.compare(one.names, opens, one.sides...); err != nil {
			return err
		}
	}
	return b.workloads(paths["static0"])
}

// workloads are programs as agents start them, in a running agent under a static policy, beside the same rules of Landlock alone and
// beside no guard.
func (b *bench) workloads(policy string) error {
	tree, err := b.workTree()
	if err != nil {
		return err
	}
	for _, one := range []struct {
		name  string
		count int
		words []string
	}{
		{"/bin/true", 20, []string{"/bin/true"}},
		{"node: start", 2, []string{"node", "-e", "require('http'); require('crypto'); require('zlib')"}},
		{"git status of 5000 files", 3, []string{"git", "-C", tree, "status", "--porcelain"}},
		{"a compile", 1, []string{"cc", "-O2", "-c", "-o", "/dev/null", filepath.Join(tree, "large.c")}},
	} {
		program, err := exec.LookPath(one.words[0])
		if err == nil {
			program, err = filepath.EvalSymlinks(program)
		}
		if err != nil || !strings.HasPrefix(program, "/usr/") {
			fmt.Fprintf(b.out, "%-58s skipped: no %s in /usr\n", one.name, one.words[0])
			continue
		}
		work := append([]string{"run", program}, one.words[1:]...)
		names := []string{one.name + ": static policy, nothing (goal: 1.10)", one.name + ": static policy, Landlock alone"}
		if err := b.compare(names, one.count, side{policy, "plain", work}, side{"", "plain", work}, side{"", "landlock=" + policy, work}); err != nil {
			return err
		}
	}
	return nil
}

// workTree is a git repository of 5000 files with a C file to compile.
func (b *bench) workTree() (string, error) {
	tree := b.home.Path("work", "tree")
	for i := range 5000 {
		path := filepath.Join(tree, strconv.Itoa(i%50), strconv.Itoa(i)+".txt")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(i)), 0o600); err != nil {
			return "", err
		}
	}
	var source strings.Builder
	for _, header := range []string{"stdio", "stdlib", "string", "errno", "math", "time", "signal", "unistd"} {
		fmt.Fprintf(&source, "#include <%s.h>\n", header)
	}
	for i := range 300 {
		fmt.Fprintf(&source, "int f%d(int x) { return x * %d + (int)strlen(\"%d\"); }\n", i, i, i)
	}
	if err := os.WriteFile(filepath.Join(tree, "large.c"), []byte(source.String()), 0o600); err != nil {
		return "", err
	}
	for _, words := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=x", "-c", "user.email=x@localhost", "commit", "-q", "-m", "x"}} {
		if out, err := b.under("", slices.Concat([]string{"git", "-C", tree}, words)...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("git %s: %w: %s", words[0], err, out)
		}
	}
	return tree, nil
}
