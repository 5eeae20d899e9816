package floor

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/policy"
)

func TestResolved(t *testing.T) {
	root := tree(t, "usr/bin/tool", "usr/lib/x", "work/", "home/key")
	for name, target := range map[string]string{"bin": "usr/bin", "lib": root + "/usr/lib", "work/out": "../home", "loop": "loop"} {
		if err := os.Symlink(target, root+"/"+name); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name        string
		read, write []string
		deny        []string
		wantRead    []string
		wantDeny    []string
	}{
		{"a link to a folder", []string{"bin/tool"}, nil, nil, []string{"bin/tool", "usr/bin/tool"}, nil},
		{"with wildcards behind it", []string{"lib/**/*.so"}, nil, nil, []string{"lib/**/*.so", "usr/lib/**/*.so"}, nil},
		{"no link", []string{"usr/**"}, nil, nil, []string{"usr/**"}, nil},
		{"a link that the agent may replace", []string{"work/out/**"}, []string{"work/**"}, nil, []string{"work/out/**"}, nil},
		{"the same, denied", nil, []string{"work/**"}, []string{"work/out/**"}, nil, []string{"work/out/**", "home/**"}},
		{"a link that the agent may not replace", []string{"work/out/**"}, nil, nil, []string{"work/out/**", "home/**"}, nil},
		{"what does not exist", []string{"bin/later"}, nil, nil, []string{"bin/later", "usr/bin/later"}, nil},
		{"a loop", []string{"loop/x"}, nil, nil, []string{"loop/x"}, nil},
	} {
		below := func(names []string) (paths []string) {
			for _, name := range names {
				paths = append(paths, root+"/"+name)
			}
			return paths
		}
		p := &policy.Policy{Filesystem: &policy.Filesystem{Read: below(tt.read), Write: below(tt.write), Deny: below(tt.deny)}}
		got := Resolved(p).Filesystem
		if !slices.Equal(got.Read, below(tt.wantRead)) || !slices.Equal(got.Deny, below(tt.wantDeny)) {
			t.Errorf("%s: read %q, deny %q", tt.name, got.Read, got.Deny)
		}
	}
}

func TestResolvedQuotesWhatALinkLeadsTo(t *testing.T) {
	root := tree(t, "odd*name/x")
	if err := os.Symlink("odd*name", root+"/link"); err != nil {
		t.Fatal(err)
	}
	p := Resolved(&policy.Policy{Filesystem: &policy.Filesystem{Read: []string{root + "/link/x"}}})
	rules := p.FileRules()
	if d := rules.Decide(root+"/odd*name/x", policy.Read); d.Verdict != policy.VerdictAllow {
		t.Errorf("the object behind the link is not granted: %+v", p.Filesystem.Read)
	}
	if d := rules.Decide(root+"/oddOTHERname/x", policy.Read); d.Verdict == policy.VerdictAllow {
		t.Error("the name of a folder became a wildcard")
	}
}

func TestScriptInterpreter(t *testing.T) {
	for head, want := range map[string]string{
		"#!/bin/sh\n": "/bin/sh", "#! /usr/bin/env  node\n": "/usr/bin/env", "#!\t/x\ty": "/x", "#!/bin/sh": "/bin/sh",
		"#!": "", "#!\n/bin/sh": "", "#!/a\x00b": "/a",
	} {
		if got, ok := ScriptInterpreter([]byte(head)); got != want || !ok {
			t.Errorf("%q: %q, %v; want %q", head, got, ok, want)
		}
	}
	for _, head := range []string{"", "#", "text", " #!/bin/sh", "\x7fELF"} {
		if got, ok := ScriptInterpreter([]byte(head)); ok {
			t.Errorf("%q is a script of %q", head, got)
		}
	}
}

func FuzzScriptInterpreter(f *testing.F) {
	f.Add([]byte("#!/bin/sh -e\n"))
	f.Add([]byte("#! \t\n"))
	f.Add([]byte("\x7fELF\x02\x01\x01"))
	f.Fuzz(func(t *testing.T, head []byte) {
		path, script := ScriptInterpreter(head)
		if script != strings.HasPrefix(string(head), "#!") {
			t.Errorf("%q: script = %v", head, script)
		}
		if strings.ContainsAny(path, " \t\n\x00") || len(path) > MaxScriptLine {
			t.Errorf("%q: interpreter %q", head, path)
		}
	})
}

func TestCoverage(t *testing.T) {
	c := Covers([]Grant{
		{Path: "/a", Tree: true, Access: policy.Read},
		{Path: "/a/w", Tree: true, Access: policy.Write},
		{Path: "/f", Access: policy.Read, Device: 1, Inode: 2},
	}, false)
	for _, tt := range []struct {
		path  string
		inode uint64
		a     policy.Access
		want  bool
	}{
		{"/a", 0, policy.Read, true}, {"/a/x/y", 0, policy.Read, true}, {"/ab", 0, policy.Read, false},
		{"/a/x", 0, policy.Write, false}, {"/a/w/x", 0, policy.Read | policy.Write, true}, {"/a/w", 0, policy.Write, true},
		{"/f", 2, policy.Read, true}, {"/f", 3, policy.Read, false}, {"/f/x", 2, policy.Read, false}, {"/", 0, policy.Read, false},
		{"(unreachable)/a/x", 0, policy.Read, false}, {"", 0, policy.Read, false},
	} {
		if got := c.Object(tt.path, 1, tt.inode, tt.a); got != tt.want {
			t.Errorf("Object(%q, %d, %d) = %v", tt.path, tt.inode, tt.a, got)
		}
	}
	for path, want := range map[string]bool{"/a": false, "/a/w": true, "/a/w/x": true, "/": false, "/f": false} {
		if got := c.Entry(path); got != want {
			t.Errorf("Entry(%q) = %v", path, got)
		}
	}
	if !Covers(nil, true).Object("/x", 0, 0, policy.Write) || !Covers(nil, true).Entry("/") {
		t.Error("an open floor does not cover everything")
	}
}
