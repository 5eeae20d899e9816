package launch

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/raypher/raypher/manifest"
)

// TestReadNamesFolders: raypherd works in another folder than the caller, so what the caller names is sent as an absolute path;
// a skill may be named by its folder.
func TestReadNamesFolders(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	skill := filepath.Join(dir, "skill")
	if err := os.Mkdir(skill, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(skill, manifest.FileName)
	if err := os.WriteFile(file, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, named := range []string{"skill", "skill/", "skill/" + manifest.FileName, skill, "./skill/../skill"} {
		r := &runner{options: Options{Argv: []string{"/bin/true"}, ManifestPath: named, ManifestSigners: "signers"}}
		l, err := r.read()
		if err != nil {
			t.Fatalf("%s: %v", named, err)
		}
		if l.ManifestPath != file || string(l.Manifest) != "{}" || l.ManifestSigners != filepath.Join(dir, "signers") {
			t.Errorf("%s: manifest %s, signers %s", named, l.ManifestPath, l.ManifestSigners)
		}
	}
	r := &runner{options: Options{Argv: []string{"/bin/true"}, ManifestPath: dir}}
	if _, err := r.read(); err == nil {
		t.Error("a folder without a manifest was taken for one")
	}
}
