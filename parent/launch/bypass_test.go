package launch

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/policy"
)

// bypassPolicy grants a tree, a glob and nothing else.
const bypassPolicy = `
mode: enforce
filesystem:
  read: [LIBRARIES, SELF, FOLDER/r/**, FOLDER/w/**, "FOLDER/g/*.txt"]
  write: [FOLDER/w/**, "FOLDER/g/*.txt"]
  exec: [SELF]
`

func bypassFiles(a *agent) {
	for _, name := range []string{"r/file", "w/file", "g/a.txt"} {
		a.write(name, "granted")
	}
	a.write("no/file", "secret")
	a.write("no/a.txt", "secret")
}

// syscallNumber is that of a call on this machine.
func syscallNumber(t *testing.T, name string) (string, bool) {
	t.Helper()
	n, ok := policy.SyscallNumber(runtime.GOARCH, name)
	return strconv.Itoa(n), ok
}

func TestRefusedCalls(t *testing.T) {
	type line struct{ name, call, want, report string }
	var table []line
	for _, r := range floor.Refusals() {
		if slices.Contains([]string{"unshare", "clone", "prlimit64", "ioctl", "socket", "setsockopt", "personality"}, r.Name) {
			continue // refused with some arguments only: below, and in the table of conformance
		}
		number, ok := syscallNumber(t, r.Name)
		if !ok {
			continue
		}
		report := "syscall " + r.Name
		if r.Quiet {
			report = ""
		}
		table = append(table, line{r.Name, number, unix.ErrnoName(r.Errno), report})
	}
	for _, one := range []line{
		{"unshare", " 0x10000000", "EPERM", "syscall unshare"}, // CLONE_NEWUSER
		{"unshare", " 0x200", "ok", ""},                        // CLONE_FS
		{"unshare", " 0x80", "EPERM", "syscall unshare"},       // CLONE_NEWTIME
		{"clone", " 0x10000011", "EPERM", "syscall clone"},
		{"clone", " 0x40000011", "EPERM", "syscall clone"}, // CLONE_NEWNET
		{"prlimit64", " 1 7 4096 0", "EPERM", "syscall prlimit64"},
		{"prlimit64", " 0 7 0 0", "ok", ""},
		{"personality", " 0x400000", "EPERM", "syscall personality"}, // READ_IMPLIES_EXEC
		{"personality", " 0xffffffff", "ok", ""},
		{"prctl", " 4 0", "EPERM", ""}, // PR_SET_DUMPABLE
		{"prctl", " 4 1", "ok", ""},
	} {
		number, ok := syscallNumber(t, one.name)
		if !ok {
			t.Fatalf("no number for %s", one.name)
		}
		one.call = number + one.call
		table = append(table, one)
	}
	if runtime.GOARCH == "amd64" {
		table = append(table, line{"x32 getpid", strconv.Itoa(0x40000000 | 39), "ENOSYS", ""})
		table = append(table, line{"a call of a newer kernel", strconv.Itoa(policy.LastSyscall(runtime.GOARCH) + 1), "ENOSYS", ""})
	}
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, bypassPolicy)
		var actions []action
		for _, one := range table {
			actions = append(actions, append(action{"call"}, strings.Fields(one.call)...))
		}
		var wanted, got []string
		for i, result := range a.probe(actions) {
			if result != table[i].want {
				t.Errorf("%s(%s) answered %s, want %s", table[i].name, table[i].call, result, table[i].want)
			}
			if table[i].report != "" {
				wanted = append(wanted, table[i].report)
			}
		}
		for _, v := range a.reported() {
			got = append(got, shortReport(a, v))
			tried := strings.HasPrefix(v.Target, "io_uring_") // what honest programs try is recorded and no violation
			if want := map[bool]string{true: journal.Log, false: journal.Block}[tried]; v.Decision != want {
				t.Errorf("%s is recorded as %s, want %s", v.Target, v.Decision, want)
			}
		}
		compareReports(t, got, wanted)
	})
}

func TestOtherArchitectureIsKilled(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("int 0x80 is of amd64")
	}
	needLandlock(t)
	a := newAgent(t, os.Getuid(), bypassPolicy)
	plain := exec.Command(a.self, roleProbe+"-i386")
	if err := plain.Run(); err != nil {
		t.Skipf("this kernel runs no i386 calls (%v): there is nothing to get around", err)
	}
	cmd := a.command(a.self, roleProbe+"-i386")
	_ = cmd.Run()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != unix.SIGSYS {
		t.Errorf("an i386 call ended with %v, want it killed by SIGSYS", cmd.ProcessState)
	}
}

func TestWardenIsOutOfReach(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, bypassPolicy)
		bypassFiles(a)
		cmd := a.command(a.self, roleProbe+"-lines")
		in, err := cmd.StdinPipe()
		a.must(err)
		out, err := cmd.StdoutPipe()
		a.must(err)
		a.must(cmd.Start())
		defer cmd.Process.Kill()
		lines := bufio.NewScanner(out)
		ask := func(words string) string {
			fmt.Fprintln(in, words)
			if !lines.Scan() {
				t.Fatalf("%s: the agent ended", words)
			}
			return lines.Text()
		}
		if got := ask("open " + a.folder + "/r/file r"); got != "ok" {
			t.Fatalf("a granted file: %s", got)
		}
		pid := strconv.Itoa(a.wardenPID())
		number := func(name string) string {
			n, _ := syscallNumber(t, name)
			return n
		}
		for _, one := range []struct{ do, want string }{
			{"kill " + pid + " 9", "EPERM"},
			{"kill " + pid + " 19", "EPERM"},
			{"kill " + pid + " 0", "EPERM"},
			{"call " + number("ptrace") + " 16 " + pid, "EPERM"},
			{"call " + number("prlimit64") + " " + pid + " 7 4096", "EPERM"},
			{"open /proc/" + pid + "/mem r", "EACCES"},
			{"open /proc/" + pid + "/fd/0 r", "EACCES"},
			{"open /proc/" + pid + "/root/etc/passwd r", "EACCES"},
			{"open /proc/" + pid + "/environ r", "EACCES"},
			{"open /proc/" + pid + "/oom_score_adj w", "EACCES"},
			{"open /proc/" + strconv.Itoa(os.Getpid()) + "/environ r", "EACCES"},
			{"open /proc/" + strconv.Itoa(os.Getpid()) + "/cwd/x r", "EACCES"},
		} {
			if got := ask(one.do); got != one.want {
				t.Errorf("%s answered %s, want %s", one.do, got, one.want)
			}
		}

		// Dead, it takes with it all that was decided.
		a.must(unix.Kill(a.wardenPID(), unix.SIGKILL))
		a.waitForWarden()
		for _, one := range []string{"open FOLDER/no/file r", "open FOLDER/r/file r", "open FOLDER/w/file w", "open FOLDER/g/a.txt r",
			"unlink FOLDER/w/file", "mkdir FOLDER/w/new", "chmod FOLDER/w/file 0600", "exec SELF"} {
			if got := ask(a.expand(one)); got != "ENOSYS" {
				t.Errorf("without a warden, %s answered %s, want ENOSYS", one, got)
			}
		}
	})
}

func TestRacesGainNothing(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, bypassPolicy)
		bypassFiles(a)
		results := a.probe([]action{
			{"race-pointer", a.folder + "/r/file", a.folder + "/no/file"},
			{"race-pointer", a.folder + "/g/a.txt", a.folder + "/no/a.txt"},
			{"race-link", a.folder + "/w/flip", a.folder + "/r/file", a.folder + "/no/file"},
			{"race-link", a.folder + "/w/flip2", a.folder + "/g/a.txt", a.folder + "/no/a.txt"},
			{"race-folder", a.folder + "/w/", a.folder + "/no"},
		})
		for i, result := range results {
			if result != "ok" {
				t.Errorf("race %d: %s", i, result)
			}
		}
	})
}

// cgroup2Mount is where cgroup2 is mounted.
func cgroup2Mount(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); fields[2] == "cgroup2" {
			return fields[1]
		}
	}
	t.Skip("no cgroup2 here to escape to")
	return ""
}

// secondMount mounts a file system in the test's folder until the test ends, as a host that has it mounted twice.
func (a *agent) secondMount(kind, name string) string {
	a.t.Helper()
	a.mkdir(name)
	point := filepath.Join(a.folder, name)
	if err := unix.Mount(kind, point, kind, 0, ""); err != nil {
		a.t.Skipf("mount %s: %v", kind, err)
	}
	a.mounted = append(a.mounted, point)
	a.t.Cleanup(func() { a.must(unix.Unmount(point, 0)) })
	return point
}

func TestUngovernedFilesOfRoot(t *testing.T) {
	needLandlock(t)
	if os.Getuid() != 0 {
		t.Skip("what root owns is closed to agents of root only")
	}
	a := newAgent(t, 0, "mode: enforce\n")
	a.mkdir("a/sub")
	a.mkdir("b")
	a.write("c/file", "granted")
	a.write("state/journal/0", "an entry")
	cgroup := cgroup2Mount(t)
	a.secondMount("bpf", "pins")
	a.mkdir("pins/guard")
	a.mkdir("a/alias")
	a.must(unix.Mount(a.folder+"/state", a.folder+"/a/alias", "", unix.MS_BIND, ""))
	defer unix.Unmount(a.folder+"/a/alias", 0)
	a.probeTable([]conformance{
		{"leave the cgroup", action{"open", cgroup + "/cgroup.procs", "w"}, "EACCES", ""},
		{"another cgroup", action{"mkdir", cgroup + "/raypher-test-mine"}, "EACCES", ""},
		{"a setting of the kernel", action{"open", "/proc/sys/kernel/core_pattern", "w"}, "EACCES", ""},
		{"a switch in sysfs", action{"open", "/sys/kernel/mm/transparent_hugepage/enabled", "w"}, "EACCES", ""},
		{"remove from bpffs", action{"rmdir", "FOLDER/pins/guard"}, "EACCES", ""},
		{"make in bpffs", action{"mkdir", "FOLDER/pins/mine"}, "EACCES", ""},
		{"read the state", action{"open", "FOLDER/state/journal/0", "r"}, "EACCES", ""},
		{"read it where it is mounted too", action{"open", "FOLDER/a/alias/journal/0", "r"}, "EACCES", ""},
		{"remove from it there", action{"unlink", "FOLDER/a/alias/journal/0"}, "EACCES", ""},
		{"write the state", action{"open", "FOLDER/state/journal/0", "w"}, "EACCES", ""},
		{"remove from the state", action{"unlink", "FOLDER/state/journal/0"}, "EACCES", ""},
		{"make in the state", action{"put", "FOLDER/state/journal/1", "w,creat", "x"}, "EACCES", ""},
		{"rename the state", action{"rename", "FOLDER/state", "FOLDER/a/state"}, "EACCES", ""},
		{"exchange the state", action{"exchange", "FOLDER/state", "FOLDER/a/sub"}, "EACCES", ""},
		{"rename what they lie in", action{"rename", "FOLDER", "FOLDER-moved"}, "EACCES", ""},
		{"forge a record", action{"put", "FOLDER/run/forged.json", "w,creat", "x"}, "EACCES", ""},
		{"replace the daemon's socket", action{"rename", "FOLDER/run/verdicts", "FOLDER/run/away"}, "EACCES", ""},
		{"link it out", action{"link", "FOLDER/state/journal/0", "FOLDER/b/entry"}, "EXDEV", ""},
		{"write beside", action{"put", "FOLDER/a/sub/new", "w,creat", "x"}, "ok", ""},
		{"rename beside", action{"rename", "FOLDER/c/file", "FOLDER/b/file"}, "ok", ""},
		{"read beside", action{"content", "FOLDER/b/file", "granted"}, "ok", ""},
		{"run anything", action{"exec", "/bin/true"}, "ok", ""},
		{"a signal to outside", action{"kill", strconv.Itoa(os.Getpid()), "0"}, "EPERM", "signal process " + strconv.Itoa(os.Getpid())},
		{"a signal to outside by descriptor", action{"kill-pidfd", "1", "0"}, "EPERM", "signal process 1"},
	})
}

func TestUngovernedFilesOfAUser(t *testing.T) {
	cgroup := cgroup2Mount(t)
	asUsers(t, func(t *testing.T, uid int) {
		if uid == 0 {
			t.Skip("root has a table of its own")
		}
		a := newAgent(t, uid, "mode: enforce\n")
		other := fmt.Sprintf("%s/raypher-test-%d", cgroup, os.Getpid())
		if err := os.Mkdir(other, 0o755); err != nil {
			t.Skipf("another agent's cgroup: %v", err)
		}
		defer os.Remove(other)
		freeze := filepath.Join(other, "cgroup.freeze") // as if it were the user's
		a.must(os.Chown(freeze, uid, uid))
		a.probeTable([]conformance{
			{"thaw another agent of the same user", action{"open", freeze, "w"}, "EACCES", ""},
			{"see whether it is frozen", action{"open", freeze, "r"}, "ok", ""},
			{"write", action{"put", "FOLDER/new", "w,creat", "x"}, "ok", ""},
			{"write in /tmp", action{"tmpfile", "/tmp", "FOLDER/named"}, "ok", ""},
			{"rename", action{"rename", "FOLDER/new", "FOLDER/newer"}, "ok", ""},
			{"its own score", action{"put", "/proc/self/oom_score_adj", "w", "900"}, "ok", ""},
		})
	})
}

func TestKernelFileSystemsMountedElsewhere(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	cgroup2Mount(t)
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, `
mode: enforce
filesystem: {read: [LIBRARIES, SELF, FOLDER/**], write: [FOLDER/**], exec: [SELF]}
`)
		a.write("w/file", "text")
		cgroup := a.secondMount("cgroup2", "w/cg")
		proc := a.secondMount("proc", "w/pr oc")
		a.probeTable([]conformance{
			{"leave the cgroup", action{"put", cgroup + "/cgroup.procs", "w", "0"}, "EACCES", "open-write w/cg/cgroup.procs"},
			{"a cgroup of its own", action{"mkdir", cgroup + "/mine"}, "EACCES", "mkdir w/cg/mine"},
			{"a setting of the kernel", action{"open", proc + "/sys/kernel/core_pattern", "w"}, "EACCES", "open-write w/pr oc/sys/kernel/core_pattern"},
			{"write beside", action{"put", "FOLDER/w/new", "w,creat", "x"}, "ok", ""},
			{"read beside", action{"content", "FOLDER/w/file", "text"}, "ok", ""},
		})
	})
}

func TestOtherProcesses(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		other := exec.Command("/bin/sleep", "1000")
		if os.Getuid() == 0 {
			other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
		}
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		defer other.Wait()
		defer other.Process.Kill()
		pid, group := strconv.Itoa(other.Process.Pid), strconv.Itoa(unix.Getpgrp())
		call := func(name string, args ...string) action {
			number, ok := syscallNumber(t, name)
			if !ok {
				t.Fatalf("no number for %s", name)
			}
			return append(action{"call", number}, args...)
		}
		a := newAgent(t, uid, bypassPolicy)
		a.flags = []string{"--signals"}
		a.probeTable([]conformance{
			{"its own priority", call("setpriority", "0", "0", "1"), "ok", ""},
			{"its own by number", action{"self-priority"}, "ok", ""},
			{"another's", call("setpriority", "0", pid, "19"), "EPERM", "schedule process " + pid},
			{"the priority of a group", call("setpriority", "1", group, "19"), "EPERM", "schedule process group " + group},
			{"the user's", call("setpriority", "2", "0", "19"), "EPERM", "schedule all processes of the user"},
			{"another's class", call("sched_setscheduler", pid, "5", "0"), "EPERM", "schedule process " + pid},
			{"another's processors", call("sched_setaffinity", pid, "8", "0"), "EPERM", "schedule process " + pid},
			{"another's disk class", call("ioprio_set", "1", pid, "0x6000"), "EPERM", "schedule process " + pid},
			{"another's memory", call("migrate_pages", pid, "0", "0", "0"), "EPERM", "schedule process " + pid},
			{"nobody's", call("sched_setscheduler", "0x3fffffff", "5", "0"), "ESRCH", ""},
			{"signal another", action{"kill", pid, "0"}, "EPERM", "signal process " + pid},
			{"stop another", action{"kill", pid, "19"}, "EPERM", "signal process " + pid},
			{"signal another's thread", call("tgkill", pid, pid, "0"), "EPERM", "signal process " + pid},
			{"queue a signal", call("rt_sigqueueinfo", pid, "10", "0"), "EPERM", "signal process " + pid},
			{"signal by descriptor", action{"kill-pidfd", pid, "0"}, "EPERM", "signal process " + pid},
			{"signal everyone", action{"kill", "-1", "0"}, "EPERM", "signal all processes of the user"},
			{"signal itself", action{"kill-self"}, "ok", ""},
		})
	})
}

func TestSilenceRefuses(t *testing.T) {
	needLandlock(t)
	call := func(name string, args ...string) action {
		number, _ := syscallNumber(t, name)
		return append(action{"call", number}, args...)
	}
	a := newAgent(t, os.Getuid(), bypassPolicy)
	a.probeTable([]conformance{
		{"join a group", action{"join", "4"}, "EPERM", "socket multicast membership, option 35"},
		{"join a group of IPv6", action{"join", "6"}, "EPERM", "socket multicast membership, option 20"},
		{"another option", action{"join", "0"}, "ok", ""},
		{"shared memory", call("shmget", "0", "4096", "0x3b6"), "EPERM", "syscall shmget"},
		{"a message queue", call("mq_open", "0", "0"), "EPERM", "syscall mq_open"},
		{"an attribute by path", action{"getxattr", "/etc/passwd"}, "ENOTSUP", ""},
	})
	a = newAgent(t, os.Getuid(), bypassPolicy+"syscalls: {setsockopt: allow, shmget: log, shmctl: allow}\n")
	a.probeTable([]conformance{
		{"join a group", action{"join", "4"}, "ok", ""},
		{"shared memory that nobody has", call("shmget", "0x7e57ab1e", "4096", "0"), "ENOENT", "syscall shmget"},
		{"attach", call("shmat", "0x7fffffff", "0", "0"), "EPERM", "syscall shmat"},
	})
}

func TestNotes(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		for _, tt := range []struct {
			policy, note string
			root         bool // only said to root
		}{
			{"mode: enforce\nfilesystem: {read: [LIBRARIES, SELF], write: [FOLDER/**], exec: [SELF]}\n", "it can change the rules of its next run", false},
			{"mode: enforce\n", "the policy governs no files: as root", true},
		} {
			a := newAgent(t, uid, tt.policy)
			a.flags = []string{"--loud"}
			_, stderr, code := a.run(a.self, roleProbe, "exit")
			if said := strings.Contains(stderr, tt.note); code != 0 || said != (uid == 0 || !tt.root) {
				t.Errorf("status %d, said %q: %v\n%s", code, tt.note, said, stderr)
			}
		}
	})
}

func TestSetIDBits(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		for name, text := range map[string]string{"files governed": bypassPolicy, "files not governed": "mode: enforce\n"} {
			t.Run(name, func(t *testing.T) {
				a := newAgent(t, uid, text)
				bypassFiles(a)
				a.mkdir("w/folder")
				a.probeTable([]conformance{
					{"chmod", action{"chmod", "FOLDER/w/file", "04755"}, "EPERM", "chmod w/file"},
					{"chmod of the group", action{"chmod", "FOLDER/w/file", "02755"}, "EPERM", "chmod w/file"},
					{"fchmod", action{"fchmod", "FOLDER/w/file", "06755"}, "EPERM", "chmod w/file"},
					{"a folder's group", action{"chmod", "FOLDER/w/folder", "02755"}, "ok", ""},
					{"a folder's user", action{"chmod", "FOLDER/w/folder", "04755"}, "EPERM", "chmod w/folder"},
					{"create", action{"create-mode", "FOLDER/w/new", "04755"}, "EPERM", "create w/new"},
					{"mknod", action{"mknod", "FOLDER/w/node", "0104755"}, "EPERM", "mknod mode 4755"},
					{"without", action{"chmod", "FOLDER/w/file", "0755"}, "ok", ""},
					{"sticky", action{"chmod", "FOLDER/w/folder", "01777"}, "ok", ""},
					{"flags of a file", action{"ioctl", "0x40086602"}, "EPERM", "ioctl FS_IOC_SETFLAGS"},
				})
			})
		}
	})
}

func TestNoRuleOpensTheGuardsOwnFiles(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, `
mode: enforce
filesystem: {read: ["/**"], write: ["/**"], exec: ["/**"]}
`)
		results := a.probe([]action{
			{"open", a.folder + "/run/verdicts", "r"},
			{"open", a.folder + "/run/verdicts", "w"},
			{"unlink", a.folder + "/run/verdicts"},
			{"put", a.folder + "/run/new", "w,creat", "x"},
			{"open", "/proc/sys/kernel/core_pattern", "w"},
			{"put", a.folder + "/new", "w,creat", "x"},
			{"content", a.folder + "/new", "x"},
			{"rename", a.folder + "/new", a.folder + "/new2"},
			{"content", a.folder + "/run/verdicts.visa", "the visa"},
		})
		want := []string{"EACCES", "EACCES", "EACCES", "EACCES", "EACCES", "ok", "ok", "ok", "ok"}
		if !slices.Equal(results, want) {
			t.Errorf("answered %q, want %q", results, want)
		}
	})
}
