package manifest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// skill makes a skill's folder of files, hashes it and returns both.
func skill(t *testing.T, files map[string]string) (root string, m *Manifest) {
	t.Helper()
	root = t.TempDir()
	for name, text := range files {
		put(t, root, name, text, 0o644)
	}
	m = parse(t, example)
	m.Hashes = nil
	if err := m.HashFiles(root); err != nil {
		t.Fatal(err)
	}
	if err := m.VerifyFiles(root); err != nil {
		t.Fatalf("right after hashing: %v", err)
	}
	return root, m
}

func put(t *testing.T, root, name, text string, mode os.FileMode) {
	t.Helper()
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestHashFiles(t *testing.T) {
	_, m := skill(t, map[string]string{"SKILL.md": "test", "bin/fetch.py": "", "cache/today.json": "{}", FileName: "{}"})
	if len(m.Hashes) != 2 {
		t.Errorf("hashed %v, want all but the manifest and the cache that the skill may write", m.Hashes)
	}
	if got := m.Hashes["SKILL.md"]; got != "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08" {
		t.Errorf("SKILL.md: %s", got)
	}
}

// The manifest of this test may write ./cache/** and nothing else.
func TestVerifyFiles(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, root string)
		want   map[string]string // path -> what is said of it; empty: accepted
	}{
		{"as signed", func(t *testing.T, root string) {}, nil},
		{"changed", func(t *testing.T, root string) { put(t, root, "bin/fetch.py", "import os", 0o644) }, map[string]string{"bin/fetch.py": "was changed"}},
		{"one byte longer", func(t *testing.T, root string) { put(t, root, "SKILL.md", "test\n", 0o644) }, map[string]string{"SKILL.md": "was changed"}},
		{"missing", func(t *testing.T, root string) { must(t, os.Remove(filepath.Join(root, "SKILL.md"))) }, map[string]string{"SKILL.md": "is missing"}},
		{"renamed", func(t *testing.T, root string) {
			must(t, os.Rename(filepath.Join(root, "SKILL.md"), filepath.Join(root, "skill.md")))
		}, map[string]string{"SKILL.md": "is missing", "skill.md": "was not signed"}},
		{"added", func(t *testing.T, root string) { put(t, root, "notes.txt", "", 0o644) }, map[string]string{"notes.txt": "was not signed"}},
		{"added below", func(t *testing.T, root string) { put(t, root, "bin/evil.py", "", 0o644) }, map[string]string{"bin/evil.py": "was not signed"}},
		{"hidden", func(t *testing.T, root string) { put(t, root, ".env", "", 0o644) }, map[string]string{".env": "was not signed"}},
		{"a whole folder", func(t *testing.T, root string) {
			put(t, root, ".git/config", "", 0o644)
			put(t, root, ".git/hooks/pre-commit", "", 0o755)
		}, map[string]string{".git": "has 2 files that were not signed"}},
		{"a second manifest", func(t *testing.T, root string) { put(t, root, "bin/"+FileName, "", 0o644) }, map[string]string{"bin/" + FileName: "was not signed"}},
		{"written by the skill", func(t *testing.T, root string) { put(t, root, "cache/a/b.json", "{}", 0o600) }, nil},
		{"executable written by the skill", func(t *testing.T, root string) { put(t, root, "cache/x", "data", 0o755) }, map[string]string{"cache/x": "is code (executable)"}},
		{"module written by the skill", func(t *testing.T, root string) { put(t, root, "cache/x.PY", "", 0o644) }, map[string]string{"cache/x.PY": "is code (named .py)"}},
		{"script written by the skill", func(t *testing.T, root string) { put(t, root, "cache/x", "#!/bin/sh", 0o644) }, map[string]string{"cache/x": "is code (begins with #!)"}},
		{"program written by the skill", func(t *testing.T, root string) { put(t, root, "cache/x", "\x7fELF\x02", 0o644) }, map[string]string{"cache/x": "is code (ELF)"}},
		{"instructions written by the skill", func(t *testing.T, root string) { put(t, root, "cache/SKILL.md", "", 0o644) }, map[string]string{"cache/SKILL.md": "is code (named skill.md)"}},
		{"link to the same content", func(t *testing.T, root string) {
			other := filepath.Join(t.TempDir(), "SKILL.md")
			must(t, os.Rename(filepath.Join(root, "SKILL.md"), other))
			must(t, os.Symlink(other, filepath.Join(root, "SKILL.md")))
		}, map[string]string{"SKILL.md": "is a symbolic link"}},
		{"folder is a link out", func(t *testing.T, root string) {
			other := filepath.Join(t.TempDir(), "bin")
			must(t, os.Rename(filepath.Join(root, "bin"), other))
			must(t, os.Symlink(other, filepath.Join(root, "bin")))
		}, map[string]string{"bin": "is a symbolic link", "bin/fetch.py": "is missing"}},
		{"link in the cache", func(t *testing.T, root string) {
			must(t, os.Mkdir(filepath.Join(root, "cache"), 0o755))
			must(t, os.Symlink("/etc/passwd", filepath.Join(root, "cache/x")))
		}, map[string]string{"cache/x": "is a symbolic link"}},
		{"fifo", func(t *testing.T, root string) {
			must(t, os.Remove(filepath.Join(root, "SKILL.md")))
			must(t, syscall.Mkfifo(filepath.Join(root, "SKILL.md"), 0o644))
		}, map[string]string{"SKILL.md": "is no regular file"}},
		{"folder in the place of a file", func(t *testing.T, root string) {
			must(t, os.Remove(filepath.Join(root, "SKILL.md")))
			put(t, root, "SKILL.md/x", "", 0o644)
		}, map[string]string{"SKILL.md": "is missing", "SKILL.md/x": "was not signed"}},
		{"several at once", func(t *testing.T, root string) {
			put(t, root, "SKILL.md", "x", 0o644)
			must(t, os.Remove(filepath.Join(root, "bin/fetch.py")))
			put(t, root, "a b\n", "", 0o644)
		}, map[string]string{"SKILL.md": "was changed", "bin/fetch.py": "is missing", "a b\n": "was not signed"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root, m := skill(t, map[string]string{"SKILL.md": "test", "bin/fetch.py": "", FileName: "{}"})
			tt.change(t, root)
			err := m.VerifyFiles(root)
			if tt.want == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var files *FilesError
			if !errors.As(err, &files) {
				t.Fatalf("got %v, want a FilesError", err)
			}
			if len(files.Problems) != len(tt.want) {
				t.Errorf("got %d problems, want %d: %v", len(files.Problems), len(tt.want), err)
			}
			for _, p := range files.Problems {
				if want, ok := tt.want[p.Path]; !ok || !strings.HasPrefix(p.Problem, want) {
					t.Errorf("%q %s; want %q", p.Path, p.Problem, want)
				}
			}
		})
	}
}

// A skill whose own files lie where it may write could rewrite itself after the check.
func TestSkillThatMayRewriteItself(t *testing.T) {
	root, m := skill(t, map[string]string{"SKILL.md": "test", "bin/fetch.py": ""})
	for _, pattern := range []string{"./**", root + "/bin/*", "/**"} {
		m.Asks.Filesystem.Write = []string{pattern}
		if err := m.VerifyFiles(root); err == nil || !strings.Contains(err.Error(), "may write it by") {
			t.Errorf("write %q: got %v", pattern, err)
		}
	}
}

func TestVerifyFilesWithoutFolder(t *testing.T) {
	if err := parse(t, example).VerifyFiles(filepath.Join(t.TempDir(), "no")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
