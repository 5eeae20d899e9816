package hosts

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFileIsReadAgain: each change counts at once, also several of the same length within one tick, a file that is put in the
// place of another, and one that goes.
func TestFileIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	f := Open(path)
	var last uint64
	look := func(what, want string) {
		t.Helper()
		table, version, err := f.Table()
		if err != nil {
			t.Fatal(err)
		}
		var got string
		if addrs := table["db"]; len(addrs) > 0 {
			got = addrs[0].String()
		}
		if got != want {
			t.Errorf("%s: db is %q, want %q", what, got, want)
		}
		if version == last {
			t.Errorf("%s: the version is the same", what)
		}
		last = version
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	look("no file", "")
	for _, addr := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
		write(path, addr+" db\n")
		look("written", addr)
	}
	write(path+".new", "10.0.0.4 db\n")
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	look("replaced", "10.0.0.4")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	look("removed", "")
}
