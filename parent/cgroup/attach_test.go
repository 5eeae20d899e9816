package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// service makes a cgroup of somebody else with a program in it, below another one that is its slice.
func service(t *testing.T, p *Parent) (slice, path string) {
	t.Helper()
	slice = filepath.Join(p.mounts.Unified, p.name[len("raypher-"):]+".slice")
	path = filepath.Join(slice, "some.service")
	if err := os.MkdirAll(path, mode); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(write(filepath.Join(slice, "cgroup.kill"), "1"), removeTree(slice)); err != nil {
			t.Error(err)
		}
	})
	return slice, path
}

func TestWhatCannotBeAttached(t *testing.T) {
	p := open(t)
	slice, path := service(t, p)
	if _, err := p.Attach("a", path); !errors.Is(err, ErrEmpty) {
		t.Errorf("an empty cgroup: %v", err)
	}
	start(t, &Group{parent: p, id: "s", path: path}, Limits{}, "sleep 1000")
	ours := group(t, p, "launched")
	start(t, ours, Limits{}, "sleep 1000")
	for name, tt := range map[string]struct {
		path string
		want error
	}{
		"a cgroup of a service":          {path, nil},
		"its slice":                      {slice, nil},
		"the root":                       {p.mounts.Unified, ErrRoot},
		"another file system":            {"/tmp", nil},
		"an agent's":                     {ours.path, ErrGoverned},
		"that of all agents":             {p.path, ErrGoverned},
		"the root, by a way up":          {path + "/../..", ErrRoot},
		"a folder outside, by a way up":  {p.mounts.Unified + "/../x", nil},
		"a cgroup that does not exist":   {slice + "/nothing", os.ErrNotExist},
		"something that is not a folder": {path + "/cgroup.procs", nil},
	} {
		g, err := p.Attach("a", tt.path)
		if err == nil {
			err = g.Free()
		}
		attachable := tt.path == path || tt.path == slice
		if (err == nil) != attachable || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s (%s): %v, want %v", name, tt.path, err, tt.want)
		}
	}
}

// TestMarked: what is attached is known as governed to every instance, and so is what lies above and below it.
func TestMarked(t *testing.T) {
	p := open(t)
	slice, path := service(t, p)
	program := start(t, &Group{parent: p, id: "s", path: path}, Limits{}, "sleep 1000")
	g, err := p.Attach("a", path)
	if err != nil {
		t.Fatal(err)
	}
	governed := func(want bool) {
		t.Helper()
		if got, err := p.Governed(program.Process.Pid); err != nil || got != want {
			t.Errorf("governed: %v, %v, want %v", got, err, want)
		}
		above, err := p.Attach("b", slice)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range []*Group{g, above} {
			if err := g.Free(); errors.Is(err, ErrGoverned) != want {
				t.Errorf("%s: %v, want governed: %v", g.path, err, want)
			}
		}
	}
	governed(false)
	if err := g.Mark(); err != nil {
		t.Fatal(err)
	}
	governed(true)
	if !p.governed(g.below + "/deeper") {
		t.Error("what lies below is not governed")
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	governed(false)
	if !g.Populated() {
		t.Error("with the mark the cgroup was removed, or its program ended")
	}
}

func TestNamed(t *testing.T) {
	p := open(t)
	slice, path := service(t, p)
	if got, err := p.Named(filepath.Base(slice)); err != nil || got != slice {
		t.Errorf("slice: %s, %v", got, err)
	}
	if got, err := p.Folder(filepath.Join("/", filepath.Base(slice), "some.service")); err != nil || got != path {
		t.Errorf("by the path of /proc: %s, %v", got, err)
	}
	if got, err := p.Folder(path); err != nil || got != path {
		t.Errorf("by its folder: %s, %v", got, err)
	}
	if got, err := p.Named("no-such-unit"); err == nil {
		t.Errorf("no such unit: %s", got)
	}
	if err := os.Mkdir(filepath.Join(path, filepath.Base(slice)), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(slice, "twice-"+p.name+".service"), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(path, "twice-"+p.name+".service"), mode); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Named("twice-" + p.name); err == nil {
		t.Errorf("a name of two units: %s", got)
	}
}

// TestElsewhere: a child that left is counted.
func TestElsewhere(t *testing.T) {
	p := open(t)
	slice, path := service(t, p)
	other := filepath.Join(slice, "other.service")
	if err := os.Mkdir(other, mode); err != nil {
		t.Fatal(err)
	}
	start(t, &Group{parent: p, id: "s", path: path}, Limits{}, "sleep 1000 & echo $! > "+other+"/cgroup.procs; sleep 1000")
	g, err := p.Attach("a", path)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child has left", func() bool {
		threads, children, err := g.Elsewhere()
		return err == nil && threads == 0 && children == 1
	})
}

// TestProcessesBesideOnesThatVanish: who makes and removes cgroups all the time hides no process of another that lies beside them.
func TestProcessesBesideOnesThatVanish(t *testing.T) {
	p := open(t)
	slice, path := service(t, p)
	program := start(t, &Group{parent: p, id: "s", path: path}, Limits{}, "sleep 1000")
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
			}
			first := filepath.Join(slice, "a.first") // listed before some.service
			if os.Mkdir(first, mode) == nil {
				os.Remove(first)
			}
		}
	}()
	defer func() { close(stop); <-ended }()
	g, err := p.Attach("a", slice)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		if pids, err := g.Processes(); err != nil || !slices.Contains(pids, program.Process.Pid) {
			t.Fatalf("at look %d: %v, %v, want %d", i, pids, err, program.Process.Pid)
		}
	}
}
