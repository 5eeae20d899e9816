package agents

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestAsUserReadsWhatTheUserMayRead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: takes on another user's file permissions")
	}
	dir := t.TempDir()
	for up := dir; up != os.TempDir() && up != "/"; up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, mode os.FileMode, uid, gid int) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chown(file, uid, gid), os.Chmod(file, mode)); err != nil {
			t.Fatal(err)
		}
		return file
	}
	const stranger = 64999 // no such user
	files := map[string]bool{
		write("root's", 0o600, 0, 0):             false,
		write("root's group's", 0o640, 0, 0):     false,
		write("everyone's", 0o644, 0, 0):         true,
		write("its own", 0o600, stranger, 0):     true,
		write("nobody's group", 0o640, 0, 65534): true, // the group of users that the host does not know
	}
	for file, may := range files {
		err := asUser(stranger, func() error {
			_, err := os.ReadFile(file)
			return err
		})
		if may && err != nil || !may && !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", filepath.Base(file), err)
		}
		if _, err := os.ReadFile(file); err != nil {
			t.Errorf("root afterwards: %v", err)
		}
	}
}
