package policy

import (
	"slices"
	"strings"
	"testing"
)

const (
	sumA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sumB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestHashesCanonical(t *testing.T) {
	want := `{"filesystem":{"exec":["/bin/**",{"path":"/usr/bin/git","sha256":"` + sumA + `"},{"path":"~/tool","sha256":"` + sumB + `"}]},` +
		`"mode":"enforce","namespace":"default","on_violation":"block"}`
	for name, text := range map[string]string{
		"block":                 "filesystem:\n  exec:\n    - {path: ~/tool, sha256: " + sumB + "}\n    - /bin/**\n    - path: /usr//bin/git/\n      sha256: " + strings.ToUpper(sumA) + "\n",
		"beside the plain path": "filesystem: {exec: [/usr/bin/git, {path: /usr/bin/git, sha256: " + sumA + "}, /bin/**, {path: ~/tool, sha256: " + sumB + "}]}",
		"aliases":               "filesystem: {exec: [[&g {path: /usr/bin/git, sha256: " + sumA + "}, *g], /bin/**, {path: ~/tool, sha256: " + sumB + "}]}",
		"canonical":             want,
	} {
		p, err := Parse("test", []byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := string(p.Canonical()); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, want)
		}
		again, err := ParseCanonical(p.Canonical())
		if err != nil || string(again.Canonical()) != want {
			t.Errorf("%s: read again: %v", name, err)
		}
	}
}

func TestHashesAreChecked(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no hash":        {"filesystem:\n  exec:\n    - /bin/a\n    - {path: /bin/b}\n", "p.yaml:4:7: a program with a hash needs path and sha256"},
		"no path":        {"filesystem: {exec: [{sha256: " + sumA + "}]}", "p.yaml:1:21: a program with a hash needs"},
		"short":          {"filesystem: {exec: [/x, {path: /bin/b, sha256: abcd}]}", `p.yaml:1:25: "abcd" is no SHA-256`},
		"no hex":         {"filesystem: {exec: [{path: /bin/b, sha256: " + strings.Repeat("g", 64) + "}]}", "is no SHA-256"},
		"several files":  {"filesystem: {exec: [{path: /bin/*, sha256: " + sumA + "}]}", "can match several"},
		"a tree":         {"filesystem: {exec: [{path: /bin/**, sha256: " + sumA + "}]}", "can match several"},
		"two hashes":     {"filesystem: {exec: [{path: /b, sha256: " + sumA + "}, {path: /b, sha256: " + sumB + "}]}", "p.yaml:1:107: /b stands twice"},
		"two spellings":  {"filesystem: {exec: [{path: /b/c, sha256: " + sumA + "}, {path: /b//c, sha256: " + sumB + "}]}", "stands twice"},
		"another key":    {"filesystem: {exec: [{path: /b, sha265: " + sumA + "}]}", "did you mean sha256?"},
		"not for others": {"filesystem: {read: [{path: /b, sha256: " + sumA + "}]}", "where text is wanted"},
	} {
		if _, err := Parse("p.yaml", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	for _, digits := range []string{strings.Repeat("0", 64), "1e" + strings.Repeat("2", 62)} { // numbers to YAML
		if _, err := Parse("p.yaml", []byte("filesystem: {exec: [{path: /b, sha256: "+digits+"}]}")); err != nil {
			t.Error(err)
		}
	}
	for name, text := range map[string]string{
		"upper case":  `{"filesystem":{"exec":[{"path":"/b","sha256":"` + strings.ToUpper(sumA) + `"}]}}`,
		"unknown key": `{"filesystem":{"exec":[{"path":"/b","sha256":"` + sumA + `","x":1}]}}`,
		"number":      `{"filesystem":{"exec":[1]}}`,
		"other list":  `{"filesystem":{"read":[{"path":"/b","sha256":"` + sumA + `"}]}}`,
		"unknown":     `{"filesystem":{"exce":["/b"]}}`,
		"twice":       `{"filesystem":{"exec":["/b",{"path":"/b","sha256":"` + sumA + `"}]}}`,
		"hash of two": `{"filesystem":{"exec":[{"path":"/{b,c}","sha256":"` + sumA + `"}]}}`,
	} {
		if _, err := ParseCanonical([]byte(text)); err == nil {
			t.Errorf("%s: %s is taken for canonical", name, text)
		}
	}
}

func TestHashesNarrow(t *testing.T) {
	hashed := func(path, sum string) string { return "{path: " + path + ", sha256: " + sum + "}" }
	for name, c := range map[string]struct {
		outer, inner string // exec lists
		want         string // the hash of /bin/git in the result; "beyond": it lies beyond
	}{
		"the same":             {hashed("/bin/git", sumA), hashed("/bin/git", sumA), sumA},
		"another one":          {hashed("/bin/git", sumA), hashed("/bin/git", sumB), "beyond"},
		"none above":           {"/bin/**", hashed("/bin/git", sumA), sumA},
		"inherited by a path":  {hashed("/bin/git", sumA), "/bin/git", sumA},
		"inherited by a tree":  {"/bin/**, " + hashed("/bin/git", sumA), "/bin/**", sumA},
		"inherited by a glob":  {"/bin/**, " + hashed("/bin/git", sumA), "/bin/g*", sumA},
		"not executed below":   {hashed("/bin/git", sumA) + ", /bin/ls", "/bin/ls", ""},
		"wider than one file":  {hashed("/bin/git", sumA), "/bin/**", "beyond"},
		"of a file not in it":  {"/bin/ls", hashed("/bin/git", sumA), "beyond"},
		"no rule for programs": {hashed("/bin/git", sumA), "", ""},
	} {
		outer, err := Parse("outer", []byte("filesystem: {exec: ["+c.outer+"]}"))
		if err != nil {
			t.Fatal(err)
		}
		inner, err := Parse("inner", []byte("filesystem: {exec: ["+c.inner+"]}"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Narrow(outer, inner)
		if (err != nil) != (c.want == "beyond") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		if got.Filesystem.Hashes["/bin/git"] != c.want {
			t.Errorf("%s: hashes %v, want %q", name, got.Filesystem.Hashes, c.want)
		}
		if c.want != "" && !slices.Contains(got.Filesystem.Exec, "/bin/git") {
			t.Errorf("%s: exec %q does not name the file with the hash", name, got.Filesystem.Exec)
		}
		again, err := Narrow(outer, got)
		if err != nil || again.Hash() != got.Hash() {
			t.Errorf("%s: narrowing again changes it: %v", name, err)
		}
	}
}

func TestHashedPrograms(t *testing.T) {
	p, err := Parse("test", []byte(`filesystem: {exec: [{path: '/bin/a\*b', sha256: `+sumA+`}, {path: ~/x, sha256: `+sumB+`}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if p, err = p.Expand("/home/u"); err != nil {
		t.Fatal(err)
	}
	got := p.Filesystem.HashedPrograms()
	if len(got) != 2 || got["/bin/a*b"][0] != 0xaa || got["/home/u/x"][31] != 0xbb {
		t.Errorf("got %x", got)
	}
}

// TestStaticNarrows: recording less is a grant too.
func TestStaticNarrows(t *testing.T) {
	section := map[bool]string{true: "filesystem: {static: true, read: [/a]}", false: "filesystem: {static: false, read: [/a]}"}
	for _, tt := range []struct{ outer, inner, static, beyond bool }{
		{true, true, true, false}, {true, false, false, false}, {false, false, false, false}, {false, true, false, true},
	} {
		outer, err := Parse("outer", []byte(section[tt.outer]))
		if err != nil {
			t.Fatal(err)
		}
		inner, err := Parse("inner", []byte(section[tt.inner]))
		if err != nil {
			t.Fatal(err)
		}
		got, err := Narrow(outer, inner)
		if (err != nil) != tt.beyond {
			t.Errorf("%+v: %v", tt, err)
		}
		if err == nil && got.Filesystem.Static != tt.static {
			t.Errorf("%+v: got %s", tt, got.Canonical())
		}
		if again, err := ParseCanonical(inner.Canonical()); err != nil || again.Filesystem.Static != tt.inner {
			t.Errorf("%s: %v", inner.Canonical(), err)
		}
	}
}
