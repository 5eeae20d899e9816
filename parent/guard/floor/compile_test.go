package floor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/policy"
)

// tree makes files (names with a slash at the end: folders) and returns the folder, whose own path has no links.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o755)
		} else {
			err = os.WriteFile(path, nil, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestCompile(t *testing.T) {
	root := tree(t, "a/x/one", "a/y/two", "a/y/deep/three", "a/file", "b/prog1", "b/prog2", "b/sub/prog3", "c/", "state/key")
	for _, tt := range []struct {
		name  string
		files policy.Filesystem
		want  []string // grants below root, as access and path; a tree ends with /**
	}{
		{"a tree", policy.Filesystem{Read: []string{"ROOT/a/**"}}, []string{"r a/**"}},
		{"a file", policy.Filesystem{Read: []string{"ROOT/a/file"}}, []string{"r a/file"}},
		{"read and write", policy.Filesystem{Read: []string{"ROOT/a/**"}, Write: []string{"ROOT/a/**"}}, []string{"rw a/**"}},
		{"a path denied inside", policy.Filesystem{Read: []string{"ROOT/a/**"}, Deny: []string{"ROOT/a/y/deep"}},
			[]string{"r a/file", "r a/x/**", "r a/y/two"}},
		{"a tree denied inside", policy.Filesystem{Write: []string{"ROOT/a/**"}, Deny: []string{"ROOT/a/y/**"}},
			[]string{"w a/file", "w a/x/**"}},
		{"asked inside", policy.Filesystem{Read: []string{"ROOT/a/**"}, RequireApproval: []string{"ROOT/a/file"}},
			[]string{"r a/x/**", "r a/y/**"}},
		{"a program that asks", policy.Filesystem{Exec: []string{"ROOT/b/**"}, RequireApproval: []string{"ROOT/b/prog1"}},
			[]string{"rx b/prog1", "rx b/prog2", "rx b/sub/**"}},
		{"a program that nothing else names and that asks", policy.Filesystem{RequireApproval: []string{"ROOT/b/sub/*"}}, []string{"rx b/sub/prog3"}},
		{"denied at any depth", policy.Filesystem{Read: []string{"ROOT/a/**"}, Deny: []string{"/**/.env"}}, nil},
		{"denied at any depth below a folder", policy.Filesystem{Read: []string{"ROOT/a/**"}, Deny: []string{"ROOT/a/y/**/.env"}},
			[]string{"r a/file", "r a/x/**"}},
		{"denied by glob in one folder", policy.Filesystem{Read: []string{"ROOT/a/**"}, Deny: []string{"ROOT/a/x/*.key"}},
			[]string{"r a/file", "r a/y/**"}},
		{"a glob is left to the warden", policy.Filesystem{Read: []string{"ROOT/a/*.txt"}}, nil},
		{"programs by glob", policy.Filesystem{Exec: []string{"ROOT/b/prog*"}}, []string{"rx b/prog1", "rx b/prog2"}},
		{"programs by glob at any depth", policy.Filesystem{Exec: []string{"ROOT/b/**/prog*"}},
			[]string{"rx b/prog1", "rx b/prog2", "rx b/sub/prog3"}},
		{"programs beside a denied glob", policy.Filesystem{Exec: []string{"ROOT/b/**"}, Deny: []string{"/**/prog2"}},
			[]string{"rx b/prog1", "rx b/sub/prog3"}},
		{"beside what is closed", policy.Filesystem{Read: []string{"ROOT/**"}, Write: []string{"ROOT/c/**"}},
			[]string{"r a/**", "r b/**", "rw c/**"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := tt.files
			for _, list := range []*[]string{&files.Read, &files.Write, &files.Exec, &files.Deny, &files.RequireApproval} {
				for i, text := range *list {
					(*list)[i] = strings.Replace(text, "ROOT", root, 1)
				}
			}
			plan, err := Compile(&policy.Policy{Mode: policy.Enforce, Filesystem: &files}, Options{Closed: []string{root + "/state"}})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, g := range plan.Grants {
				if name, ok := strings.CutPrefix(g.Path, root+"/"); ok {
					got = append(got, describe(g, name))
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("grants %q, want %q", got, tt.want)
			}
		})
	}
}

func describe(g Grant, name string) string {
	text := ""
	for _, one := range []struct {
		access policy.Access
		letter string
	}{{policy.Read, "r"}, {policy.Write, "w"}, {policy.Exec, "x"}} {
		if g.Access&one.access != 0 {
			text += one.letter
		}
	}
	text += " " + name
	if g.Tree {
		text += "/**"
	}
	return text
}

// TestFixedPrograms: the floor lets a program with a hash be executed only with that content, and never be written: a thread that
// changes the path of a call after the warden's decision gets no further than that.
func TestFixedPrograms(t *testing.T) {
	root := tree(t, "bin/right", "bin/wrong", "bin/free", "w/right", "w/beside")
	const empty, other = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "ff"
	files := &policy.Filesystem{
		Write: []string{root + "/w/**"},
		Exec:  []string{root + "/bin/**", root + "/w/right", root + "/bin/right", root + "/bin/wrong"},
		Hashes: map[string]string{
			root + "/bin/right": empty, root + "/w/right": empty, root + "/bin/wrong": strings.Repeat(other, 32),
		},
	}
	plan, err := Compile(&policy.Policy{Mode: policy.Enforce, Filesystem: files}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	granted := Covers(plan.Grants, false)
	for _, tt := range []struct {
		path   string
		access policy.Access
		want   bool
	}{
		{"bin/right", policy.Exec, true}, {"bin/wrong", policy.Exec, false}, {"bin/free", policy.Exec, true},
		{"w/right", policy.Exec, true}, {"w/right", policy.Write, false}, {"w/beside", policy.Write, true}, {"w", policy.Write, false},
	} {
		path := root + "/" + tt.path
		if got := granted.Object(path, 0, 0, tt.access); got != tt.want {
			t.Errorf("%s: access %d is granted: %v, want %v", tt.path, tt.access, got, tt.want)
		}
	}
	if notes := strings.Join(plan.Notes, "\n"); !strings.Contains(notes, "bin/wrong cannot be executed") || strings.Contains(notes, "right") {
		t.Errorf("notes %q", notes)
	}
}
