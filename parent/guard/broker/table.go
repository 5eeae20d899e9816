package broker

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/policy"
)

// handler decides one notified call.
type handler func(*worker, *notification, *ruling) answer

// call is what the broker does with one system call.
type call struct {
	name   string
	log    bool       // report each one
	refuse unix.Errno // refused always, where the filter notifies it at all
	rule   string     // of a refusal
	// partly says of which arguments that holds, and the error; nil: of all. The filter notifies more where the permit logs the call.
	partly   func([6]uint64) (unix.Errno, bool)
	describe func(*notification) (operation, target string)
	handle   handler // nil: let it go on
}

// callsByNumber is a table of calls. It has room for all that the architectures know (policy.LastSyscall).
type callsByNumber []*call

// of is what is done with a call; nil: it is not known.
func (t callsByNumber) of(number int32) *call {
	if number < 0 || int(number) >= len(t) {
		return nil
	}
	return t[number]
}

// callTable is the table of a permit, by number. The filter that floor installs notifies no others.
func callTable(permit *policy.Policy) callsByNumber {
	byName := map[string]call{}
	for _, r := range floor.Refusals() {
		if r.Lifted(permit) {
			continue
		}
		c := call{name: r.Name, refuse: r.Errno, partly: r.Refuses}
		if r.Errno == unix.ENOSYS {
			c.refuse, c.handle = 0, absent(r.Name)
		}
		switch r.Name {
		case "socket":
			c.describe = describeSocket
		case "ioctl":
			c.describe = func(n *notification) (string, string) {
				return "ioctl", floor.IoctlName(uint32(n.Args[1]))
			}
		case "setsockopt":
			c.describe = func(n *notification) (string, string) {
				return "socket", floor.OptionName(uint32(n.Args[1]), uint32(n.Args[2]))
			}
		}
		byName[r.Name] = c
	}
	for name, handle := range handlers {
		byName[name] = call{name: name, handle: handle}
	}
	for name, action := range permit.Syscalls {
		c := byName[name]
		c.name = name
		switch action {
		case policy.SyscallDeny:
			if c.refuse == 0 {
				c.refuse, c.handle = unix.EPERM, nil
			}
			c.partly = nil
			c.rule = "syscalls: " + name + ": deny"
		case policy.SyscallLog:
			c.log = true
		}
		byName[name] = c
	}
	table := make(callsByNumber, policy.LastSyscall(runtime.GOARCH)+1)
	for name, c := range byName {
		if number, ok := policy.SyscallNumber(runtime.GOARCH, name); ok {
			table[number] = &c
		}
	}
	return table
}

// ruleAbsent is in the verdict on a call that agents do not have.
const ruleAbsent = "answered ENOSYS, as by a kernel without it"

// absent answers a call as a kernel does that does not have it. Honest programs try such calls and do without, so it is recorded
// and no violation.
func absent(name string) handler {
	return func(w *worker, n *notification, r *ruling) answer {
		e := event{operation: "syscall", target: name, layer: "seccomp", errno: unix.ENOSYS}
		if r.lenient {
			return w.refuse(n, r, e)
		}
		e.rule = ruleAbsent
		w.note(n, r, journal.Log, e)
		return fail(e.errno)
	}
}

// describeSocket names the kind of socket that was refused.
func describeSocket(n *notification) (operation, target string) {
	kind := n.Args[1] & 0xf
	names := map[uint64]string{unix.SOCK_STREAM: "stream", unix.SOCK_DGRAM: "datagram", unix.SOCK_RAW: "raw", unix.SOCK_SEQPACKET: "seqpacket"}
	if names[kind] == "" {
		names[kind] = fmt.Sprint("type ", kind)
	}
	return "socket", fmt.Sprintf("family %d, %s, protocol %d", int32(n.Args[0]), names[kind], int32(n.Args[2]))
}

// What the kernel answers where the old or the new path names no entry (fs/namei.c, do_renameat2 and do_linkat).
var (
	renameNoName = [2]unix.Errno{unix.EBUSY, unix.EBUSY}
	linkNoName   = [2]unix.Errno{unix.EPERM, unix.EEXIST}
)

// handlers are the calls that the broker decides. Each call of floor.FileCalls stands here.
var handlers = map[string]handler{
	"open": openCall, "creat": creatCall, "openat": openatCall, "openat2": openat2Call,
	"memfd_create": memfdCall,

	"mkdir":     entryCall{"mkdir", cwd, 0, makeFolder(1)}.handle,
	"mkdirat":   entryCall{"mkdir", 0, 1, makeFolder(2)}.handle,
	"mknod":     plainNode(1, entryCall{"mknod", cwd, 0, makeNode(1)}.handle),
	"mknodat":   plainNode(2, entryCall{"mknod", 0, 1, makeNode(2)}.handle),
	"symlink":   entryCall{"symlink", cwd, 1, makeLink}.handle,
	"symlinkat": entryCall{"symlink", 1, 2, makeLink}.handle,
	"unlink":    entryCall{"unlink", cwd, 0, remove(0)}.handle,
	"rmdir":     entryCall{"rmdir", cwd, 0, remove(unix.AT_REMOVEDIR)}.handle,
	"unlinkat":  unlinkatCall,

	"rename":    pairCall{"rename", [4]int{cwd, 0, cwd, 1}, noFlags, renameNoName, rename}.handle,
	"renameat":  pairCall{"rename", [4]int{0, 1, 2, 3}, noFlags, renameNoName, rename}.handle,
	"renameat2": pairCall{"rename", [4]int{0, 1, 2, 3}, 4, renameNoName, rename}.handle,
	"link":      pairCall{"link", [4]int{cwd, 0, cwd, 1}, noFlags, linkNoName, link}.handle,
	"linkat":    pairCall{"link", [4]int{0, 1, 2, 3}, 4, linkNoName, link}.handle,

	"chmod":     objectCall{"chmod", cwd, 0, noFlags, 0, changeMode(1)}.handle,
	"fchmodat":  objectCall{"chmod", 0, 1, noFlags, 0, changeMode(2)}.handle,
	"fchmodat2": objectCall{"chmod", 0, 1, 3, 0, changeMode(2)}.handle,
	"chown":     objectCall{"chown", cwd, 0, noFlags, 0, changeOwner(1)}.handle,
	"lchown":    objectCall{"chown", cwd, 0, noFlags, unix.AT_SYMLINK_NOFOLLOW, changeOwner(1)}.handle,
	"fchownat":  objectCall{"chown", 0, 1, 4, 0, changeOwner(2)}.handle,
	"truncate":  objectCall{"truncate", cwd, 0, noFlags, 0, cutFile}.handle,
	"utime":     objectCall{"utimes", cwd, 0, noFlags, 0, changeTimes(1, readUtimbuf)}.handle,
	"utimes":    objectCall{"utimes", cwd, 0, noFlags, 0, changeTimes(1, readTimevals)}.handle,
	"futimesat": objectCall{"utimes", 0, 1, noFlags, 0, changeTimes(2, readTimevals)}.nullIsDescriptor,
	"utimensat": objectCall{"utimes", 0, 1, 3, 0, changeTimes(2, readTimespecs)}.nullIsDescriptor,

	"setxattr":      objectCall{"setxattr", cwd, 0, noFlags, 0, setAttribute}.handle,
	"lsetxattr":     objectCall{"setxattr", cwd, 0, noFlags, unix.AT_SYMLINK_NOFOLLOW, setAttribute}.handle,
	"setxattrat":    objectCall{"setxattr", 0, 1, 2, 0, setAttributeAt}.handle,
	"removexattr":   objectCall{"removexattr", cwd, 0, noFlags, 0, removeAttribute(1)}.handle,
	"lremovexattr":  objectCall{"removexattr", cwd, 0, noFlags, unix.AT_SYMLINK_NOFOLLOW, removeAttribute(1)}.handle,
	"removexattrat": objectCall{"removexattr", 0, 1, 2, 0, removeAttribute(3)}.handle,

	"fchmod":       descriptorCall{"chmod", changeMode(1)}.handle,
	"fchown":       descriptorCall{"chown", changeOwner(1)}.handle,
	"fsetxattr":    descriptorCall{"setxattr", setAttribute}.handle,
	"fremovexattr": descriptorCall{"removexattr", removeAttribute(1)}.handle,

	floor.MapCall: mapCall,
	"execve":      execveCall, "execveat": execveatCall,
	"connect": connectCall, "bind": bindCall,

	"sched_setscheduler": taskCall{"schedule", 0}.handle, "sched_setparam": taskCall{"schedule", 0}.handle,
	"sched_setattr": taskCall{"schedule", 0}.handle, "sched_setaffinity": taskCall{"schedule", 0}.handle,
	"migrate_pages": taskCall{"schedule", 0}.handle, "move_pages": taskCall{"schedule", 0}.handle,
	"setpriority": priorityCall{unix.PRIO_PROCESS}.handle, "ioprio_set": priorityCall{1}.handle, // IOPRIO_WHO_PROCESS

	"kill": killCall, "tkill": taskCall{"signal", 0}.handle, "tgkill": taskCall{"signal", 1}.handle,
	"rt_sigqueueinfo": taskCall{"signal", 0}.handle, "rt_tgsigqueueinfo": taskCall{"signal", 1}.handle,
	"pidfd_send_signal": pidfdSignalCall,
}
