package image_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raypher/raypher/enclave/image"
)

// `make enclave` in two folders, under different settings of go, makes the same bytes, and they go into an image.
func TestEnclaveIsReproducible(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("make is not installed")
	}
	source := ok(filepath.Abs("../.."))(t)
	var programs [][]byte
	for n, name := range []string{"a", "another/folder with a longer name"} {
		folder := filepath.Join(t.TempDir(), name)
		copySource(t, source, folder)
		command := exec.Command("make", "--no-print-directory", "enclave", "VERSION=v0")
		command.Dir = folder
		command.Env = append(os.Environ(), "GOFLAGS="+[]string{"", "-buildvcs=false -tags=osusergo"}[n], "GOAMD64="+[]string{"v1", "v2"}[n])
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		programs = append(programs, ok(os.ReadFile(filepath.Join(folder, "dist", "enclave", "raypher-enclave")))(t))
	}
	if !bytes.Equal(programs[0], programs[1]) {
		t.Errorf("two builds differ: %d and %d bytes", len(programs[0]), len(programs[1]))
	}
	if bytes.Contains(programs[0], []byte(source)) {
		t.Errorf("the program names the folder %s", source)
	}
	if _, err := image.Application(programs[0], start); err != nil {
		t.Error(err)
	}
}

// copySource copies what a build needs: everything but what was built, and the history.
func copySource(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := strings.TrimPrefix(path, from)
		switch {
		case entry.IsDir() && (inside == "/.git" || inside == "/bin" || inside == "/dist" || entry.Name() == "node_modules" || entry.Name() == "testdata"):
			return filepath.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, inside), 0o755)
		case !entry.Type().IsRegular() || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, inside), content, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}
