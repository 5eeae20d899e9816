package broker

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/floor"
	"github.com/raypher/raypher/policy"
)

// asking is a worker under a permit for files, of which the floor grants the folder, that this process asks itself.
func asking(folder string, files *policy.Filesystem) *worker {
	permit := &policy.Policy{Mode: policy.Enforce, Filesystem: files}
	grant := floor.Grant{Path: folder, Tree: true, Access: policy.Read | policy.Write}
	b := &Broker{options: Options{Permit: permit, Listener: -1, Coverage: floor.Covers([]floor.Grant{grant}, false)}}
	b.fold = newFold(nil)
	b.calls = callTable(permit)
	b.rules.Store(newRuling(permit, false))
	return &worker{Broker: b}
}

// openatOf is the notification of an openat by this process. path must be kept alive.
func openatOf(t *testing.T, folder int, path []byte, flags uint64) *notification {
	t.Helper()
	number, ok := policy.SyscallNumber(runtime.GOARCH, "openat")
	if !ok {
		t.Fatal("no number for openat")
	}
	return &notification{PID: uint32(os.Getpid()), Arch: nativeArch(), Number: int32(number),
		Args: [6]uint64{uint64(folder), uint64(uintptr(unsafe.Pointer(&path[0]))), flags}}
}

// TestPlainOpens: an open is decided by its path alone only where that is where the object lies, and is granted.
func TestPlainOpens(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{"w/inner", "w/away", "w/away (deleted)", "beyond", "no"} {
		if err := os.MkdirAll(filepath.Join(root, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"w/file", "w/inner/file", "w/secret.key", "w/away (deleted)/file", "beyond/file", "no/file"} {
		if err := os.WriteFile(filepath.Join(root, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"w/out": "../no/file", "w/outside": "../no", "w/self": ".", "w/plain": "file"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	open := func(path string) int {
		fd, err := unix.Open(filepath.Join(root, path), unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
	folder, closed, removed := open("w"), open("no"), open("w/away")
	if err := os.Remove(filepath.Join(root, "w/away")); err != nil {
		t.Fatal(err)
	}
	w := asking(root+"/w", &policy.Filesystem{Read: []string{root + "/w/**", root + "/beyond/**"}, Write: []string{root + "/w/inner/**"}, Deny: []string{root + "/**/*.key"}})
	const missing = answerValue
	for _, tt := range []struct {
		name    string
		folder  int
		path    string
		flags   uint64
		settled bool
		kind    answerKind
	}{
		{"a file", 0, root + "/w/file", 0, true, answerContinue},
		{"a folder", 0, root + "/w/inner", 0, true, answerContinue},
		{"a file to write", 0, root + "/w/inner/file", unix.O_WRONLY, true, answerContinue},
		{"relative to a folder", folder, "inner/file", 0, true, answerContinue},
		{"what is not there", 0, root + "/w/none", 0, true, missing},
		{"below a file", 0, root + "/w/file/x", 0, true, missing},

		{"beyond the floor", 0, root + "/beyond/file", 0, false, 0},
		{"not to write", 0, root + "/w/file", unix.O_RDWR, false, 0},
		{"denied", 0, root + "/w/secret.key", 0, false, 0},
		{"denied, relative", folder, "secret.key", 0, false, 0},
		{"not granted", 0, root + "/no/file", 0, false, 0},
		{"not granted, relative", closed, "file", 0, false, 0},
		{"a link to elsewhere", 0, root + "/w/out", 0, false, 0},
		{"a link to elsewhere, relative", folder, "out", 0, false, 0},
		{"through a link to elsewhere", 0, root + "/w/outside/file", 0, false, 0},
		{"a link to the like", 0, root + "/w/plain", 0, false, 0},
		{"through a link to the like", 0, root + "/w/self/file", 0, false, 0},
		{"what is not there, behind a link", 0, root + "/w/outside/none", 0, false, 0},
		{"above", 0, root + "/w/inner/../../no/file", 0, false, 0},
		{"a slash too many", 0, root + "/w//file", 0, false, 0},
		{"a slash at the end", 0, root + "/w/inner/", 0, false, 0},
		{"where it is", folder, ".", 0, false, 0},
		{"the root", 0, "/", 0, false, 0},
		{"nothing", folder, "", 0, false, 0},
		{"relative to what was removed", removed, "file", 0, false, 0},
		{"relative to nothing", 1 << 20, "file", 0, false, 0},
		{"made", 0, root + "/w/file", unix.O_CREAT, false, 0},
		{"no link to be followed", 0, root + "/w/file", unix.O_NOFOLLOW, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := append([]byte(tt.path), 0)
			n := openatOf(t, tt.folder, path, tt.flags)
			o := opening{folder: int32(tt.folder), path: tt.path, flags: tt.flags}
			o.lookup.noFollow = tt.flags&unix.O_NOFOLLOW != 0
			a, settled := w.openPlain(n, w.rules.Load(), o)
			if settled != tt.settled || settled && a.kind != tt.kind {
				t.Errorf("settled %v as %d; want %v as %d", settled, a.kind, tt.settled, tt.kind)
			}
		})
	}
	narrowed := newRuling(w.rules.Load().permit, true)
	path := root + "/w/file"
	if _, settled := w.openPlain(openatOf(t, 0, append([]byte(path), 0), 0), narrowed, opening{path: path}); settled {
		t.Error("it goes on under a permit that was narrowed")
	}
}

func TestOnlyNames(t *testing.T) {
	for path, want := range map[string]bool{
		"a": true, "a/b": true, "a.b/..c/...": true, " ": true, "": false, "/": false, "a/": false, "/a": false, "a//b": false, ".": false,
		"..": false, "a/.": false, "a/..": false, "./a": false, "../a": false, "a/./b": false, "a/../b": false,
	} {
		if onlyNames(path) != want {
			t.Errorf("%q: %v", path, !want)
		}
	}
}

func FuzzOnlyNames(f *testing.F) {
	for _, seed := range []string{"a", "a/b", "a//b", "./a", "a/..", "/", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if want := path != "" && path[0] != '/' && filepath.Clean("/"+path) == "/"+path; onlyNames(path) != want {
			t.Errorf("%q: %v", path, !want)
		}
	})
}

// TestMappedByName: a mapping is decided by the name of its descriptor only where an exec rule grants what lies there, whatever its content
// is. Anything else is looked at in full, which ends here: nobody waits.
func TestMappedByName(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := asking(root, &policy.Filesystem{Read: []string{root + "/**"}, Exec: []string{root + "/run/**"}, Deny: []string{root + "/run/*.key"}})
	r := w.rules.Load()
	r.programs = map[string][32]byte{root + "/run/fixed": {}}
	if err := os.MkdirAll(filepath.Join(root, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, file string
		remove     bool
		want       answerKind
	}{
		{"granted", "run/lib.so", false, answerContinue},
		{"granted and removed", "run/gone.so", true, answerNever},
		{"named like what was removed", "run/x (deleted)", false, answerNever},
		{"denied", "run/lib.key", false, answerNever},
		{"only to be read", "lib.so", false, answerNever},
		{"with a hash", "run/fixed", false, answerNever},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file, err := os.Create(filepath.Join(root, tt.file))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			if tt.remove {
				if err := os.Remove(file.Name()); err != nil {
					t.Fatal(err)
				}
			}
			n := &notification{PID: uint32(os.Getpid()), Args: [6]uint64{2: unix.PROT_EXEC, 3: unix.MAP_PRIVATE, 4: uint64(file.Fd())}}
			if a := mapCall(w, n, r); a.kind != tt.want {
				t.Errorf("answered as %d; want %d", a.kind, tt.want)
			}
		})
	}
}
