package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestPatternMatches(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"/", []string{"/"}, []string{"/a"}},
		{"/**", []string{"/", "/a", "/a/b"}, nil},
		{"/a", []string{"/a"}, []string{"/", "/a/b", "/ab"}},
		{"/a/**", []string{"/a", "/a/b", "/a/b/c", "/a/.x"}, []string{"/", "/ab", "/b"}},
		{"/a/*", []string{"/a/b", "/a/.b"}, []string{"/a", "/a/b/c"}},
		{"/a/**/c", []string{"/a/c", "/a/b/c", "/a/b/b/c", "/a/c/c"}, []string{"/a", "/a/cc", "/a/c/b"}},
		{"/**/.ssh/**", []string{"/.ssh", "/h/.ssh", "/h/u/.ssh/id"}, []string{"/h/ssh", "/h/.sshx"}},
		{"/a/?", []string{"/a/b", "/a/é", "/a/\xff"}, []string{"/a/bb", "/a", "/a/\xc3\xa9\xa9"}},
		{"/a/*.p?m", []string{"/a/k.pem", "/a/.p.p.pem"}, []string{"/a/k.pm", "/a/k.pem.x"}},
		{"/{a,b/c}/x", []string{"/a/x", "/b/c/x"}, []string{"/b/x", "/c/x"}},
		{"/f{,.bak}", []string{"/f", "/f.bak"}, []string{"/f."}},
		{"/{a,{b,c}d}", []string{"/a", "/bd", "/cd"}, []string{"/b", "/ad"}},
		{`/\*\{\}\[\,`, []string{"/*{}[,"}, []string{"/x{}[,"}},
		{"/a,b", []string{"/a,b"}, []string{"/a", "/b"}},
		{"/a//b/./c/", []string{"/a/b/c"}, nil},
		{"/~", []string{"/~"}, nil},
		{"/**/a/**/b", []string{"/a/b", "/x/a/y/b", "/a/a/b/b"}, []string{"/b/a", "/a"}},
	} {
		rules := (&Policy{Filesystem: &Filesystem{Read: []string{c.pattern}}}).FileRules()
		for _, path := range c.yes {
			if d := rules.Decide(path, Read); d.Verdict != VerdictAllow || d.Rule != c.pattern {
				t.Errorf("%s does not match %q: %v", c.pattern, path, d)
			}
		}
		for _, path := range c.no {
			if d := rules.Decide(path, Read); d != (Decision{}) {
				t.Errorf("%s matches %q: %v", c.pattern, path, d)
			}
		}
	}
}

// TestDecide is the table of docs/policy.md, and the corners around it.
func TestDecide(t *testing.T) {
	rules := files(`
filesystem:
  read: [/w/**]
  write: [/w/out/**, /log]
  exec: [/bin/*]
  deny: [/w/keys/**]
  require_approval: [/w/out/release/**, /notes/**]
`).FileRules()
	for _, c := range []struct {
		path   string
		access Access
		want   Verdict
		rule   string
	}{
		{"/w/a.txt", Read, VerdictAllow, "/w/**"},
		{"/w/a.txt", Write, VerdictBlock, ""},
		{"/w/a.txt", Read | Write, VerdictBlock, ""},
		{"/w/out/b", Read | Write, VerdictAllow, "/w/out/**"},
		{"/log", Write, VerdictAllow, "/log"},
		{"/log", Read, VerdictBlock, ""},
		{"/w/out/release/c", Write, VerdictApproval, "/w/out/release/**"},
		{"/w/out/release/c", Exec, VerdictBlock, ""},
		{"/notes/n", Read, VerdictApproval, "/notes/**"},
		{"/notes/n", Read | Write | Exec, VerdictApproval, "/notes/**"},
		{"/w/keys/k", Read, VerdictBlock, "/w/keys/**"},
		{"/bin/sh", Exec, VerdictAllow, "/bin/*"},
		{"/bin/sh", Read, VerdictAllow, "/bin/*"},
		{"/bin/sh", Read | Exec, VerdictAllow, "/bin/*"},
		{"/bin/sh", Write, VerdictBlock, ""},
		{"/w/a", 0, VerdictBlock, ""},
		{"", Read, VerdictBlock, ""},
		{"w/a", Read, VerdictBlock, ""},
		{"/w//a", Read, VerdictBlock, ""},
		{"/w/./a", Read, VerdictBlock, ""},
		{"/w/x/../a", Read, VerdictBlock, ""},
		{"/w/a/", Read, VerdictBlock, ""},
		{"/elsewhere", Read, VerdictBlock, ""},
	} {
		if d := rules.Decide(c.path, c.access); d.Verdict != c.want || d.Rule != c.rule {
			t.Errorf("%q access %d: %v, want %v by %q", c.path, c.access, d, c.want, c.rule)
		}
	}
}

// TestUnusableRulesRefuse: a pattern that cannot be compiled could be a deny rule that is lost.
func TestUnusableRulesRefuse(t *testing.T) {
	for _, bad := range []string{"~/.ssh/**", "relative", "/{"} {
		rules := (&Policy{Filesystem: &Filesystem{Read: []string{"/**"}, Deny: []string{bad}}}).FileRules()
		if d := rules.Decide("/a", Read); d.Verdict != VerdictBlock || d.Rule != bad {
			t.Errorf("%s: %v", bad, d)
		}
	}
}

// TestDecideAgainstReference compares compiled rules with the definition on random policies and all small paths.
func TestDecideAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	paths := smallPaths()
	count := map[Verdict]int{}
	for range 150 {
		f := randomFilesystem(r)
		rules := (&Policy{Filesystem: f}).FileRules()
		for _, path := range paths {
			a := Access(1 + r.IntN(7))
			want := referenceVerdict(f, path, a)
			if d := rules.Decide(path, a); d.Verdict != want {
				t.Fatalf("%+v: %s access %d: %v, want %v", *f, path, a, d, want)
			}
			count[want]++
		}
	}
	t.Logf("%v", count)
}

// TestManyLoops: more ** than the stack room of a match holds.
func TestManyLoops(t *testing.T) {
	var f Filesystem
	for i := range 700 {
		f.Read = append(f.Read, fmt.Sprintf("/a/**/b%d/**/c", i))
	}
	rules := (&Policy{Filesystem: &f}).FileRules()
	if d := rules.Decide("/a/x/b699/y/c", Read); d.Verdict != VerdictAllow {
		t.Error(d)
	}
	if d := rules.Decide("/a/x/b700/y/c", Read); d.Verdict != VerdictBlock {
		t.Error(d)
	}
}

// TestGlobIsLinear: a name that makes a naive matcher run forever.
func TestGlobIsLinear(t *testing.T) {
	rules := (&Policy{Filesystem: &Filesystem{Read: []string{"/" + strings.Repeat("*a", 60) + "b"}}}).FileRules()
	if d := rules.Decide("/"+strings.Repeat("a", 4000), Read); d.Verdict != VerdictBlock {
		t.Error(d)
	}
}

func TestFloor(t *testing.T) {
	f := files(`
filesystem:
  read: [/a/**, /b/**, /f, /g/*.txt, "/{p,q}/**", /gone/x/**, /**/r]
  write: [/a/w/**]
  exec: [/bin/**]
  deny: [/b/s/**, /gone/**, "/**/.git"]
  require_approval: [/a/w/ask]
`).Filesystem
	f.Deny = slices.DeleteFunc(f.Deny, func(text string) bool { return text == "/**/.git" })
	floor := f.Floor()
	rule := func(path string, tree bool, a Access, rule string) string {
		return fmt.Sprint(FloorRule{path, tree, a, rule})
	}
	var whole, cut, globs []string
	for _, r := range floor.Rules {
		whole = append(whole, fmt.Sprint(r))
	}
	for _, r := range floor.Cut {
		cut = append(cut, fmt.Sprint(r.FloorRule, r.Cuts))
	}
	for _, g := range floor.Globs {
		globs = append(globs, fmt.Sprint(g))
	}
	check := func(name string, got []string, want ...string) {
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", name, got, want)
		}
	}
	check("rules", whole, rule("/f", false, Read, "/f"), rule("/p", true, Read, "/{p,q}/**"), rule("/q", true, Read, "/{p,q}/**"), rule("/bin", true, Read|Exec, "/bin/**"))
	check("cut", cut, rule("/a", true, Read, "/a/**")+" [/a/w/ask]", rule("/b", true, Read, "/b/**")+" [/b/s/**]", rule("/a/w", true, Write, "/a/w/**")+" [/a/w/ask]")
	check("globs", globs, fmt.Sprint(FloorGlob{"/g", Read, "/g/*.txt"}), fmt.Sprint(FloorGlob{"/", Read, "/**/r"}))

	f.Deny = append(f.Deny, "/**/.git")
	if floor := f.Floor(); len(floor.Rules) != 1 || floor.Rules[0].Path != "/f" {
		t.Errorf("a deny rule everywhere cuts every tree, but %v are whole", floor.Rules)
	}
	if floor := (*Filesystem)(nil).Floor(); len(floor.Rules)+len(floor.Cut)+len(floor.Globs) != 0 {
		t.Error("no section, no floor")
	}
}

func benchmarkRules(b *testing.B) *Rules {
	var f Filesystem
	for i := range 300 {
		f.Read = append(f.Read, fmt.Sprintf("/srv/app%d/**", i))
		f.Write = append(f.Write, fmt.Sprintf("/srv/app%d/data/*.json", i))
	}
	f.Read = append(f.Read, "/usr/**", "/home/agent/work/**")
	f.Exec = []string{"/usr/bin/*"}
	f.Deny = []string{"/**/.ssh/**", "/**/*.pem", "/home/agent/work/**/.env"}
	rules := (&Policy{Filesystem: &f}).FileRules()
	if d := rules.Decide("/home/agent/work/src/main.go", Read); d.Verdict != VerdictAllow {
		b.Fatal(d)
	}
	return rules
}

func BenchmarkDecide(b *testing.B) {
	rules := benchmarkRules(b)
	b.ReportAllocs()
	for b.Loop() {
		rules.Decide("/home/agent/work/src/main.go", Read)
	}
}
