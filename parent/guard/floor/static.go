package floor

import (
	"fmt"
	"os"

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
		if why := c.beyondOneRule(rule); why != "" {
			return fmt.Sprintf("%s (%s): %s", rule.Path, rule.Rule, why)
		}
	}
	return ""
}

// beyondOneRule says why no rule of Landlock grants what a rule of the permit does, now and later.
func (c *compiler) beyondOneRule(rule policy.FloorRule) string {
	if within(rule.Path, "/proc") && rule.Path != "/proc" {
		return "a process's own files cannot be told from others"
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, rule.Path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	switch {
	case err == unix.ELOOP:
		return "" // no object has such a path; Resolved added where the link leads
	case err != nil:
		return "it is not there now: " + err.Error()
	}
	unix.Close(fd)
	info, err := os.Lstat(rule.Path)
	switch {
	case err != nil:
		return err.Error()
	case !rule.Tree && info.Mode()&os.ModeDevice != 0, !rule.Tree && rule.Access&policy.Exec != 0 && info.Mode().IsRegular():
		return "" // a device stays, and a program is bound to what it is at the start
	case !rule.Tree:
		return "another file at that path later would not be granted"
	case !info.IsDir():
		return "it is no folder"
	}
	for _, path := range c.closedPaths(rule.Access) {
		if within(path, rule.Path) || within(rule.Path, path) {
			return path + " is closed to every agent"
		}
	}
	return ""
}
