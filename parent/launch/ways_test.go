package launch

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Ways around a rule that once led to what it does not grant, or could.

// TestRenamesRaceForNothing: the warden renames and links by itself, so that names which change meanwhile widen nothing.
func TestRenamesRaceForNothing(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, `
mode: enforce
filesystem:
  read: [LIBRARIES, SELF, FOLDER/blind/p.txt]
  write: [FOLDER/blind/**]
  exec: [SELF]
`)
		a.mkdir("blind")
		blind := a.folder + "/blind/"
		for i, result := range a.probe([]action{
			{"race-rename", blind + "file", blind + "plain", blind + "p.txt"},
			{"race-rename", blind + "file", blind + "plain", blind + "p.txt", "link"},
		}) {
			if result != "ok" {
				t.Errorf("race %d: %s", i, result)
			}
		}
	})
}

// TestWidenedGrantsNothing: a raypherd that was told lies about a permit cannot make the warden open what the launch did not grant.
func TestWidenedGrantsNothing(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, bypassPolicy)
		bypassFiles(a)
		a.write("run/verdicts"+narrowSuffix, "mode: enforce\nfilesystem: {read: [/**], write: [/**], exec: [/**]}\n")
		// The program may not even start: the narrowed permit may come first.
		cmd := a.command(a.self, roleProbe+"-lines")
		cmd.Stdin = strings.NewReader("until-made " + a.folder + "/no/new\n")
		_ = cmd.Run()
		a.waitForWarden()
		if _, err := os.Stat(a.folder + "/no/new"); err == nil {
			t.Error("a file was made that only the permit of the lie grants")
		}
	})
}

// TestExpectedGrantsNothing: what raypherd expected to be granted counts for nothing where something else is, wider or narrower,
// even where it could not be run under.
func TestExpectedGrantsNothing(t *testing.T) {
	for name, expected := range map[string]string{
		"wider":               "mode: enforce\nfilesystem: {read: [/**], write: [/**], exec: [/**]}\nsyscalls: {ptrace: deny}\n",
		"nothing refused":     "mode: audit\nnetwork: {}\n",
		"without files":       "mode: enforce\nnetwork: {}\n",
		"without the program": "mode: enforce\nfilesystem: {}\n",
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, 0, bypassPolicy)
			bypassFiles(a)
			a.write("run/verdicts"+expectSuffix, expected)
			cmd := a.command(a.self, roleProbe+"-lines")
			cmd.Stdin = strings.NewReader("open " + a.folder + "/no/new w,creat\nopen " + a.folder + "/w/new w,creat\n")
			out, err := cmd.CombinedOutput()
			a.waitForWarden()
			if _, missing := os.Stat(a.folder + "/w/new"); err != nil || missing != nil {
				t.Errorf("what is granted: %v, %v: %s", err, missing, out)
			}
			if _, err := os.Stat(a.folder + "/no/new"); err == nil {
				t.Error("a file was made that only the expected permit grants")
			}
		})
	}
}

// TestOnlyOwnFilesOfProc: a rule on one's own files in /proc opens no others, by whatever way a path leads there.
func TestOnlyOwnFilesOfProc(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, `
mode: enforce
filesystem:
  read: [/usr/**, /lib/**, /lib64/**, /etc/**, /sys/kernel/mm/transparent_hugepage/**, /proc/self/**, /proc/uptime, SELF, FOLDER/w/**]
  exec: [SELF]
`)
		a.mkdir("w")
		a.must(os.Symlink("/proc/self/task/1/../../../1/cmdline", filepath.Join(a.folder, "w/link")))
		table := []struct {
			do   action
			want string
		}{
			{action{"open", "/proc/self/comm", "r"}, "ok"},
			{action{"open", "/proc/self/net/dev", "r"}, "ok"},
			{action{"open", "/proc/uptime", "r"}, "ok"},
			{action{"open", "/proc/version", "r"}, "EACCES"},
			{action{"open", "/proc/1/cmdline", "r"}, "EACCES"},
			{action{"past-thread", "1/cmdline"}, "EACCES"},
			{action{"past-thread", "self/comm"}, "ok"},
			{action{"open", a.folder + "/w/link", "r"}, "ENOENT"},
			{action{"openat2-in", "/proc", "1/cmdline", "r", "1"}, "EACCES"}, // RESOLVE_NO_XDEV
			{action{"openat2-in", "/proc", "1/cmdline", "r", "2"}, "EACCES"}, // RESOLVE_NO_MAGICLINKS
			{action{"openat2-in", "/proc", "1/cmdline", "r", "4"}, "EACCES"}, // RESOLVE_NO_SYMLINKS
			{action{"openat2-in", "/proc", "version", "r", "8"}, "EACCES"},   // RESOLVE_BENEATH
			{action{"openat2-in", "/proc", "self/comm", "r", "8"}, "EACCES"}, // which self the broker cannot say
			{action{"openat2-in", "/proc", "uptime", "r", "8"}, "ok"},
			{action{"openat2", "/proc/uptime", "r", "4"}, "ok"},
		}
		var actions []action
		for _, one := range table {
			actions = append(actions, one.do)
		}
		for i, result := range a.probe(actions) {
			if result != table[i].want {
				t.Errorf("%q answered %s, want %s", table[i].do, result, table[i].want)
			}
		}
	})
}

// TestDenyInProc: what is denied in /proc leaves the folders of processes open that did not exist when the agent started.
func TestDenyInProc(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, `
mode: enforce
filesystem: {read: ["/**"], exec: ["/**"], deny: [/proc/uptime, /proc/sys/kernel/**]}
`)
		results := a.probe([]action{
			{"open", "/proc/self/comm", "r"}, {"open", "/proc/version", "r"},
			{"open", "/proc/uptime", "r"}, {"open", "/proc/sys/kernel/ostype", "r"}, {"open", "/proc/sys/vm/swappiness", "r"},
			{"exec", "/bin/cat", "/proc/self/status"},
		})
		if want := []string{"ok", "ok", "EACCES", "EACCES", "ok", "ok"}; !slices.Equal(results, want) {
			t.Errorf("answered %q, want %q", results, want)
		}
	})
}

// TestKernelFilesMountedElsewhere: what the kernel offers in its own file systems is never written, also where somebody mounted
// them inside a granted tree.
func TestKernelFilesMountedElsewhere(t *testing.T) {
	needLandlock(t)
	if os.Getuid() != 0 {
		t.Skip("mounting needs root, and so does writing these files")
	}
	a := newAgent(t, 0, bypassPolicy)
	bypassFiles(a)
	var actions []action
	for _, one := range []struct {
		kind  string
		files []string
	}{
		{"proc", []string{"self/oom_score_adj", "sys/kernel/core_pattern"}},
		{"cgroup2", []string{"cgroup.procs"}},
		{"sysfs", []string{"kernel/mm/transparent_hugepage/enabled"}},
	} {
		path := filepath.Join(a.folder, "w", one.kind)
		a.must(os.Mkdir(path, 0o755))
		if err := unix.Mount("none", path, one.kind, unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
			t.Skipf("mount %s: %v", one.kind, err)
		}
		t.Cleanup(func() { unix.Unmount(path, unix.MNT_DETACH) })
		for _, file := range one.files {
			actions = append(actions, action{"open", filepath.Join(path, file), "w"})
		}
	}
	actions = append(actions, action{"mkdir", a.folder + "/w/cgroup2/raypher-test-made"}, action{"chmod", a.folder + "/w/cgroup2/cgroup.procs", "0666"},
		action{"put", a.folder + "/w/file", "w", "x"})
	want := slices.Repeat([]string{"EACCES"}, len(actions))
	want[len(want)-1] = "ok"
	if results := a.probe(actions); !slices.Equal(results, want) {
		t.Errorf("%q answered %q, want %q", actions, results, want)
	}
	refused := map[string]bool{}
	for _, v := range a.reported() {
		refused[v.Target] = v.Layer == "broker" && v.Rule != ""
	}
	for _, one := range actions[:len(actions)-1] {
		if !refused[one[1]] && one[1] != actions[0][1] { // the first one is reported below /proc/<pid>
			t.Errorf("the broker did not refuse and report %q: %v", one, refused)
		}
	}
}
