package launch

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/raypher/raypher/manifest"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/warden"
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

// TestReadNamesThatAreNotText: an argument may be any bytes; a name by which raypherd finds something is sent as it is, or not at all.
func TestReadNamesThatAreNotText(t *testing.T) {
	const name = "caf\xe9"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		options Options
		home    string
		sent    bool
	}{
		"argument": {Options{Argv: []string{"/bin/true", name}}, "/", true},
		"program":  {Options{Argv: []string{filepath.Join(dir, name)}}, "/", false},
		"home":     {Options{Argv: []string{"/bin/true"}}, "/home/" + name, false},
		"signers":  {Options{Argv: []string{"/bin/true"}, ManifestSigners: name}, "/", false},
	} {
		t.Setenv("HOME", c.home)
		own, theirs, err := warden.NewConversation()
		if err != nil {
			t.Fatal(err)
		}
		r := &runner{options: c.options, talk: own}
		l, err := r.read()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err := r.ask(l); (err == nil) != c.sent || !c.sent && !errors.Is(err, attend.ErrNotText) {
			t.Errorf("%s: %v", what, err)
		}
		own.Close()
		theirs.Close()
	}
}
