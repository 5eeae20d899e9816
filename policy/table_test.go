package policy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// oddPaths are paths that a walk over bytes could take otherwise than one over characters: characters of several bytes, broken
// ones, and such as no path is.
var oddPaths = []string{
	"", "/", "a", "//", "/a/", "/a//b", "/.", "/..", "/...", "/a/.", "/a/..", "/a/../b", "/.a", "/..a", "/a/./b",
	"/é", "/éa", "/aé", "/€", "/\U0001f600", "/\xc3", "/\xa9", "/\xc3\xc3\xa9", "/\xe2\x82", "/\xe2\x82/a", "/\xe2\x82a", "/\xf0\x9f\x98",
	"/\xed\xa0\x80", "/\xc0\x80", "/\xf4\x90\x80\x80", "/\xff", "/a\x80", "/\xe2\x82\xc3\xa9", "/\xf0\x9f\x98\x80\x80", "/\xef\xbf\xbd", "/a\nb", "/a\x00b",
	"/é/é", "/ä/b", "/\xe2\x82\xac/b", "/\xe2\x82\xad/b", "/\xf0\x90\x80\x80", "/\xf0\x80\x80\x80",
}

// sameDecisions compares a table with the rules on path, for every access.
func sameDecisions(t testing.TB, p *Policy, table *Table, rules *Rules, path string) {
	for a := Access(0); a <= Read|Write|Exec; a++ {
		want, got := rules.Decide(path, a), table.Decide(path, a)
		if got.Verdict != want.Verdict {
			t.Fatalf("%+v: %q access %d: the table says %v, the rules %v", *p.Filesystem, path, a, got.Verdict, want.Verdict)
		}
		if (got.Rule == "") != (want.Rule == "") && want.Verdict != VerdictAllow {
			t.Fatalf("%+v: %q access %d: the table names the rule %q, the rules %q", *p.Filesystem, path, a, got.Rule, want.Rule)
		}
		if got.Rule != "" && !referenceMatch(got.Rule, path) {
			t.Fatalf("%+v: %q is said to match %q", *p.Filesystem, path, got.Rule)
		}
	}
}

func mustTable(t testing.TB, p *Policy) *Table {
	table, err := p.FileTable()
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestTableDecidesAsTheRulesDo(t *testing.T) {
	paths := append(smallPaths(), oddPaths...)
	for _, f := range []*Filesystem{
		{},
		{Read: []string{"/"}},
		{Read: []string{"/**"}},
		{Read: []string{"/a"}, Write: []string{"/a/**"}, Deny: []string{"/a/b/**", "/**/x"}},
		{Read: []string{"/a/**"}, RequireApproval: []string{"/**/b", "/x/**"}, Exec: []string{"/a/aa"}},
		{Read: []string{"/?"}}, {Read: []string{"/??"}}, {Read: []string{"/???"}}, {Read: []string{"/????/b"}},
		{Read: []string{"/é"}}, {Read: []string{"/?é"}}, {Read: []string{"/*é"}}, {Read: []string{"/é*", "/è?", "/€"}}, {Read: []string{"/*?é?"}},
		{Read: []string{"/\u20ac/b"}, Deny: []string{"/*/b"}}, {Read: []string{"/*\U0001f600*"}}, {Read: []string{"/\ufffd"}, Write: []string{"/?\ufffd"}},
		{Read: []string{"/**/a/**/b"}, Deny: []string{"/**/.*"}}, {Read: []string{"/*.*"}, Write: []string{"/.*"}, Exec: []string{"/..?"}},
		{Read: []string{"/{a,b}/{,x}b"}, Write: []string{`/a\*b`}, Exec: []string{"/**"}},
		{Read: []string{"/**"}, Deny: []string{"/a/**", "/a"}, RequireApproval: []string{"/a/**"}},
	} {
		p := &Policy{Filesystem: f}
		table, rules := mustTable(t, p), p.FileRules()
		for _, path := range paths {
			sameDecisions(t, p, table, rules, path)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		p := &Policy{Filesystem: randomFilesystem(r)}
		table, rules := mustTable(t, p), p.FileRules()
		for _, path := range paths {
			sameDecisions(t, p, table, rules, path)
		}
	}
}

// What a state says of everything below it holds for all small paths there, and is said where a pattern makes it so.
func TestTableKnowsWhereVerdictsEnd(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	paths := smallPaths()
	said := 0
	for range 100 {
		p := &Policy{Filesystem: randomFilesystem(r)}
		table, rules := mustTable(t, p), p.FileRules()
		for _, folder := range paths[1:74] {
			lists, uniform := table.below(folder)
			if !uniform {
				continue
			}
			said++
			for _, path := range paths {
				if !strings.HasPrefix(path, folder+"/") {
					continue
				}
				for a := Access(0); a <= Read|Write|Exec; a++ {
					if got := rules.Decide(path, a).Verdict; got != lists.verdict(a) {
						t.Fatalf("%+v: all below %q is said to be in %b, and %q is %v", *p.Filesystem, folder, lists, path, got)
					}
				}
			}
		}
	}
	if said < 1000 {
		t.Errorf("only %d folders are uniform", said)
	}
	for _, test := range []struct {
		fs      Filesystem
		folder  string
		lists   mask
		uniform bool
	}{
		{Filesystem{Read: []string{"/a/**"}}, "/a", listRead.bit(), true},
		{Filesystem{Read: []string{"/a/**"}}, "/a/b", listRead.bit(), true},
		{Filesystem{Read: []string{"/a/**"}}, "/b", 0, true},
		{Filesystem{Read: []string{"/a/b"}}, "/a", 0, false},
		{Filesystem{Read: []string{"/a/**"}, Deny: []string{"/a/k/**"}}, "/a", 0, false},
		{Filesystem{Read: []string{"/a/**"}, Deny: []string{"/a/k/**"}}, "/a/k", listDeny.bit(), true},
		{Filesystem{Read: []string{"/a/**"}, Deny: []string{"/**/.env"}}, "/a/k", 0, false},
	} {
		lists, uniform := mustTable(t, &Policy{Filesystem: &test.fs}).below(test.folder)
		if lists != test.lists || uniform != test.uniform {
			t.Errorf("%+v: below %q: %b, %v", test.fs, test.folder, lists, uniform)
		}
	}
}

// below is automaton_below of bpf/include/automaton.h.
func (t *Table) below(folder string) (mask, bool) {
	at := uint32(tableStart)
	for i := range len(folder) {
		at = t.next(at, folder[i])
	}
	outcome := t.Cells[t.next(at, '/')].Owner
	return mask(outcome >> outcomeSharedShift & outcomeLists), outcome&outcomeUniform != 0
}

func TestTableRefusesWhatItCannotHold(t *testing.T) {
	for name, p := range map[string]*Policy{
		"no file rules":    {},
		"a home folder":    {Filesystem: &Filesystem{Read: []string{"~/x"}}},
		"a broken pattern": {Filesystem: &Filesystem{Deny: []string{"/a/["}}},
	} {
		if _, err := p.FileTable(); err == nil || errors.Is(err, ErrTable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var deny []string
	for c := 'a'; c <= 'z'; c++ {
		deny = append(deny, fmt.Sprintf("/**/*%c*%s", c, strings.Repeat("?", 12)))
	}
	if _, err := (&Policy{Filesystem: &Filesystem{Deny: deny}}).FileTable(); !errors.Is(err, ErrTable) {
		t.Errorf("patterns that multiply states: %v", err)
	}
}

// manyRules are n rules of the shapes that policies have: folders, deny inside, names anywhere.
func manyRules(n int) *Policy {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	f := &Filesystem{Read: []string{"/usr/**"}, Deny: []string{"/**/.env", "/**/*.pem"}}
	for i := range n {
		name := fmt.Sprintf("%x", r.Uint64())
		switch i % 5 {
		case 0:
			f.Write = append(f.Write, "/srv/tenants/"+name+"/out/**")
		case 1:
			f.Deny = append(f.Deny, "/srv/tenants/"+name+"/keys/**")
		case 2:
			f.Exec = append(f.Exec, "/opt/"+name+"/bin/*")
		default:
			f.Read = append(f.Read, fmt.Sprintf("/srv/tenants/%s/project-%d/**", name, i))
		}
	}
	return &Policy{Filesystem: f}
}

func TestTableHoldsThousandsOfRules(t *testing.T) {
	p := manyRules(5000)
	table, rules := mustTable(t, p), p.FileRules()
	t.Logf("%d cells", len(table.Cells))
	for _, texts := range [][]string{p.Filesystem.Write, p.Filesystem.Deny, p.Filesystem.Read, p.Filesystem.Exec} {
		for _, text := range texts[:50] {
			path := strings.NewReplacer("/**", "/x/.env", "*", "y").Replace(text)
			for _, path := range []string{path, path + "z", strings.TrimSuffix(path, ".env") + "ok"} {
				sameDecisions(t, p, table, rules, path)
			}
		}
	}
}

// FuzzTable compares tables with the rules, whose definition FuzzMatch holds.
func FuzzTable(f *testing.F) {
	f.Add("/a/**", "/**/.env", "/a/{b,é?}*", "/a/.env")
	f.Add("/?\u20ac", "/*", "/**/b", "/a\xe2\x82\xac")
	compared := 0
	f.Cleanup(func() { f.Logf("compared %d paths", compared) })
	f.Fuzz(func(t *testing.T, read, deny, third, path string) {
		if len(read)+len(deny)+len(third) > 120 {
			return
		}
		p := &Policy{Filesystem: &Filesystem{Read: []string{read, third}, Deny: []string{deny}, Exec: []string{third}, RequireApproval: []string{third + "/*"}}}
		for _, text := range []string{read, deny, third, third + "/*"} {
			if patterns, fault := parsePattern(text); fault != nil || patterns[0].home {
				return
			}
		}
		table, err := p.FileTable()
		if errors.Is(err, ErrTable) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		compared++
		rules := p.FileRules()
		for a := Read; a <= Read|Write|Exec; a++ {
			if got, want := table.Decide(path, a).Verdict, rules.Decide(path, a).Verdict; got != want {
				t.Fatalf("%q access %d: the table says %v, the rules %v", path, a, got, want)
			}
		}
	})
}

func BenchmarkTableCompile(b *testing.B) {
	for _, n := range []int{10, 500, 5000} {
		p := manyRules(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				mustTable(b, p)
			}
		})
	}
}
