package launch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal"
)

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
