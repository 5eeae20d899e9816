package draft

import (
	"slices"
	"strings"
)

// node is a folder of patterns, by components.
type node struct {
	children map[string]*node
	stands   int    // for so many paths; 0: nothing but a folder on the way
	example  string // one of them
	tree     bool   // everything below
}

func (n *node) insert(names []string, example string) {
	for _, name := range names {
		if n.children == nil {
			n.children = map[string]*node{}
		}
		next := n.children[name]
		if next == nil {
			next = &node{}
			n.children[name] = next
		}
		n = next
	}
	n.stand(1, example)
}

func (n *node) stand(paths int, example string) {
	n.stands += paths
	if n.example == "" || example != "" && example < n.example {
		n.example = example
	}
}

// total is how many paths stand at and below a node, and one of them.
func (n *node) total() (paths int, example string) {
	all := node{}
	all.stand(n.stands, n.example)
	for _, name := range sortedKeys(n.children) {
		paths, example := n.children[name].total()
		all.stand(paths, example)
	}
	return all.stands, all.example
}

// below is the pattern of a child.
func below(folder, name string) string {
	if folder == "" && name == "~" {
		return "~"
	}
	return folder + "/" + name
}

// fold makes folder/* and folder/** of folders with many entries, from the leaves up.
func (n *node) fold(folder string, many int) {
	folders, entries := 0, []string{}
	for _, name := range sortedKeys(n.children) {
		child := n.children[name]
		child.fold(below(folder, name), many)
		switch {
		case len(child.children) > 0 || child.tree:
			folders++
		case name != "*" && name != "**":
			entries = append(entries, name)
		}
	}
	switch {
	case wide(folder) || strings.HasPrefix(folder, "/proc"):
	case folders >= many:
		n.becomeTree()
	case len(entries) >= many:
		all := &node{}
		if before := n.children["*"]; before != nil {
			all = before
		}
		for _, name := range entries {
			all.stand(n.children[name].total())
			delete(n.children, name)
		}
		n.children["*"] = all
	}
}

func (n *node) becomeTree() {
	n.stands, n.example = n.total()
	n.children, n.tree = nil, true
}

// foldLargest makes a tree of the folder with the most rules in it that is not wide; false: there is none.
func (n *node) foldLargest(folder string) bool {
	var largest *node
	most := 1
	var visit func(n *node, folder string)
	visit = func(n *node, folder string) {
		for name, child := range n.children {
			visit(child, below(folder, name))
		}
		if own := len(n.children); own > most && !wide(folder) && !strings.HasPrefix(folder, "/proc") {
			largest, most = n, own
		}
	}
	visit(n, folder)
	if largest == nil {
		return false
	}
	largest.becomeTree()
	return true
}

// rules are the patterns at and below a node.
func (n *node) rules(list, folder string) []Rule {
	var rules []Rule
	add := func(pattern string, n *node) {
		stands := n.stands
		if stands == 1 {
			stands = 0
		}
		r := Rule{List: list, Pattern: pattern, Stands: stands, Example: n.example}
		r.Grade, r.Why = foldRisk(pattern)
		rules = append(rules, r)
	}
	switch {
	case n.tree:
		add(folder+"/**", n)
		return rules
	case n.stands > 0 && folder == "":
		add("/", n)
	case n.stands > 0:
		add(folder, n)
	}
	for _, name := range sortedKeys(n.children) {
		rules = append(rules, n.children[name].rules(list, below(folder, name))...)
	}
	return rules
}

// wideFolders hold what belongs to many programs: no rule takes in all that is in one of them.
var wideFolders = []string{
	"/etc", "/usr", "/var", "/run", "/tmp", "/var/tmp", "/dev/shm", "/var/lib", "/var/cache", "/var/log", "/var/spool", "/usr/bin", "/usr/sbin", "/usr/local",
	"/usr/local/bin", "/usr/local/sbin", "/run/user", "/dev/pts",
	"~", "~/.config", "~/.local", "~/.local/share", "~/.local/bin", "~/.local/state", "~/.cache", "~/.ssh", "~/.aws", "~/.gnupg", "~/.kube", "~/.docker",
	"~/Documents", "~/Desktop", "~/Downloads", "~/bin",
}

// wide reports whether a folder's pattern is wide: one of wideFolders, the root, a folder right in it, or somebody's home.
func wide(folder string) bool {
	switch {
	case folder == "" || folder == "/" || slices.Contains(wideFolders, folder):
		return true
	case strings.HasPrefix(folder, "/home/"):
		return strings.Count(folder, "/") == 2
	case strings.HasPrefix(folder, "/run/user/"):
		return strings.Count(folder, "/") == 3
	}
	return strings.HasPrefix(folder, "/") && strings.Count(folder, "/") == 1 || sensitive(folder)
}

// libraryTrees hold the system's libraries and their data, the same for every program.
var libraryTrees = []string{
	"/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/share", "/usr/include",
	"/usr/local/lib", "/usr/local/share", "/usr/local/include", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ssl/certs", "/nix/store",
}

// libraryTree is the tree of rule 4 that a path lies in.
func libraryTree(p string) (string, bool) {
	for _, tree := range libraryTrees {
		if p == tree || strings.HasPrefix(p, tree+"/") {
			return tree, true
		}
	}
	return "", false
}

// packageFolders hold what a package manager installed.
var packageFolders = []string{"node_modules", "site-packages", "dist-packages"}

// temporaryFolders hold files of programs that come and go.
var temporaryFolders = []string{"/tmp", "/var/tmp", "/dev/shm"}
