package launch

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// staticPolicy is one that Landlock holds alone.
const staticPolicy = `
mode: enforce
filesystem:
  static: true
  read: ["/{usr,lib,lib64,etc,proc}/**", "/sys/kernel/mm/transparent_hugepage/**", FOLDER/r/**, FOLDER/w/**]
  write: [FOLDER/w/**]
  exec: [SELF]
`

func staticFiles(a *agent) {
	for _, name := range []string{"r/file", "no/file", "w/file", "w/old", "w/gone", "w/meta"} {
		a.write(name, "text")
	}
	a.must(os.Symlink("../no/file", filepath.Join(a.folder, "w/out")))
}

// TestStatic: what Landlock decides alone has the answers of the permit, is not notified and so not recorded; the rest is decided
// and recorded as ever.
func TestStatic(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, staticPolicy)
		staticFiles(a)
		openat, _ := syscallNumber(t, "openat")
		a.probeTable([]conformance{
			{"not even a bad address is looked at", action{"call", openat, "-100", "1", "0"}, "EFAULT", ""},
			{"read", action{"content", "r/file", "text"}, "ok", ""},
			{"read outside", action{"open", "no/file", "r"}, "EACCES", ""},
			{"through a link", action{"open", "w/out", "r"}, "EACCES", ""},
			{"reopen a name", action{"reopen", "no/file", "r"}, "EACCES", ""},
			{"list", action{"open", "r", "r,dir"}, "ok", ""},
			{"write", action{"put", "w/file", "w,trunc", "x"}, "ok", ""},
			{"write what is only read", action{"open", "r/file", "w"}, "EACCES", ""},
			{"cut what is only read", action{"open", "r/file", "r,trunc"}, "EACCES", ""},
			{"cut by path", action{"truncate", "r/file"}, "EACCES", ""},
			{"create", action{"put", "w/new", "w,creat", "x"}, "ok", ""},
			{"create outside", action{"open", "no/new", "w,creat"}, "EACCES", ""},
			{"a folder", action{"mkdir", "w/folder"}, "ok", ""},
			{"a folder outside", action{"mkdir", "no/folder"}, "EACCES", ""},
			{"rename", action{"rename", "w/old", "w/folder/old"}, "ok", ""},
			{"rename out", action{"rename", "w/file", "no/x"}, "EACCES", ""},
			{"link in", action{"link", "r/file", "w/stolen"}, "EXDEV", ""},
			{"remove", action{"unlink", "w/gone"}, "ok", ""},
			{"remove outside", action{"unlink", "no/file"}, "EACCES", ""},
			{"the visa", action{"content", "ENV:RAYPHER_VISA", "the visa"}, "ok", ""},

			{"set-id bits", action{"create-mode", "w/setid", "04755"}, "EPERM", "create w/setid"},
			{"a device", action{"mkdevice", "w/device"}, "EPERM", "mknod device 1:3"},
			{"openat2", action{"openat2", "no/file", "r", "0"}, "EACCES", "open-read no/file"},
			{"a mode", action{"chmod", "w/meta", "0600"}, "ok", ""},
			{"a mode outside", action{"chmod", "no/file", "0600"}, "EACCES", "chmod no/file"},
			{"times outside", action{"utimes", "no/file"}, "EACCES", "utimes no/file"},
			{"an attribute outside", action{"setxattr", "no/file"}, "EACCES", "setxattr no/file"},
			{"a program", action{"exec", "/usr/bin/true"}, "EACCES", "exec " + realPath(t, "/usr/bin/true")},
			{"a granted program", action{"exec", a.self, roleProbe, "exit"}, "ok", ""},
		})
	})
}

// TestStaticIsExact: a permit that Landlock cannot hold exactly is decided by the warden, whatever it asks for.
func TestStaticIsExact(t *testing.T) {
	needLandlock(t)
	const tree, self = "  write: [FOLDER/w/**]\n", "  exec: [SELF]\n"
	for name, rules := range map[string]string{
		"a denied path":       self + tree + "  deny: [FOLDER/w/no]\n",
		"an approval":         self + tree + "  require_approval: [FOLDER/w/ask]\n",
		"a closed folder":     self + "  write: [FOLDER/**]\n  deny: [FOLDER/no/**]\n",
		"an own file":         self + "  write: [/proc/self/comm]\n",
		"one file":            self + "  write: [FOLDER/w/file]\n",
		"what is not yet":     self + "  write: [FOLDER/later/**]\n",
		"a pattern":           self + "  write: [\"FOLDER/w/*.txt\"]\n",
		"programs by pattern": "  exec: [SELF, \"FOLDER/w/*.sh\"]\n",
		"a fixed program":     "  exec: [SELF, {path: FOLDER/w/file, sha256: " + strings.Repeat("a", 64) + "}]\n" + tree,
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, os.Getuid(), "mode: enforce\nfilesystem:\n  static: true\n  read: [\"/{usr,lib,lib64,etc,proc}/**\"]\n"+rules)
			staticFiles(a)
			if got := a.probe([]action{{"open", a.folder + "/no/file", "r"}}); got[0] != "EACCES" {
				t.Errorf("a file that is not granted: %s", got[0])
			}
			if len(a.reported()) == 0 {
				t.Error("the refusal was not recorded: the call was not notified")
			}
		})
	}
	t.Run("kill", func(t *testing.T) {
		a := newAgent(t, os.Getuid(), "on_violation: kill\n"+staticPolicy)
		staticFiles(a)
		cmd := a.command(a.self, roleProbe)
		cmd.Stdin = strings.NewReader(a.expand(`[["open", "FOLDER/no/file", "r"]]`))
		if err := cmd.Run(); err == nil {
			t.Error("the agent goes on after a refusal")
		}
	})
}

// TestStaticIsNotNarrowed: nothing could hold a narrower permit, so the agent ends.
func TestStaticIsNotNarrowed(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		for name, tt := range map[string]struct {
			narrowed string
			killed   bool
		}{
			"files":   {"mode: enforce\nfilesystem: {read: [\"/{usr,lib,lib64,etc,proc}/**\"], exec: [SELF]}\n", true},
			"network": {staticPolicy + "syscalls: {bpf: deny}\n", false},
		} {
			a := newAgent(t, uid, staticPolicy)
			staticFiles(a)
			a.write("run/verdicts"+narrowSuffix, a.expand(tt.narrowed))
			run := a.command(a.self, roleProbe+"-lines")
			in, err := run.StdinPipe()
			a.must(err)
			a.must(run.Start())
			if !tt.killed {
				in.Close()
			}
			timer := time.AfterFunc(30*time.Second, func() { in.Close() }) // then it ends by itself, and was not killed
			_ = run.Wait()
			timer.Stop()
			status := run.ProcessState.Sys().(syscall.WaitStatus)
			if killed := status.Signaled() && status.Signal() == unix.SIGKILL; killed != tt.killed {
				t.Errorf("%s: it ended with %v", name, run.ProcessState)
			}
			in.Close()
		}
	})
}
