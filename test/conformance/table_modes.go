package conformance

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
)

// modePolicy grants one tree; each setting adds its mode.
const modePolicy = `
filesystem: {read: [` + base + `, FOLDER/w/**], write: [FOLDER/w/**], exec: [PROGRAM]}
`

func furnishModes(w *World) error {
	return errors.Join(w.File("w/file", "no/file", "no/file2", "no/file3", "no/meta"), w.Copy("no/program"), w.Listen("unix", "sock/no"))
}

// modeCase is a case of which only the mode decides whether it is refused.
type modeCase struct {
	name   string
	do     action
	effect string // where it is not refused
	report string
	errno  string // where it is
}

var modeCases = []modeCase{
	{"read", action{"open", "no/file", "r"}, "", "open-read no/file", "EACCES"},
	{"append", action{"put", "no/file", "w,append", "x"}, "no/file: content", "open-write no/file", "EACCES"},
	{"truncate by opening", action{"open", "no/file2", "w,trunc"}, "no/file2: content", "open-write no/file2", "EACCES"},
	{"create", action{"put", "no/new", "w,creat", "x"}, "+no/new", "create no/new", "EACCES"},
	{"mkdir", action{"mkdir", "no/made"}, "+no/made", "mkdir no/made", "EACCES"},
	{"rmdir", action{"rmdir", "no/made"}, "-no/made", "rmdir no/made", "EACCES"},
	{"fifo", action{"mkfifo", "no/fifo"}, "+no/fifo", "mknod no/fifo", "EACCES"},
	{"symlink", action{"symlink", "x", "no/sym"}, "+no/sym", "symlink no/sym", "EACCES"},
	{"link", action{"link", "w/file", "no/hard"}, "+no/hard; w/file: links", "link no/hard", "EACCES"},
	{"rename", action{"rename", "no/file3", "no/file4"}, "+no/file4; -no/file3", "rename no/file3", "EACCES"},
	{"chmod", action{"chmod", "no/meta", "0600"}, "no/meta: mode", "chmod no/meta", "EACCES"},
	{"truncate", action{"truncate", "no/meta"}, "no/meta: content", "truncate no/meta", "EACCES"},
	{"utimes", action{"utimes", "no/meta"}, "no/meta: times", "utimes no/meta", "EACCES"},
	{"setxattr", action{"setxattr", "no/meta"}, "no/meta: attributes", "setxattr no/meta", "EACCES"},
	{"exec", action{"exec", "FOLDER/no/program", "mark", "w/ran"}, "+w/ran", "exec no/program", "EACCES"},
	{"connect", action{"connect", "FOLDER/sock/no"}, "socket sock/no: reached", "connect sock/no", "EACCES"},
	{"unshare", action{"raw", "unshare", "0x4000000"}, "", "syscall unshare", "EPERM"},
	{"unlink", action{"unlink", "no/meta"}, "-no/meta", "unlink no/meta", "EACCES"},
}

// audit and permissive let everything pass; enforce is every other setting.
func audit() Setting {
	s := Setting{Name: "audit", Policy: "mode: audit" + modePolicy, Furnish: furnishModes, Decision: journal.WouldBlock}
	var cases []Case
	for _, m := range modeCases {
		c := line("audit: "+m.name, m.do, "ok", m.effect, m.report)
		if m.name == "unshare" {
			c.Want = "EPERM" // the kernel: agents have no capabilities
		}
		cases = append(cases, c)
	}
	s.Sections = []Section{{"mode audit", cases}}
	return s
}

func permissive() Setting {
	s := audit()
	s.Name, s.Policy, s.Decision = "permissive", "mode: permissive"+modePolicy, ""
	var cases []Case
	for _, c := range s.Sections[0].Cases {
		c.Name, c.Report = "permissive: "+c.Name[len("audit: "):], ""
		cases = append(cases, c)
	}
	s.Sections = []Section{{"mode permissive", cases}}
	return s
}

// kills are one setting for each case: the agent ends before its call has an effect.
func kills() (all []Setting) {
	for _, m := range modeCases {
		if m.name == "rmdir" {
			m.do, m.report = action{"rmdir", "sock"}, "rmdir sock"
		}
		c := line("kill: "+m.name, m.do, "killed", "", m.report)
		all = append(all, Setting{
			Name: "kill on " + m.name, Policy: "on_violation: kill" + modePolicy, Furnish: furnishModes, Dies: true,
			Sections: []Section{{"on_violation: kill", []Case{c}}},
		})
	}
	return all
}

// byName is a policy of system calls, and none of files.
var byName = Setting{
	Name: "system calls by name",
	Policy: `
mode: enforce
syscalls: {sync: log, getpriority: allow, setpriority: deny, sethostname: allow, getppid: deny, mkdirat: deny, shmget: log, uname: log, chmod: deny, fchmodat: deny, io_uring_setup: deny}
`,
	Furnish: func(w *World) error { return w.File("file") },
	Sections: []Section{{"system calls by name", []Case{
		line("allowed", action{"raw", "getpriority", "0", "0"}, "ok", "", ""),
		line("logged", action{"raw", "uname", "z:400"}, "ok", "", "log syscall uname"),
		line("denied", action{"raw", "setpriority", "0", "0", "5"}, "EPERM", "", "syscall setpriority | syscalls: setpriority: deny"),
		line("denied, without arguments", action{"raw", "getppid"}, "EPERM", "", "syscall getppid | syscalls: getppid: deny"),
		line("denied, one that changes files", action{"mkdir", "made"}, "EPERM", "", "syscall mkdirat | syscalls: mkdirat: deny"),
		line("denied, another that does", action{"chmod", "file", "0600"}, "EPERM", "", "syscall fchmodat | syscalls: fchmodat: deny"),
		line("allowing lifts nothing of the base filter", action{"raw", "sethostname", "s:x", "1"}, "EPERM", "", "syscall sethostname"),
		line("logging lifts what a policy may lift", action{"raw", "shmget", "0x7e57ab1e", "4096", "0"}, "ENOENT", "", "log syscall shmget"),
		line("what only some arguments of are refused", action{"raw", "unshare", "0x10000000"}, "EPERM", "", "syscall unshare"),
		line("absent and denied", action{"raw", "io_uring_setup", "1", "z:120"}, "EPERM", "", "syscall io_uring_setup | syscalls: io_uring_setup: deny"),
		line("files are not governed", action{"put", "new", "w,creat", "x"}, "ok", "+new", ""),
	}}},
}

// limits is a policy of resources that every host can hold. Memory and processes are held by cgroups (package cgroup tries it).
var limits = Setting{
	Name:   "limits",
	Policy: "mode: enforce\nresources: {max_fds: 64}\n",
	needs: func(uid int) string {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		data := [2]unix.CapUserData{}
		if err := unix.Capget(&header, &data[0]); err != nil {
			return err.Error()
		}
		own := data[unix.CAP_SYS_RESOURCE/32]
		if uid != os.Getuid() && own.Effective&(1<<(unix.CAP_SYS_RESOURCE%32)) == 0 {
			return "CAP_SYS_RESOURCE is missing here: root cannot limit another user's processes"
		}
		return ""
	},
	Sections: []Section{{"limits", []Case{
		line("as many descriptors as granted", action{"descriptors", "20"}, "ok", "", ""),
		line("more descriptors than granted", action{"descriptors", "100"}, "EMFILE", "", ""),
		line("raising the limit again", action{"raw", "prlimit64", "0", "7", "b:ffff000000000000ffff000000000000", "0"}, "EPERM", "", ""),
	}}},
}
