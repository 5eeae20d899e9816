package statefile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestReadAndWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if _, err := Read(path, 8); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	for _, text := range []string{"first", "second"} {
		if err := Write(dir, "f", []byte(text)); err != nil {
			t.Fatal(err)
		}
		got, err := Read(path, 8)
		if err != nil || string(got) != text {
			t.Errorf("%q, %v", got, err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, 9), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "small"), nil, 0o600), os.Symlink("small", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"large", "link", "."} {
		if _, err := Read(filepath.Join(dir, name), 8); err == nil {
			t.Errorf("%s is read", name)
		}
	}
}

func TestCreateLeavesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	for _, want := range []bool{true, false} {
		made, err := Create(dir, "f", []byte{byte('0' + len(dirNames(t, dir)))})
		if err != nil || made != want {
			t.Errorf("made %v, %v", made, err)
		}
	}
	if got, err := Read(filepath.Join(dir, "f"), 8); err != nil || string(got) != "0" {
		t.Errorf("%q, %v", got, err)
	}
	if names := dirNames(t, dir); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
	if made, err := Create(filepath.Join(dir, "missing"), "f", nil); err == nil || made {
		t.Errorf("in no folder: made %v, %v", made, err)
	}
}

func dirNames(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return names
}
