package floor

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// Grant is one rule of the floor: Access to the object at Path and, when Tree is set, to everything below it. Apply fills in
// which object that was; a Grant on a file holds for that file alone, whatever lies at Path later.
type Grant struct {
	Path   string        `json:"p"`
	Tree   bool          `json:"t,omitempty"`
	Access policy.Access `json:"a"`
	Device uint64        `json:"d,omitempty"`
	Inode  uint64        `json:"i,omitempty"`
}

// Plan is a floor for one permit on this host.
type Plan struct {
	// Grants is what Landlock will allow. Apply removes those whose object does not exist.
	Grants []Grant
	// Open is set when files are not restricted at all: the permit does not govern them, or does not enforce.
	Open bool
	// Static is set when Landlock alone decides on files: what it can decide is not to be notified.
	Static bool
	// Notes says in words what the plan could not hold or had to leave to the warden.
	Notes []string

	scoped  bool   // signals and abstract sockets stay inside
	handled uint64 // Landlock rights that are refused where no grant allows them
}

// Options are what a plan needs to know of the host and the caller.
type Options struct {
	// Closed are paths that no agent may open in any way, whatever its permit says: the daemon's run and state folders, by all
	// of their names (Mounts.Everywhere).
	Closed []string
	// Sealed are paths that no agent may write, whatever its permit says: the host's policy and keys.
	Sealed []string
	// Devices are further device files that are granted for reading and writing: the terminals on the agent's standard
	// descriptors.
	Devices []string
	// Mounts are those that the caller has read already; nil: Compile reads them.
	Mounts Mounts
	// FilesHeld says that programs of BPF LSM hold files, and signals too, for this agent: Landlock keeps only what lies in its scopes.
	FilesHeld bool
	// Root says that the agent runs as uid 0, which owns files that could end the guard.
	Root bool
}

// baseDevices harm nobody and almost every program expects them.
var baseDevices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// neverWritten are trees that agents may not write, whatever their permit says, beside all mounts of kernelKinds. A process
// may write a few files of its own in /proc; the warden opens those (package broker).
var neverWritten = []string{"/proc", "/sys"}

// Compile plans the floor of a permit, on which Resolved was called. It is never wider than the permit, but for
//   - the devices that every program expects (/dev/null and its like, the caller's terminal),
//   - the dynamic loaders of programs that may be executed,
//   - reading in /proc, when the permit grants reading something of a process's own there: Landlock cannot tell a process's
//     own files from others. Landlock's rule on ptrace still closes what is private to processes outside the agent.
func Compile(permit *policy.Policy, o Options) (*Plan, error) {
	c := &compiler{options: o, plan: &Plan{}, rules: permit.FileRules()}
	if lenient(permit) {
		c.plan.Open = true
		return c.plan, nil
	}
	abi, err := ABI()
	if err != nil {
		return nil, err
	}
	if o.FilesHeld {
		// Without scopes it would hold nothing, but a domain that does not grant it keeps files from moving between folders.
		c.plan.Open, c.plan.scoped = true, abi >= scopesABI
		return c.plan, nil
	}
	if c.mounts = o.Mounts; c.mounts == nil {
		if c.mounts, err = ReadMounts(); err != nil {
			return nil, err
		}
	}
	if abi < scopesABI {
		c.plan.Notes = append(c.plan.Notes, fmt.Sprintf("landlock ABI %d: abstract unix sockets of the host are not held, and signals only at the call", abi))
	}
	switch {
	case !c.rules.Governed():
		c.plan.Open, c.plan.scoped = true, true
		c.protectHost()
		return c.plan, nil
	}
	c.plan.scoped, c.plan.handled = true, ^uint64(0)
	// First what must not fall victim to a bound.
	for _, device := range append(slices.Clone(baseDevices), o.Devices...) {
		c.add(Grant{Path: device, Access: policy.Read | policy.Write})
	}
	c.fixPrograms(permit.Filesystem)
	split := permit.Filesystem.Floor()
	for _, rule := range split.Rules {
		c.grant(rule, nil)
	}
	for _, rule := range split.Cut {
		c.grant(rule.FloorRule, rule.Cuts)
	}
	for _, glob := range split.Globs {
		c.glob(glob)
	}
	c.askedPrograms(permit.Filesystem.RequireApproval)
	c.grantLoaders()
	c.decideStatic(permit, split, abi)
	return c.plan, nil
}

// grantLoaders lets the kernel open the dynamic loader in place of the programs that may be executed.
func (c *compiler) grantLoaders() {
	var programs []string
	any := false
	for _, g := range c.plan.Grants {
		if g.Access&policy.Exec == 0 {
			continue
		}
		any = true
		if !g.Tree {
			programs = append(programs, g.Path)
		}
	}
	if !any {
		return
	}
	for _, loader := range loadersOf(programs, maxProgramsRead) {
		c.addAlways(Grant{Path: loader, Access: policy.Read | policy.Exec})
	}
}

// rightsHost are those that an agent of root without rules for files is held by: all that changes something, and reading what is
// in a file.
const rightsHost = rightsWrite&^unix.LANDLOCK_ACCESS_FS_IOCTL_DEV | unix.LANDLOCK_ACCESS_FS_READ_FILE

// protectHost plans for an agent whose files are not governed. No such agent may write where it could leave its cgroup, thaw
// another agent or change the kernel directly. One of root may further neither change nor read what the guard itself lies in,
// nor write to disks past their files. It can still change what the host runs later, and the note says so.
//
// Landlock names what is allowed, not what is refused: what is closed is left out of the grants of all that lies beside it. So
// nothing can be made or removed right inside a folder that has something closed at any depth: /, /run, /var and /var/lib.
func (c *compiler) protectHost() {
	c.plan.Grants = append(c.plan.Grants, Grant{Path: "/", Tree: true, Access: 0})
	if !c.options.Root {
		c.plan.handled = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_REFER
		c.split("/", append(c.mounts.Kernel("proc"), "/sys"), policy.Write) // a user owns nothing in procfs that others need
		return
	}
	c.plan.handled = rightsHost
	c.split("/", slices.Concat(neverWritten, c.mounts.Kernel(), c.options.Closed, blockDevices()), policy.Write)
	c.split("/", c.options.Closed, policy.Read)
	c.plan.Notes = append(c.plan.Notes, "the policy governs no files: as root, this agent can change what the host runs later, "+
		"which no guard then holds: add a filesystem section")
}

// Apply puts the calling thread into the Landlock domain of the plan. no_new_privs must be set.
func (p *Plan) Apply() error {
	if p.Open && !p.scoped {
		return nil
	}
	abi, err := ABI()
	if err != nil {
		return err
	}
	set, err := newRuleset(abi, p.handled)
	if err != nil {
		return err
	}
	defer set.close()
	kept := p.Grants[:0]
	for _, g := range p.Grants {
		present, err := set.add(&g)
		if err != nil {
			return fmt.Errorf("landlock rule for %s: %w", g.Path, err)
		}
		if present {
			kept = append(kept, g)
		}
	}
	p.Grants = kept
	return set.restrict()
}

// add turns a grant into a rule. It is false when there is nothing to grant: no such object, a link in the path (Resolved adds
// where it leads), or a folder that is granted without what lies in it.
func (r *ruleset) add(g *Grant) (present bool, err error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, g.Path, &how)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES),
		errors.Is(err, unix.ENOTCONN), errors.Is(err, unix.ESTALE): // the last two: a mount whose server is gone
		return false, nil
	case err != nil:
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	folder := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if folder && !g.Tree {
		return false, nil
	}
	allowed := rights(g.Access)
	if g.Access == 0 {
		allowed = unix.LANDLOCK_ACCESS_FS_REFER
	}
	g.Device, g.Inode = uint64(st.Dev), st.Ino
	return true, r.allow(fd, folder, allowed)
}

// isFolder reports whether path is a folder, not a link to one.
func isFolder(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}
