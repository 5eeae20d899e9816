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
	"time"

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
		if slices.Contains([]string{"unshare", "clone", "prlimit64", "ioctl", "socket"}, r.Name) {
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

func TestNarrowed(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, bypassPolicy)
		bypassFiles(a)
		a.must(os.Symlink("../r/file", filepath.Join(a.folder, "w/tor")))
		a.write("run/verdicts"+narrowSuffix, a.expand(`
mode: enforce
filesystem:
  read: [LIBRARIES, SELF, FOLDER/r/**, "FOLDER/g/*.txt"]
  write: ["FOLDER/g/*.txt"]
  exec: [SELF]
`))
		table := []conformance{
			{"wait for it", action{"until-refused", "w/file"}, "ok", "open-read w/file"},
			{"read in a tree", action{"content", "r/file", "granted"}, "ok", ""},
			{"read what is not granted any more", action{"open", "w/file", "r"}, "EACCES", ""},
			{"write what is not granted any more", action{"open", "w/file", "w"}, "EACCES", "open-write w/file"},
			{"create", action{"open", "w/new", "w,creat"}, "EACCES", "create w/new"},
			{"unlink", action{"unlink", "w/file"}, "EACCES", "unlink w/file"},
			{"rename", action{"rename", "w/file", "w/file2"}, "EACCES", "rename w/file"},
			{"write by glob", action{"put", "g/a.txt", "w,trunc", "granted"}, "ok", ""},
			{"create by glob", action{"put", "g/new.txt", "w,creat,excl", "x"}, "ok", ""},
			{"own status", action{"open", "/proc/self/status", "r"}, "ok", ""},
			{"null", action{"put", "/dev/null", "w", "x"}, "ok", ""},
			{"through a link", action{"content", "w/tor", "granted"}, "ok", ""},
			{"what does not exist", action{"open", "r/nothing", "r"}, "ENOENT", ""},
			{"the visa", action{"content", "FOLDER/run/verdicts.visa", "a narrower visa"}, "ok", ""},
			{"exec", action{"exec", a.self, roleProbe, "exit"}, "ok", ""},
			{"a pipe by name", action{"pipe"}, "ok", ""},
		}
		var actions []action
		for _, c := range table {
			one := slices.Clone(c.do)
			for j := range one {
				one[j] = a.expand(one[j])
			}
			actions = append(actions, one)
		}
		var wanted, got []string
		for i, result := range a.probe(actions) {
			if result != table[i].want {
				t.Errorf("%s: %q answered %s, want %s", table[i].name, table[i].do, result, table[i].want)
			}
			if table[i].report != "" {
				wanted = append(wanted, table[i].report)
			}
		}
		for _, v := range a.reported() {
			got = append(got, shortReport(a, v))
		}
		compareReports(t, got, wanted)
	})
}

func TestDryRunRefusesNothing(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, bypassPolicy)
		bypassFiles(a)
		a.flags = []string{"--dry-run"}
		results := a.probe([]action{
			{"open", a.folder + "/no/file", "r"}, {"put", a.folder + "/no/new", "w,creat", "x"}, {"unlink", a.folder + "/no/new"},
			{"mkdir", a.folder + "/no/made"}, {"chmod", a.folder + "/no/file", "0600"}, {"rename", a.folder + "/no/file", a.folder + "/no/b"},
			{"exec", "/bin/true"}, {"socket", "16", "3", "15"}, {"call", "272", "0x200"},
		})
		for i, result := range results {
			if result != "ok" {
				t.Errorf("action %d answered %s in a dry run", i, result)
			}
		}
		seen := map[string]bool{}
		for _, v := range a.reported() {
			if v.Decision != journal.WouldBlock {
				t.Errorf("decision %s in a dry run: %+v", v.Decision, v)
			}
			seen[v.Operation] = true
		}
		for _, operation := range []string{"open-read", "create", "unlink", "mkdir", "chmod", "rename", "exec", "socket"} {
			if !seen[operation] {
				t.Errorf("%s was not reported as would-block", operation)
			}
		}
	})
}

func TestSyscallsByName(t *testing.T) {
	needLandlock(t)
	a := newAgent(t, os.Getuid(), `
mode: enforce
syscalls: {sync: log, setpriority: deny, getpriority: allow}
`)
	bypassFiles(a)
	number := func(name string) string {
		n, _ := syscallNumber(t, name)
		return n
	}
	results := a.probe([]action{
		{"call", number("sync")}, {"call", number("setpriority"), "0", "0", "5"}, {"call", number("getpriority"), "0", "0"},
		{"open", a.folder + "/no/file", "r"}, // files are not governed
		{"content", "ENV:RAYPHER_VISA", "the visa"},
	})
	if want := []string{"ok", "EPERM", "ok", "ok", "ok"}; !slices.Equal(results, want) {
		t.Errorf("answered %q, want %q", results, want)
	}
	var got []string
	for _, v := range a.reported() {
		got = append(got, v.Decision+" "+v.Target+" "+v.Rule)
	}
	slices.Sort(got)
	if want := []string{"block setpriority syscalls: setpriority: deny", "log sync "}; !slices.Equal(got, want) {
		t.Errorf("reported %q, want %q", got, want)
	}
}

func TestKillOnViolation(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, bypassPolicy+"on_violation: kill\n")
		bypassFiles(a)
		cmd := a.command(a.self, roleProbe+"-lines")
		cmd.Stdin = strings.NewReader("put " + a.folder + "/no/file w,trunc x\nmkdir " + a.folder + "/w/after\n")
		started := time.Now()
		_ = cmd.Run()
		if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != unix.SIGKILL {
			t.Errorf("it ended with %v after %v, want it killed", cmd.ProcessState, time.Since(started))
		}
		a.waitForWarden()
		if raw, err := os.ReadFile(a.folder + "/no/file"); err != nil || string(raw) != "secret" {
			t.Errorf("the refused call had an effect: %q, %v", raw, err)
		}
		if _, err := os.Stat(a.folder + "/w/after"); err == nil {
			t.Error("it went on after the violation")
		}
		if len(a.reported()) != 1 {
			t.Errorf("reported %+v, want one", a.reported())
		}
	})
}

func TestUngovernedFilesOfRoot(t *testing.T) {
	needLandlock(t)
	if os.Getuid() != 0 {
		t.Skip("what root owns is closed to agents of root only")
	}
	a := newAgent(t, 0, "mode: enforce\n")
	a.mkdir("a")
	a.mkdir("b")
	a.write("a/file", "granted")
	cgroup := ""
	mounts, err := os.ReadFile("/proc/self/mounts")
	a.must(err)
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); fields[2] == "cgroup2" {
			cgroup = fields[1]
		}
	}
	if cgroup == "" {
		t.Skip("no cgroup2 here to escape to")
	}
	results := a.probe([]action{
		{"open", cgroup + "/cgroup.procs", "w"},
		{"open", "/proc/sys/kernel/core_pattern", "w"},
		{"open", "/sys/kernel/mm/transparent_hugepage/enabled", "w"},
		{"put", a.folder + "/new", "w,creat", "x"},
		{"rename", a.folder + "/a/file", a.folder + "/b/file"},
		{"content", a.folder + "/b/file", "granted"},
		{"exec", "/bin/true"},
		{"kill", strconv.Itoa(os.Getpid()), "0"},
	})
	if want := []string{"EACCES", "EACCES", "EACCES", "ok", "ok", "ok", "ok", "EPERM"}; !slices.Equal(results, want) {
		t.Errorf("answered %q, want %q", results, want)
	}
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
