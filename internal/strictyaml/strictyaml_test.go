package strictyaml

import (
	"fmt"
	"strings"
	"testing"
)

// form is a file with one of each kind of value.
type form struct {
	Name   string
	Size   *uint64
	Paths  []string
	Parts  []string // names of the sections in the list
	Limits map[string]string
}

func parse(text string) (*form, error) {
	r, root, err := Load(File{Name: "f", What: "form", Empty: "write a name", Limit: 1 << 20}, []byte(text))
	if err != nil {
		return nil, err
	}
	f := &form{Limits: map[string]string{}}
	r.Fields("", root, map[string]func(Place, *Node){
		"name":  func(at Place, n *Node) { r.Text(at, n, &f.Name) },
		"size":  func(at Place, n *Node) { r.Number(at, n, &f.Size) },
		"paths": func(at Place, n *Node) { r.List(at, n, &f.Paths, Items{Null: "quote it"}) },
		"parts": func(at Place, n *Node) {
			r.Each(at, n, func(at Place, n *Node) {
				var name string
				inner := r.Inner()
				defer inner.Close(r)
				inner.Fields("", n, map[string]func(Place, *Node){"name": func(at Place, n *Node) { inner.Text(at, n, &name) }})
				f.Parts = append(f.Parts, name)
			})
		},
		"limits": func(at Place, n *Node) {
			r.Mapping(at, n, func(key string, at Place, n *Node) {
				var text string
				if r.Text(at, n, &text) {
					f.Limits[key] = text
				}
			})
		},
	})
	return f, r.Err()
}

func TestReads(t *testing.T) {
	f, err := parse("name: a\nsize: 3\npaths: &p [x, y]\nparts: [{name: one}, {name: two}]\nlimits: {<<: {a: one, b: two}, a: own}\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(f.Name, *f.Size, f.Paths, f.Parts, f.Limits); got != "a3 [x y] [one two] map[a:own b:two]" {
		t.Error(got)
	}
}

// TestRefuses: every mistake at once, each with its place and what to write.
func TestRefuses(t *testing.T) {
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 9; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"nothing", "", []string{"f:1:1: empty form: write a name"}},
		{"null", "# x\n~\n", []string{"f:2:1: empty form"}},
		{"no mapping", "[a]", []string{"f:1:1: a list where keys are wanted"}},
		{"two documents", "name: a\n---\nname: b\n", []string{"f:2:1: second YAML document: keep one form in one file"}},
		{"broken YAML", "name: [a", []string{"f:2:1: YAML: did not find expected"}},
		{"not UTF-8", "name: \xff", []string{"f:1:7: not UTF-8 text"}},
		{"too long", "#" + strings.Repeat("x", 1<<20), []string{"at most 1048576"}},
		{"all kinds at once", "nmae: a\nname: 3\nname: b\nsize: -1\npaths: x\nparts: {}\nlimits: [a]\n", []string{
			"f:1:1: unknown key \"nmae\": did you mean name?", "f:2:7: number 3 where text is wanted", "f:3:1: key \"name\" stands twice, first in line 2",
			"f:4:7: number -1 where a number is wanted", "f:5:8: text \"x\" where a list is wanted: write a list: [\"x\"]",
			"f:6:8: a section where a list is wanted", "f:7:9: a list where keys are wanted"}},
		{"in an inner section", "parts:\n  - name: a\n  - {nme: b}\n", []string{"f:3:6: unknown key \"nme\": did you mean name?"}},
		{"items", "paths: [~, 3, {}, a]", []string{"f:1:9: nothing where text is wanted: quote it", "f:1:12: number 3 where text", "f:1:15: a section where text"}},
		{"aliases that blow up", bomb + "paths: *a8\n", []string{"aliases make more than 100000 values"}},
		{"nesting", "paths: " + strings.Repeat("[", 60) + strings.Repeat("]", 60), []string{"f:1:"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parse(c.text)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got:\n%v\nwant %s", err, want)
				}
			}
		})
	}
}

// FuzzLoad: whatever the bytes are, reading them ends, and problems have places.
func FuzzLoad(f *testing.F) {
	f.Add("name: a\nparts: [{name: b}]\nlimits: {<<: *x}\n")
	f.Add("a: &a [*a]\n<<: [*a]\n")
	f.Add("paths: [~, [x, [y]]]\n")
	f.Fuzz(func(t *testing.T, text string) {
		form, err := parse(text)
		if err == nil && form == nil {
			t.Error("neither a form nor an error")
		}
		if problems, ok := err.(Errors); err != nil && (!ok || len(problems) == 0) {
			t.Errorf("%T: %v", err, err)
		}
	})
}
