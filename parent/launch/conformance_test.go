package launch

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/journal"
)

// conformancePolicy is what the table below runs under.
const conformancePolicy = `
mode: enforce
filesystem:
  read: [LIBRARIES, SELF, FOLDER/r/**, FOLDER/w/**, "FOLDER/g/*.txt", FOLDER/lit.txt, FOLDER/later.txt, FOLDER/cut/**, FOLDER/bin/**,
    "FOLDER/blind/*.txt", FOLDER/blind/literal, FOLDER/blind/open/**]
  write: [FOLDER/w/**, "FOLDER/g/*.txt", FOLDER/lit.txt, FOLDER/later.txt, FOLDER/cut/**, FOLDER/blind/**, /proc/self/oom_score_adj]
  exec: [SELF, FOLDER/bin/yes, "FOLDER/bin/glob-*", FOLDER/bin/script, FOLDER/bin/badscript]
  deny: [FOLDER/cut/holds/inner, FOLDER/r/secret/**, FOLDER/cut/secret/**, FOLDER/cut/no.txt]
  require_approval: [FOLDER/cut/ask.txt]
network:
  unix: [FOLDER/sock/yes, "FOLDER/sock/glob-*", "FOLDER/sock/{raypherd,raypherd-relay,enclave,alias,alias2}.sock", FOLDER/run/*]
`

// conformance is one line of the table: an action inside, what its system call answers, and what is reported of it:
// "operation target", or nothing.
type conformance struct {
	name   string
	do     action
	want   string
	report string
}

// Each line uses files of its own: the lines of one run do not depend on each other. Paths are relative to the test's folder.
var conformanceTable = []conformance{
	// Opening what is granted as a tree, a path, a glob; what is not; what is denied inside.
	{"read in a tree", action{"content", "r/file", "text"}, "ok", ""},
	{"read a granted path", action{"content", "lit.txt", "text"}, "ok", ""},
	{"read by glob", action{"content", "g/a.txt", "text"}, "ok", ""},
	{"read outside", action{"open", "no/file", "r"}, "EACCES", "open-read no/file"},
	{"read outside the glob", action{"open", "g/a.log", "r"}, "EACCES", "open-read g/a.log"},
	{"read what is denied in a tree", action{"open", "r/secret/key", "r"}, "EACCES", "open-read r/secret/key"},
	{"read beside what is denied", action{"content", "cut/beside2/file", "text"}, "ok", ""},
	{"read a denied path in a tree", action{"open", "cut/no.txt", "r"}, "EACCES", "open-read cut/no.txt"},
	{"read what asks a person", action{"open", "cut/ask.txt", "r"}, "EACCES", "open-read cut/ask.txt"},
	{"list a tree", action{"open", "r", "r,dir"}, "ok", ""},
	{"list the folder of a cut", action{"open", "cut", "r,dir"}, "ok", ""},
	{"list outside", action{"open", "no", "r,dir"}, "EACCES", "open-read no"},
	{"write in a read tree", action{"open", "r/file", "w"}, "EACCES", "open-write r/file"},
	{"read and write in a read tree", action{"open", "r/file", "rw"}, "EACCES", "open-read-write r/file"},
	{"truncate by opening for reading", action{"open", "r/file", "r,trunc"}, "EACCES", "open-read-write r/file"},
	{"append in a write tree", action{"put", "w/appended", "w,append", "x"}, "ok", ""},
	{"truncate by opening in a write tree", action{"put", "w/truncated", "w,trunc", "x"}, "ok", ""},
	{"append by glob", action{"put", "g/appended.txt", "w,append", "x"}, "ok", ""},
	{"write a granted path", action{"put", "lit.txt", "w", "text"}, "ok", ""},
	{"a name without access", action{"open", "no/file", "path"}, "ok", ""},
	{"what does not exist", action{"open", "r/nothing", "r"}, "ENOENT", ""},
	{"a device that every program expects", action{"put", "/dev/null", "w", "x"}, "ok", ""},
	{"a device that is not granted", action{"open", "/dev/kmsg", "r"}, "EACCES", "open-read /dev/kmsg"},

	// Creating.
	{"create in a write tree", action{"put", "w/new", "w,creat", "x"}, "ok", ""},
	{"create by glob", action{"put", "g/new.txt", "w,creat", "x"}, "ok", ""},
	{"create and see the content by glob", action{"put", "g/seen.txt", "rw,creat,excl", "x"}, "ok", ""},
	{"create a granted path", action{"put", "later.txt", "w,creat", "x"}, "ok", ""},
	{"create in a folder with a cut", action{"put", "cut/new", "w,creat", "x"}, "ok", ""},
	{"create outside", action{"open", "no/new", "w,creat"}, "EACCES", "create no/new"},
	{"create outside the glob", action{"open", "g/new.log", "w,creat"}, "EACCES", "create g/new.log"},
	{"create in a read tree", action{"open", "r/new", "w,creat"}, "EACCES", "create r/new"},
	{"create what exists", action{"open", "w/exists", "w,creat,excl"}, "EEXIST", ""},
	{"create what exists by glob", action{"open", "g/a.txt", "w,creat,excl"}, "EEXIST", ""},
	{"create through a link in a write tree to outside", action{"open", "w/dangling", "w,creat"}, "EACCES", "create no/through"},
	{"create through a link by glob", action{"open", "w/toglob", "w,creat"}, "ok", ""},
	{"temporary file gets a name", action{"tmpfile", "w", "w/named"}, "ok", ""},
	{"temporary file outside", action{"tmpfile", "no", "no/named"}, "EACCES", "create no"},
	{"temporary file gets a name elsewhere", action{"tmpfile", "w", "no/named"}, "EACCES", "link no/named"},

	// The ways to the same object.
	{"through a link to outside", action{"open", "w/out", "r"}, "EACCES", "open-read no/file"},
	{"through a link inside", action{"content", "w/in", "text"}, "ok", ""},
	{"the link itself", action{"open", "w/in", "r,nofollow"}, "ELOOP", ""},
	{"through ..", action{"open", "r/../no/file", "r"}, "EACCES", "open-read no/file"},
	{"relative to a folder", action{"relative", "no", "file", "r"}, "EACCES", "open-read no/file"},
	{"relative to a granted folder", action{"relative", "r", "file", "r"}, "ok", ""},
	{"relative out of a folder", action{"relative", "w", "../no/file", "r"}, "EACCES", "open-read no/file"},
	{"from the working directory", action{"from", "no", "open", "file", "r"}, "EACCES", "open-read no/file"},
	{"through /proc/self/root", action{"open", "/proc/self/rootFOLDER/no/file", "r"}, "EACCES", "open-read no/file"},
	{"through /proc/self/cwd", action{"open", "/proc/self/cwd/no/file", "r"}, "EACCES", "open-read no/file"},
	{"through /proc/thread-self", action{"open", "/proc/thread-self/cwd/no/file", "r"}, "EACCES", "open-read no/file"},
	{"reopen a name", action{"reopen", "no/file", "r"}, "EACCES", "open-read no/file"},
	{"reopen a name by glob", action{"reopen", "g/a.txt", "r"}, "ok", ""},
	{"reopen for writing", action{"reopen", "r/file", "w"}, "EACCES", "open-write r/file"},
	{"openat2 beneath", action{"openat2", "r/file", "r", "8"}, "ok", ""},
	{"openat2 beneath, outside", action{"openat2", "no/file", "r", "8"}, "EACCES", "open-read no/file"},
	{"openat2 without links", action{"openat2", "w/in", "r", "4"}, "ELOOP", ""},
	{"openat2 beneath, upwards", action{"openat2", "../x", "r", "8"}, "EXDEV", ""},
	{"openat2 in a root by glob", action{"openat2", "/g/a.txt", "r", "16"}, "ok", ""},
	{"an old hardlink goes by its own path", action{"open", "no/hard", "r"}, "EACCES", "open-read no/hard"},

	// /proc.
	{"own status", action{"open", "/proc/self/status", "r"}, "ok", ""},
	{"own oom_score_adj", action{"put", "/proc/self/oom_score_adj", "w", "900"}, "ok", ""},
	{"own comm, which is not granted", action{"open", "/proc/self/comm", "w"}, "EACCES", "open-write /proc/SELFPID/comm"},
	{"init's environment", action{"open", "/proc/1/environ", "r"}, "EACCES", ""},
	{"a kernel setting", action{"open", "/proc/sys/kernel/core_pattern", "w"}, "EACCES", "open-write /proc/sys/kernel/core_pattern"},
	{"a setting of the network", action{"open", "/proc/sys/net/ipv4/ip_forward", "w"}, "EACCES", "open-write /proc/sys/net/ipv4/ip_forward"},

	// Folders and names.
	{"mkdir in a write tree", action{"mkdir", "w/made"}, "ok", ""},
	{"mkdir by glob", action{"mkdir", "g/made.txt"}, "ok", ""},
	{"mkdir outside", action{"mkdir", "no/made"}, "EACCES", "mkdir no/made"},
	{"mkdir with a slash", action{"mkdir", "g/slash.txt/"}, "ok", ""},
	{"mkdir of ..", action{"mkdir", "w/.."}, "EEXIST", ""},
	{"rmdir in a write tree", action{"rmdir", "w/empty"}, "ok", ""},
	{"rmdir by glob", action{"rmdir", "g/empty.txt"}, "ok", ""},
	{"rmdir outside", action{"rmdir", "no/empty"}, "EACCES", "rmdir no/empty"},
	{"unlink in a write tree", action{"unlink", "w/unlinked"}, "ok", ""},
	{"unlink by glob", action{"unlink", "g/unlinked.txt"}, "ok", ""},
	{"unlink outside", action{"unlink", "no/file"}, "EACCES", "unlink no/file"},
	{"unlink in a read tree", action{"unlink", "r/file"}, "EACCES", "unlink r/file"},
	{"unlink what is denied", action{"unlink", "cut/no.txt"}, "EACCES", "unlink cut/no.txt"},
	{"symlink in a write tree", action{"symlink", "../no/file", "w/linked"}, "ok", ""},
	{"symlink by glob", action{"symlink", "x", "g/linked.txt"}, "ok", ""},
	{"symlink outside", action{"symlink", "x", "no/linked"}, "EACCES", "symlink no/linked"},
	{"fifo in a write tree", action{"mkfifo", "w/fifo"}, "ok", ""},
	{"fifo by glob", action{"mkfifo", "g/fifo.txt"}, "ok", ""},
	{"fifo outside", action{"mkfifo", "no/fifo"}, "EACCES", "mknod no/fifo"},
	{"device in a write tree", action{"mkdevice", "w/device"}, "EPERM", "mknod device 1:3"},
	{"rename in a write tree", action{"rename", "w/ren", "w/ren2"}, "ok", ""},
	{"rename between folders of a tree", action{"rename", "w/ren3", "w/sub/ren3"}, "ok", ""},
	{"rename by glob", action{"rename", "g/ren.txt", "g/ren2.txt"}, "ok", ""},
	{"rename from glob to tree", action{"rename", "g/ren3.txt", "w/ren3.txt"}, "ok", ""},
	{"rename to outside", action{"rename", "w/ren4", "no/ren4"}, "EACCES", "rename no/ren4"},
	{"rename from outside", action{"rename", "no/file", "w/file"}, "EACCES", "rename no/file"},
	{"rename out of the glob", action{"rename", "g/ren5.txt", "g/ren5.log"}, "EACCES", "rename g/ren5.log"},
	{"rename what is denied", action{"rename", "cut/no.txt", "w/no.txt"}, "EACCES", "rename cut/no.txt"},
	{"rename a folder between trees with other rules", action{"rename", "cut/deep", "w/deep"}, "EXDEV", "rename cut/deep"},
	{"rename a folder that holds what is denied", action{"rename", "cut/holds", "cut/other"}, "EXDEV", "rename cut/holds"},
	{"rename a folder in a folder with a cut", action{"rename", "cut/beside", "cut/moved"}, "ok", ""},
	{"exchange by glob", action{"exchange", "g/ex1.txt", "g/ex2.txt"}, "ok", ""},
	{"exchange with outside", action{"exchange", "w/exists", "no/file"}, "EACCES", "rename no/file"},
	{"link in a write tree", action{"link", "w/tolink", "w/link2"}, "ok", ""},
	{"link by glob", action{"link", "g/a.txt", "g/link.txt"}, "ok", ""},
	{"link from outside", action{"link", "no/file", "w/stolen"}, "EXDEV", "link no/file"},
	{"link what is denied", action{"link", "r/secret/key", "w/stolen2"}, "EXDEV", "link r/secret/key"},
	{"rename to a name that may be read", action{"rename", "blind/secret", "blind/secret.txt"}, "EXDEV", "rename blind/secret"},
	{"rename to a literal name that may be read", action{"rename", "blind/secret", "blind/literal"}, "EXDEV", "rename blind/secret"},
	{"rename into a folder that may be read", action{"rename", "blind/secret", "blind/open/secret"}, "EXDEV", "rename blind/secret"},
	{"exchange a folder with one that may be read", action{"exchange", "blind/closed", "blind/open"}, "EXDEV", "rename blind/closed"},
	{"exchange a file with one that may be read", action{"exchange", "blind/a.txt", "blind/secret"}, "EXDEV", "rename blind/secret"},
	{"link to a name that may be read", action{"link", "blind/secret", "blind/link.txt"}, "EXDEV", "link blind/secret"},
	{"rename where no rule tells the names apart", action{"rename", "blind/plain", "blind/plain2"}, "ok", ""},
	{"rename of ..", action{"rename", "w/..", "w/x"}, "EBUSY", ""},
	{"rename in a folder that does not exist", action{"rename", "w/nothing/x", "w/x"}, "ENOENT", ""},
	{"link through a link", action{"linkfollow", "w/out", "w/stolen3"}, "EXDEV", "link no/file"},
	{"link to outside", action{"link", "w/tolink", "no/link"}, "EACCES", "link no/link"},

	// Owners, modes, times, attributes.
	{"chmod in a write tree", action{"chmod", "w/meta", "0600"}, "ok", ""},
	{"chmod by glob", action{"chmod", "g/meta.txt", "0600"}, "ok", ""},
	{"chmod in a read tree", action{"chmod", "r/file", "0600"}, "EACCES", "chmod r/file"},
	{"chmod outside", action{"chmod", "no/file", "0600"}, "EACCES", "chmod no/file"},
	{"chmod through a link", action{"chmod", "w/out", "0600"}, "EACCES", "chmod no/file"},
	{"fchmod of what is open for reading", action{"fchmod", "r/file", "0600"}, "EACCES", "chmod r/file"},
	{"fchmod in a write tree", action{"fchmod", "w/meta2", "0600"}, "ok", ""},
	{"chown in a write tree", action{"chown", "w/meta"}, "ok", ""},
	{"chown outside", action{"chown", "no/file"}, "EACCES", "chown no/file"},
	{"lchown of a link", action{"lchown", "w/out"}, "ok", ""},
	{"fchown of what is open for reading", action{"fchown", "r/file"}, "EACCES", "chown r/file"},
	{"truncate in a write tree", action{"truncate", "w/meta"}, "ok", ""},
	{"truncate by glob", action{"truncate", "g/meta.txt"}, "ok", ""},
	{"truncate outside", action{"truncate", "no/file"}, "EACCES", "truncate no/file"},
	{"utimes in a write tree", action{"utimes", "w/meta"}, "ok", ""},
	{"utimes outside", action{"utimes", "no/file"}, "EACCES", "utimes no/file"},
	{"futimes of what is open for reading", action{"futimes", "r/file"}, "EACCES", "utimes r/file"},
	{"futimes in a write tree", action{"futimes", "w/meta2"}, "ok", ""},
	{"setxattr in a write tree", action{"setxattr", "w/meta"}, "ok", ""},
	{"setxattr outside", action{"setxattr", "no/file"}, "EACCES", "setxattr no/file"},
	{"fsetxattr of what is open for reading", action{"fsetxattr", "r/file"}, "EACCES", "setxattr r/file"},
	{"removexattr outside", action{"removexattr", "no/file"}, "EACCES", "removexattr no/file"},

	// Programs.
	{"exec of a granted program", action{"exec", "FOLDER/bin/yes", "raypher-test-probe", "exit"}, "ok", ""},
	{"exec by glob", action{"exec", "FOLDER/bin/glob-1", "raypher-test-probe", "exit"}, "ok", ""},
	{"exec of what is not granted", action{"exec", "FOLDER/bin/no", "raypher-test-probe", "exit"}, "EACCES", "exec bin/no"},
	{"exec outside", action{"exec", "/usr/bin/true"}, "EACCES", "exec /usr/bin/true"},
	{"exec of a script whose interpreter is granted", action{"exec", "FOLDER/bin/script"}, "ok", ""},
	{"exec of a script whose interpreter is not", action{"exec", "FOLDER/bin/badscript"}, "EACCES", "exec SHELL"},
	{"exec of a file in memory", action{"execfd", "FOLDER/bin/yes", "0"}, "EACCES", "exec /memfd:program (deleted)"},
	{"exec of a file in memory that insists", action{"execfd", "FOLDER/bin/yes", "16"}, "EACCES", "exec /memfd:program (deleted)"},

	// Unix sockets.
	{"connect to a granted socket", action{"connect", "FOLDER/sock/yes"}, "ok", ""},
	{"connect by glob", action{"connect", "FOLDER/sock/glob-1"}, "ok", ""},
	{"connect to the agent's socket", action{"connect", "FOLDER/run/verdicts.sock"}, "ok", ""},
	{"connect to another socket", action{"connect", "FOLDER/sock/no"}, "EACCES", "connect sock/no"},
	{"connect to a raypherd", action{"connect", "FOLDER/sock/raypherd.sock"}, "EACCES", "connect sock/raypherd.sock"},
	{"connect to a relay", action{"connect", "FOLDER/sock/raypherd-relay.sock"}, "EACCES", "connect sock/raypherd-relay.sock"},
	{"connect to one's own relay by another name", action{"connect", "FOLDER/sock/alias2.sock"}, "EACCES", "connect sock/alias2.sock"},
	{"connect to an enclave", action{"connect", "FOLDER/sock/enclave.sock"}, "EACCES", "connect sock/enclave.sock"},
	{"connect to one's own raypherd by another name", action{"connect", "FOLDER/sock/alias.sock"}, "EACCES", "connect sock/alias.sock"},
	{"connect to what lies beside the agent's socket", action{"connect", "FOLDER/run/other.sock"}, "EACCES", "connect run/other.sock"},
	{"connect through a link", action{"connect", "FOLDER/w/tosocket"}, "EACCES", "connect sock/no"},
	{"connect relative", action{"connect", "sock/yes"}, "ok", ""},

	// What no agent may do.
	{"raw socket", action{"socket", "2", "3", "1"}, "EPERM", "socket family 2, raw, protocol 1"},
	{"packet socket", action{"socket", "17", "3", "0"}, "EPERM", "socket family 17, raw, protocol 0"},
	{"vsock", action{"socket", "40", "1", "0"}, "EPERM", "socket family 40, stream, protocol 0"},
	{"netlink audit", action{"socket", "16", "3", "9"}, "EPERM", "socket family 16, raw, protocol 9"},
	{"netlink route", action{"socket", "16", "3", "0"}, "ok", ""},
	{"multipath tcp", action{"socket", "2", "1", "262"}, "EPROTONOSUPPORT", ""},
	{"tcp", action{"socket", "2", "1", "6"}, "ok", ""},
	{"udp over ipv6", action{"socket", "10", "2", "0"}, "ok", ""},
	{"terminal injection", action{"ioctl", "0x5412"}, "EPERM", "ioctl TIOCSTI"},
	{"terminal injection with high bits", action{"ioctl", "0x100005412"}, "EPERM", "ioctl TIOCSTI"},
	{"console paste", action{"ioctl", "0x541c"}, "EPERM", "ioctl TIOCLINUX"},
	{"the visa", action{"content", "FOLDER/run/verdicts.visa", "the visa"}, "ok", ""},
	{"writing the visa", action{"open", "FOLDER/run/verdicts.visa", "w"}, "EACCES", ""},
}

func TestConformance(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, conformancePolicy)
		conformanceFiles(a)
		a.probeTable(conformanceTable)
	})
}

// probeTable runs a table in one process and compares what each call answered, and what was reported of all of them.
func (a *agent) probeTable(table []conformance) {
	a.t.Helper()
	actions := make([]action, len(table))
	for i, c := range table {
		actions[i] = slices.Clone(c.do)
		for j := range actions[i] {
			actions[i][j] = a.expand(actions[i][j])
		}
	}
	results := a.probe(actions)
	var wanted, got []string
	for i, c := range table {
		if results[i] != c.want {
			a.t.Errorf("%s: %q answered %s, want %s", c.name, c.do, results[i], c.want)
		}
		if c.report != "" {
			wanted = append(wanted, c.report)
		}
	}
	for _, v := range a.reported() {
		got = append(got, shortReport(a, v))
	}
	compareReports(a.t, got, wanted)
}

// shortReport is a verdict as the table writes it.
func shortReport(a *agent, v journal.Verdict) string {
	target := strings.TrimPrefix(v.Target, a.folder+"/")
	target = strings.Replace(target, fmt.Sprintf("/proc/%d/", v.PID), "/proc/SELFPID/", 1)
	if shell, err := filepath.EvalSymlinks("/bin/sh"); err == nil && target == shell {
		target = "SHELL"
	}
	return v.Operation + " " + target
}

// compareReports expects each report that is wanted, and no other. Equal ones may be folded.
func compareReports(t testing.TB, got, wanted []string) {
	t.Helper()
	for _, all := range []*[]string{&got, &wanted} {
		slices.Sort(*all)
		*all = slices.Compact(*all)
	}
	for _, report := range wanted {
		if !slices.Contains(got, report) {
			t.Errorf("not reported: %s", report)
		}
	}
	for _, report := range got {
		if !slices.Contains(wanted, report) {
			t.Errorf("reported and not wanted: %s", report)
		}
	}
}

// conformanceFiles makes what the table acts on.
func conformanceFiles(a *agent) {
	for _, name := range []string{
		"r/file", "r/secret/key", "lit.txt", "g/a.txt", "g/a.log", "g/appended.txt", "g/unlinked.txt", "g/ren.txt", "g/ren3.txt",
		"g/ren5.txt", "g/ex1.txt", "g/ex2.txt", "g/meta.txt", "no/file", "cut/beside/file", "cut/secret/key", "cut/no.txt",
		"cut/ask.txt", "cut/deep/file", "cut/holds/inner", "cut/beside2/file", "w/file0", "w/appended", "w/truncated", "w/exists", "w/unlinked", "w/ren", "w/ren3",
		"w/ren4", "w/tolink", "w/meta", "w/meta2", "w/sub/x",
		"blind/secret", "blind/a.txt", "blind/plain", "blind/closed/secret", "blind/open/x",
	} {
		a.write(name, "text")
	}
	for _, name := range []string{"w/empty", "g/empty.txt", "no/empty", "sock"} {
		a.mkdir(name)
	}
	for name, target := range map[string]string{
		"w/out": "../no/file", "w/in": "file0", "w/dangling": "../no/through", "w/toglob": "../g/through.txt", "w/tosocket": "../sock/no",
	} {
		a.must(os.Symlink(target, filepath.Join(a.folder, name)))
	}
	a.must(os.Link(filepath.Join(a.folder, "r/file"), filepath.Join(a.folder, "no/hard")))
	a.mkdir("bin")
	for _, name := range []string{"bin/yes", "bin/glob-1", "bin/no"} {
		a.must(os.Link(a.self, filepath.Join(a.folder, name)))
	}
	for name, interpreter := range map[string]string{"bin/script": a.self + " " + roleProbe, "bin/badscript": "/bin/sh"} {
		a.must(os.Chmod(a.write(name, "#!"+interpreter+"\n"), 0o755))
	}
	for _, name := range []string{
		"sock/yes", "sock/glob-1", "sock/no", "sock/raypherd.sock", "sock/raypherd-relay.sock", "sock/enclave.sock", "run/raypherd-relay.sock", "run/verdicts.sock", "run/raypherd.sock", "run/other.sock",
	} {
		listener, err := net.Listen("unix", filepath.Join(a.folder, name))
		a.must(err)
		a.t.Cleanup(func() { listener.Close() })
		go greet(listener)
	}
	a.must(os.Link(filepath.Join(a.folder, "run/raypherd.sock"), filepath.Join(a.folder, "sock/alias.sock")))
	a.must(os.Link(filepath.Join(a.folder, "run/raypherd-relay.sock"), filepath.Join(a.folder, "sock/alias2.sock")))
}
