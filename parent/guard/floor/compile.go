package floor

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// Bounds of what compiling one floor may cost. What lies beyond them is left to the warden, which is slower and as exact; only
// programs beyond them cannot be executed, because nothing but the kernel can.
const (
	maxGrants       = 8192
	maxFoldersRead  = 512
	maxFilesWalked  = 20000 // for each rule
	maxProgramsRead = 64
)

// compiler turns the rules of a permit into grants.
type compiler struct {
	options Options
	rules   *policy.Rules
	plan    *Plan
	mounts  Mounts
	known   map[grantKey]int // index in plan.Grants

	fixed   []string // programs whose content the permit fixes: never written
	altered []string // those of them that have another content: never executed

	foldersRead int
	full        bool
}

type grantKey struct {
	path string
	tree bool
}

func (c *compiler) add(g Grant) {
	if len(c.plan.Grants) >= maxGrants {
		if !c.full {
			c.full = true
			c.plan.Notes = append(c.plan.Notes, fmt.Sprintf("more than %d rules for landlock: the rest is decided by the warden", maxGrants))
		}
		return
	}
	c.addAlways(g)
}

// addAlways is add for what no bound may leave out.
func (c *compiler) addAlways(g Grant) {
	key := grantKey{g.Path, g.Tree}
	if i, known := c.known[key]; known {
		c.plan.Grants[i].Access |= g.Access
		return
	}
	if c.known == nil {
		c.known = map[grantKey]int{}
	}
	c.known[key] = len(c.plan.Grants)
	c.plan.Grants = append(c.plan.Grants, g)
}

// grant adds a path or tree of the permit, without what cuts deny inside it.
func (c *compiler) grant(rule policy.FloorRule, cuts []string) {
	if within(rule.Path, "/proc") && rule.Path != "/proc" {
		c.grantProc(rule.Access)
		return
	}
	if !rule.Tree {
		if len(cuts) == 0 && !c.closed(rule.Path, rule.Access) {
			c.add(Grant{Path: rule.Path, Access: rule.Access})
		}
		return
	}
	var excluded []string
	for _, cut := range cuts {
		topmost, rest := splitPattern(cut) // all at and below it is left out
		if rest != "" && within(rule.Path, topmost) && rule.Access&policy.Write == 0 && ofPrograms(rule.Path) {
			c.plan.Notes = append(c.plan.Notes, fmt.Sprintf("%s inside %s is decided at each call; landlock does not hold it", cut, rule.Rule))
			continue
		}
		if within(topmost, "/proc") && rule.Access&policy.Write == 0 {
			// Folders of processes come and go: /proc can only be granted as a whole.
			c.plan.Notes = append(c.plan.Notes, fmt.Sprintf("%s inside %s is decided at each call; landlock does not hold it", cut, rule.Rule))
			continue
		}
		excluded = append(excluded, topmost)
	}
	c.beside(rule.Path, excluded, rule.Access)
}

// programTrees hold the system's programs and libraries.
var programTrees = []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store"}

// ofPrograms reports whether a tree belongs to the system's programs. A deny pattern that could match anywhere, like **/.env,
// would keep all of it out of the floor; then nothing in it could be executed and every library would be opened by the warden.
// There it is decided at each call like any other, but a thread that races its own calls could read past it. Nobody keeps
// secrets there; the note says so to those who do.
func ofPrograms(path string) bool {
	return slices.ContainsFunc(programTrees, func(tree string) bool { return within(path, tree) })
}

// grantProc lets the agent read in /proc: a rule there is about a process's own files, which Landlock cannot tell apart.
func (c *compiler) grantProc(access policy.Access) {
	if access&policy.Read != 0 {
		c.add(Grant{Path: "/proc", Tree: true, Access: policy.Read})
	}
}

// closed reports whether no agent may have the access at path.
func (c *compiler) closed(path string, access policy.Access) bool {
	return slices.ContainsFunc(c.closedPaths(access), func(p string) bool { return within(path, p) })
}

func (c *compiler) closedPaths(access policy.Access) []string {
	paths := c.options.Closed
	if access&policy.Exec != 0 {
		paths = slices.Concat(paths, c.altered)
	}
	if access&policy.Write == 0 {
		return paths
	}
	return slices.Concat(paths, c.options.Sealed, neverWritten, c.mounts.Kernel(), c.fixed)
}

// fixPrograms looks at the programs whose content the permit fixes. Whoever wins a race against the warden's decision on an exec can
// execute what the floor lets be executed, so a program with another content is left out of it.
func (c *compiler) fixPrograms(f *policy.Filesystem) {
	programs := f.HashedPrograms()
	for _, path := range slices.Sorted(maps.Keys(programs)) {
		c.fixed = append(c.fixed, path)
		sum, err := sumOf(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || sum != programs[path] {
			c.altered = append(c.altered, path)
			c.plan.Notes = append(c.plan.Notes, fmt.Sprintf("%s cannot be executed: it has another SHA-256 than the policy says, or cannot be read", path))
		}
	}
}

func sumOf(path string) (sum [sha256.Size]byte, err error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return sum, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return sum, errors.Join(err, unix.EACCES)
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(hash.Sum(nil)), nil
}

// beside grants the tree at root without the excluded paths: where one lies inside, it grants what lies beside it, one by one.
// A folder that is split this way is not granted itself: listing it and creating in it are decided by the warden.
func (c *compiler) beside(root string, excluded []string, access policy.Access) {
	excluded = append(slices.Clone(excluded), c.closedPaths(access)...)
	c.split(root, excluded, access)
}

func (c *compiler) split(root string, excluded []string, access policy.Access) {
	inside := false
	for _, path := range excluded {
		if within(root, path) {
			if !c.closed(root, access) {
				c.kernelOnly(root, excluded, access)
			}
			return
		}
		inside = inside || within(path, root)
	}
	if !inside {
		c.add(Grant{Path: root, Tree: isFolder(root), Access: access})
		return
	}
	if c.foldersRead++; c.foldersRead > maxFoldersRead {
		return
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return // the agent cannot read it either, or it does not exist: nothing to grant
	}
	for _, entry := range entries {
		if entry.Type()&fs.ModeSymlink == 0 {
			c.split(filepath.Join(root, entry.Name()), excluded, access)
		}
	}
}

// kernelOnly grants what only the kernel can open or execute, in a tree that is left to the warden because of a pattern that
// could match anywhere in it: programs, the files of processes, devices. That pattern is decided at each call there.
func (c *compiler) kernelOnly(root string, excluded []string, access policy.Access) {
	if access&policy.Exec != 0 {
		c.programs(root, -1, policy.VerdictAllow)
		return
	}
	for _, tree := range []string{"/proc", "/dev"} {
		deeper := slices.ContainsFunc(excluded, func(path string) bool { return within(path, tree) })
		if within(tree, root) && !deeper {
			c.add(Grant{Path: tree, Tree: true, Access: access})
		}
	}
}

// glob adds what a pattern with wildcards needs of the floor: the programs that it matches now, because only the kernel can
// execute them. Files to read and write are opened by the warden.
func (c *compiler) glob(g policy.FloorGlob) {
	if within(g.Root, "/proc") {
		c.grantProc(g.Access)
		return
	}
	if g.Access&policy.Exec == 0 {
		return
	}
	c.programs(g.Root, depthOf(g.Rule, g.Root), policy.VerdictAllow)
}

// depthOf is how far below root a pattern can match; -1: at any depth.
func depthOf(pattern, root string) int {
	if strings.Contains(pattern, "**") {
		return -1
	}
	return strings.Count(pattern, "/") - strings.Count(strings.TrimSuffix(root, "/"), "/")
}

// askedPrograms grants the programs for which a person is asked: only the kernel can execute them once somebody agreed. It is the
// warden that asks before; the floor does not hold that, so a thread that changes the path of a call after the warden has decided
// on another program can execute one of these without the question.
func (c *compiler) askedPrograms(patterns []string) {
	before := len(c.plan.Grants)
	for _, pattern := range patterns {
		root, _ := splitPattern(pattern)
		if root == "/" || root == "" {
			c.plan.Notes = append(c.plan.Notes, fmt.Sprintf("programs that require_approval %s names anywhere cannot be executed: name their folder", pattern))
			continue
		}
		c.programs(root, depthOf(pattern, root), policy.VerdictApproval)
	}
	if len(c.plan.Grants) > before {
		c.plan.Notes = append(c.plan.Notes, "require_approval on programs is asked at the call; landlock does not hold it")
	}
}

// programs grants each file at and below root that is a program and on whose execution the rules have that verdict. depth limits
// how far down it looks; -1: no limit.
func (c *compiler) programs(root string, depth int, verdict policy.Verdict) {
	base := strings.Count(strings.TrimSuffix(root, "/"), "/")
	walked := 0
	filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // what cannot be listed cannot be granted
		}
		if walked++; walked > maxFilesWalked {
			c.plan.Notes = append(c.plan.Notes, fmt.Sprintf("looked at %d files in %s for programs that exec rules match: what lies further cannot be executed", maxFilesWalked, root))
			return fs.SkipAll
		}
		if entry.IsDir() {
			below := strings.Count(strings.TrimSuffix(path, "/"), "/") - base
			if path == "/proc" || path == "/sys" || path == "/dev" || depth >= 0 && below >= depth && path != root {
				return fs.SkipDir
			}
			return nil
		}
		if !entry.Type().IsRegular() || c.rules.Decide(path, policy.Exec).Verdict != verdict {
			return nil
		}
		if info, err := entry.Info(); err == nil && info.Mode()&0o111 != 0 && !c.closed(path, policy.Read|policy.Exec) {
			c.add(Grant{Path: path, Access: policy.Read | policy.Exec})
		}
		return nil
	})
}

// within reports whether path is root or lies below it.
func within(path, root string) bool {
	return path == root || root == "/" || strings.HasPrefix(path, root) && path[len(root)] == '/'
}
