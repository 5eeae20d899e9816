package floor

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// A permit that says so (policy.Filesystem.Static), and whose rules are all trees that Landlock can hold whole, needs no warden to
// open, create, remove or rename: Landlock's answer is the permit's, and nothing is notified of it. What Landlock has no right for
// (modes, owners, times, attributes), programs, and openat2, whose mode lies in memory, are decided by the warden all the same.

// landlockCalls are those of FileCalls that Landlock decides alone.
var landlockCalls = []string{
	"open", "openat", "creat", "truncate",
	"mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "link", "linkat",
	"rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir",
}

// decideStatic finds out whether Landlock alone holds what a static permit says of files, and notes why where it does not.
func (c *compiler) decideStatic(permit *policy.Policy, split policy.Floor, abi int) {
	if !permit.Filesystem.Static {
		return
	}
	if why := c.beyondLandlock(permit, split, abi); why != "" {
		c.plan.Notes = append(c.plan.Notes, "static: the warden decides on files all the same: "+why)
		return
	}
	c.plan.Static = true
}

// beyondLandlock names what only a warden can hold exactly; nothing: Landlock's answers are the permit's.
func (c *compiler) beyondLandlock(permit *policy.Policy, split policy.Floor, abi int) string {
	switch {
	case permit.OnViolation == policy.Kill:
		return "on_violation: kill"
	case len(permit.Filesystem.RequireApproval) > 0:
		return "require_approval " + permit.Filesystem.RequireApproval[0]
	case abi < truncateABI:
		return fmt.Sprintf("landlock ABI %d does not hold truncation", abi)
	case c.full:
		return "too many rules"
	case len(split.Cut) > 0:
		return fmt.Sprintf("%s inside %s", split.Cut[0].Cuts[0], split.Cut[0].Rule)
	case len(split.Globs) > 0:
		return split.Globs[0].Rule
	}
	for _, rule := range split.Rules {
		if !c.wholeInLandlock(rule) {
			return rule.Rule
		}
	}
	return ""
}

// wholeInLandlock reports whether a rule of Landlock grants what a rule of the permit does, now and later.
func (c *compiler) wholeInLandlock(rule policy.FloorRule) bool {
	if within(rule.Path, "/proc") && rule.Path != "/proc" {
		return false // a process's own files cannot be told from others
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, rule.Path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err == unix.ELOOP {
		return true // no object has such a path; Resolved added where the link leads
	}
	if err != nil {
		return false // what appears there later would not be granted
	}
	unix.Close(fd)
	info, err := os.Lstat(rule.Path)
	switch {
	case err != nil:
		return false
	case !rule.Tree:
		// Another file at that path later would not be granted. Devices stay, and programs are bound to what they are at the start.
		return info.Mode()&os.ModeDevice != 0 || rule.Access&policy.Exec != 0 && info.Mode().IsRegular()
	}
	return info.IsDir() && !slices.ContainsFunc(c.closedPaths(rule.Access), func(path string) bool {
		return within(path, rule.Path) || within(rule.Path, path)
	})
}
