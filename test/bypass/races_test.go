package bypass

import (
	"net"
	"os"
	"sync/atomic"
	"testing"
)

// TestRacingPaths: threads that change a path's bytes, a link or a folder while a call is decided gain nothing.
func TestRacingPaths(t *testing.T) {
	asUsers(t, func(w *world) {
		w.expect(narrow,
			"race-pointer FOLDER/r/file FOLDER/no/file",
			"race-pointer FOLDER/g/a.txt FOLDER/no/a.txt",
			"race-link FOLDER/w/flip FOLDER/r/file FOLDER/no/file",
			"race-link FOLDER/w/flip2 FOLDER/g/a.txt FOLDER/no/a.txt",
			"race-folder FOLDER/w/ FOLDER/no",
		)
		w.unchanged()
	})
}

// TestRacingFolders: nor do threads that exchange the descriptor or the working directory that a path is relative to.
func TestRacingFolders(t *testing.T) {
	asUsers(t, func(w *world) {
		w.expect(narrow, "race-folder-fd FOLDER/r FOLDER/no file", "race-cwd FOLDER/r FOLDER/no file", "race-fd FOLDER/w/file FOLDER/r/file")
		w.unchanged()
		if info, err := os.Stat(w.path("r/file")); err != nil || info.Mode() != 0o644 {
			w.t.Errorf("the mode of what may only be read: %v, %v", info.Mode(), err)
		}
	})
}

// TestRacingArguments: nor do threads that change what lies behind other pointers: openat2's flags, names of a rename.
func TestRacingArguments(t *testing.T) {
	asUsers(t, func(w *world) {
		w.expect(narrow, "race-how FOLDER/r/file")
		w.unchanged()
		w.expect(`
mode: enforce
filesystem:
  read: [PROGRAM, /sys/kernel/mm/transparent_hugepage/**, /sys/fs/cgroup/**, /proc/self/**, FOLDER/w/p.txt]
  write: [FOLDER/w/**]
  exec: [PROGRAM]
`, "race-rename FOLDER/w/made FOLDER/w/plain FOLDER/w/p.txt", "race-rename FOLDER/w/made FOLDER/w/plain FOLDER/w/p.txt link")
	})
}

// TestRacingAddresses: nobody is connected to but whom the decision was about.
func TestRacingAddresses(t *testing.T) {
	asUsers(t, func(w *world) {
		var others atomic.Int64
		for _, name := range []string{"yes", "not"} {
			listener, err := net.Listen("unix", w.path("sock/"+name))
			w.must(err)
			defer listener.Close()
			go func() {
				for {
					c, err := listener.Accept()
					if err != nil {
						return
					}
					c.Close()
					if name == "not" {
						others.Add(1)
					}
				}
			}()
		}
		w.expect(narrow, "race-address FOLDER/sock/yes FOLDER/sock/not")
		if n := others.Load(); n > 0 {
			w.t.Errorf("%d connections to a socket that is not granted", n)
		}
	})
}

// TestRacingPrograms: a link that is pointed elsewhere while a program is executed starts no other one.
func TestRacingPrograms(t *testing.T) {
	asUsers(t, func(w *world) {
		raw, err := os.ReadFile(w.program)
		w.must(err)
		w.must(os.WriteFile(w.path("no/other"), raw, 0o755))
		// The granted program is the probe under another name: it cannot write where the mark is to appear, the other one could.
		w.do(narrow, "race-exec /proc/self/nothing FOLDER/no/other FOLDER/w/mark")
		if _, err := os.Stat(w.path("w/mark")); err == nil {
			w.t.Error("a program that is not granted ran")
		}
	})
}
