package cgroup

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// open makes a parent cgroup of its own for one test and removes it afterwards.
func open(t *testing.T) *Parent {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making cgroups needs root")
	}
	var suffix [4]byte
	rand.Read(suffix[:])
	p, err := Open("raypher-test-" + hex.EncodeToString(suffix[:]))
	if errors.Is(err, ErrNoCgroup2) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), p.Remove()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func group(t *testing.T, p *Parent, id string) *Group {
	t.Helper()
	g, err := p.Create(id, os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Kill(), g.Remove()); err != nil {
			t.Error(err)
		}
	})
	return g
}

// start runs a shell script that begins once the process is inside the group.
func start(t *testing.T, g *Group, l Limits, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read go; "+script)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if err := errors.Join(g.Add(cmd.Process.Pid), g.Limit(l, cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "go")
	return cmd
}

// eventually waits for what the kernel does in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

func TestLifeOfAGroup(t *testing.T) {
	p := open(t)
	g := group(t, p, "one")
	cmd := start(t, g, Limits{}, "sleep 1000 & sleep 1000")

	if agent, inside, err := p.Contains(cmd.Process.Pid); err != nil || !inside || agent != "one" {
		t.Errorf("Contains = %q, %v, %v; want one", agent, inside, err)
	}
	if _, inside, err := p.Contains(os.Getpid()); err != nil || inside {
		t.Errorf("the test itself is inside an agent: %v, %v", inside, err)
	}
	found, err := p.Find("one")
	if err != nil || found.ID() != g.ID() || g.ID() == 0 {
		t.Errorf("Find = %+v, %v", found, err)
	}
	if _, err := p.Find("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Find of a missing agent: %v", err)
	}
	eventually(t, "two processes", func() bool {
		pids, err := g.Processes()
		return err == nil && len(pids) == 3
	})

	empty, err := g.Empty()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Freeze(true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "frozen", g.Frozen)
	select {
	case <-empty:
		t.Error("a frozen group counts as empty")
	default:
	}
	// Killing works on a frozen group.
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	<-empty
	if g.Populated() {
		t.Error("populated after the kill")
	}
}

func TestEmptyAtOnce(t *testing.T) {
	g := group(t, open(t), "empty")
	empty, err := g.Empty()
	if err != nil {
		t.Fatal(err)
	}
	<-empty
}

func TestEvict(t *testing.T) {
	g := group(t, open(t), "one")
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	before, err := Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(g.Add(cmd.Process.Pid), g.Evict(before)); err != nil {
		t.Fatal(err)
	}
	if after, err := Of(cmd.Process.Pid); err != nil || after != before {
		t.Errorf("after the eviction in %s, %v; before in %s", after, err, before)
	}
}

func TestFreezeBelongsToTheWarden(t *testing.T) {
	p := open(t)
	g, err := p.Create("owned", 65534)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Remove()
	for file, want := range map[string]uint32{"cgroup.freeze": 65534, "cgroup.procs": 0, "cgroup.kill": 0, ".": 0} {
		info, err := os.Stat(filepath.Join(g.Path(), file))
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != want {
			t.Errorf("%s belongs to %d, want %d", file, uid, want)
		}
	}
}

// What tells a warden from an operator on the whole host must not be its user's to change.
func TestWardensAreKnownByTheirCgroup(t *testing.T) {
	p, other := open(t), open(t)
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 12345, Gid: 12345}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	is := func(what string, ask func(int) (bool, error), want bool) {
		t.Helper()
		if got, err := ask(cmd.Process.Pid); got != want || err != nil {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	is("a process outside governed", p.Governed, false)
	if err := p.AddWarden(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	is("a warden of its own", p.IsWarden, true)
	is("a warden of another", other.IsWarden, false)
	is("a warden governed", p.Governed, true)
	is("a warden governed, asked by another", other.Governed, true)
	if _, inside, err := p.Contains(cmd.Process.Pid); inside || err != nil {
		t.Errorf("a warden is inside an agent: %v", err)
	}
	out := exec.Command("/bin/sh", "-c", `echo "$1" > "$2"`, "sh", strconv.Itoa(cmd.Process.Pid), filepath.Join(p.mounts.Unified, "cgroup.procs"))
	out.SysProcAttr = cmd.SysProcAttr
	if err := out.Run(); err == nil {
		t.Error("the warden's user took it out")
	}
	is("a warden that its user wants out", p.IsWarden, true)

	// Without agents it guards nothing any more.
	if err := p.Remove(); err != nil {
		t.Error(err)
	}
	<-ended
	if _, err := os.Stat(p.wardens); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of the wardens is left: %v", err)
	}
}

func TestRemoveWithFoldersBelow(t *testing.T) {
	p := open(t)
	g := group(t, p, "deep")
	cmd := start(t, g, Limits{Tasks: 10, MemoryBytes: 64 << 20}, "exit 0")
	cmd.Wait()
	for _, folder := range append([]string{g.Path()}, g.folders...) {
		if err := os.MkdirAll(filepath.Join(folder, "a", "b"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	if left, _ := p.Agents(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestForkBombStaysWithinItsLimit(t *testing.T) {
	p := open(t)
	if notes := p.Notes(Limits{Tasks: 1}); notes != nil {
		t.Skip(notes[0])
	}
	g := group(t, p, "bomb")
	start(t, g, Limits{Tasks: 20}, `while :; do (sleep 1000) & done 2>/dev/null`)
	// At the limit the fork fails and the shell gives up; its children stay, and the count never passes the limit.
	most := 0
	eventually(t, "the bomb reached its limit", func() bool {
		pids, err := g.Processes()
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, len(pids))
		return most >= 19
	})
	for range 50 {
		pids, err := g.Processes()
		if err != nil {
			t.Fatal(err)
		}
		if most = max(most, len(pids)); most > 20 {
			t.Fatalf("%d processes under a limit of 20", most)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestMemoryHogIsKilled(t *testing.T) {
	p := open(t)
	if notes := p.Notes(Limits{MemoryBytes: 1}); notes != nil {
		t.Skip(notes[0])
	}
	tests := []struct {
		name   string
		limit  uint64
		killed bool
	}{
		{"far beyond the limit", 48 << 20, true},
		{"within the limit", 1 << 30, false},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := group(t, p, fmt.Sprint("hog", i))
			// dd touches a buffer of 256 MiB.
			cmd := start(t, g, Limits{MemoryBytes: tt.limit}, `exec dd if=/dev/zero of=/dev/null bs=256M count=1 2>/dev/null`)
			err := cmd.Wait()
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if killed := status.Signaled() && status.Signal() == syscall.SIGKILL; killed != tt.killed {
				t.Errorf("dd with 256 MiB under a limit of %d MiB: %v", tt.limit>>20, err)
			}
		})
	}
}

func TestNotesNameWhatIsNotHeld(t *testing.T) {
	p := &Parent{}
	notes := strings.Join(p.Notes(Limits{MemoryBytes: 1, Tasks: 1}), "\n")
	for _, want := range []string{"max_memory_mb is not held", "max_processes is not held"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes %q lack %q", notes, want)
		}
	}
	if notes := p.Notes(Limits{}); notes != nil {
		t.Errorf("notes without limits: %v", notes)
	}
}

func TestParseMounts(t *testing.T) {
	tests := []struct {
		name, file string
		want       Mounts
		err        error
	}{
		{"hybrid, as systemd 247 and earlier make it", `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw`,
			Mounts{"/sys/fs/cgroup/unified", "/", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/pids"}, nil},
		{"unified", `29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate`,
			Mounts{Unified: "/sys/fs/cgroup", UnifiedRoot: "/"}, nil},
		{"a space in the path", `29 23 0:26 / /mnt/c\040g rw - cgroup2 none rw`, Mounts{Unified: "/mnt/c g", UnifiedRoot: "/"}, nil},
		{"only v1", `35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory`, Mounts{}, ErrNoCgroup2},
		{"nothing", ``, Mounts{}, ErrNoCgroup2},
		{"broken lines", "x - y\n - \n1 2 3 4 5 -\n", Mounts{}, ErrNoCgroup2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseMounts(strings.NewReader(tt.file))
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %+v, %v; want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}
