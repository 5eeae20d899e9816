package floor

import (
	"strings"

	"github.com/raypher/raypher/policy"
)

// Coverage answers whether Landlock allows an access, so that a call may go on in the kernel. It is an expectation, not a
// decision: where it errs, Landlock refuses. It is immutable and safe for concurrent use.
type Coverage struct {
	open  bool
	trees map[string]policy.Access
	files map[string]Grant
}

// Covers builds the coverage of grants as Apply left them. open: files are not restricted.
func Covers(grants []Grant, open bool) *Coverage {
	c := &Coverage{open: open, trees: map[string]policy.Access{}, files: map[string]Grant{}}
	for _, g := range grants {
		if g.Tree {
			c.trees[g.Path] |= g.Access
			continue
		}
		g.Access |= c.files[g.Path].Access
		c.files[g.Path] = g
	}
	return c
}

// Object reports whether the object that lies at path now, with that device and inode number, may be accessed.
func (c *Coverage) Object(path string, device, inode uint64, a policy.Access) bool {
	if c.open {
		return true
	}
	have := c.below(path)
	if g, ok := c.files[path]; ok && g.Device == device && g.Inode == inode {
		have |= g.Access
	}
	return a&^have == 0
}

// Tree reports whether any object at path may be accessed, because the trees that it lies in are granted.
func (c *Coverage) Tree(path string, a policy.Access) bool { return c.open || a&^c.below(path) == 0 }

// Entry reports whether an entry of the folder may be created, removed or renamed.
func (c *Coverage) Entry(folder string) bool {
	return c.open || c.below(folder)&policy.Write != 0
}

// below is what the trees grant that path lies in. Grants of several trees add up, as in Landlock.
func (c *Coverage) below(path string) policy.Access {
	have := c.trees["/"]
	for at := path; at != "" && at != "/"; at = at[:strings.LastIndexByte(at, '/')] {
		have |= c.trees[at]
		if at[0] != '/' {
			break
		}
	}
	return have
}
