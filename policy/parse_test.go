package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestParseProblems: every mistake with its line, column, and words of the message and the fix.
func TestParseProblems(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string // line:column words, all of them in the problem's text
	}{
		{"empty", "", []string{"1:1 empty policy"}},
		{"comment only", "# nothing\n", []string{"1:1 empty policy"}},
		{"null", "~\n", []string{"1:1 empty policy"}},
		{"a list", "- a\n", []string{"1:1 a list where keys are wanted"}},
		{"two documents", "mode: audit\n---\nmode: enforce\n", []string{"2:1 second YAML document"}},
		{"not UTF-8", "mode: \xff\n", []string{"1:7 not UTF-8"}},
		{"NUL", "mode: audit\nnamespace: a\x00b", []string{"2:13 not UTF-8"}},
		{"NUL by escape", `filesystem: {read: ["/a\u0000b"]}`, []string{"1:21 control character"}},
		{"unknown key", "filesytem: {}\n", []string{"1:1 did you mean filesystem"}},
		{"unknown key far off", "zzz: 1\n", []string{"1:1 known keys: approval, filesystem, mode"}},
		{"unknown key below", "network:\n  egres: []\n", []string{"2:3 did you mean egress"}},
		{"twice", "mode: audit\nmode: enforce\n", []string{"2:1 stands twice, first in line 1"}},
		{"key is no word", "1: a\n[a]: b\n", []string{"1:1 number 1 as a key", "2:1 a list as a key"}},
		{"wrong types", "filesystem: 3\nnetwork: [a]\nresources: yes please\nsyscalls:\n", []string{
			"1:13 number 3 where keys", "2:10 a list where keys", `3:12 text "yes please" where keys`, "4:10 nothing where keys"}},
		{"scalars", "mode: 1\nnamespace: true\non_violation: [kill]\n", []string{"1:7 number 1", "2:12 truth value", "3:15 a list"}},
		{"words", "mode: off\non_violation: log\n", []string{"1:7 enforce, audit or permissive", "2:15 block or kill"}},
		{"list forms", "filesystem:\n  read: /a\n  write:\n  exec: {a: b}\n  deny: [1, [[x]], {a: b}, ~]\n", []string{
			`2:9 write a list: ["/a"]`, "3:9 nothing where a list", "4:9 a section where a list",
			"5:10 number 1 where text", `5:15 path "x" is relative`, "5:20 a section where text", `5:28 write "~" in quotes`}},
		{"namespaces", "namespace: a.b\n", []string{`1:12 "a.b" is no namespace`}},
		{"syscalls", "syscalls:\n  ptrce: deny\n  bpf: forbid\n  open: deny\n  OPENAT: deny\n", []string{
			"2:3 did you mean ptrace", "3:8 allow, deny or log", "5:3 did you mean openat"}},
		{"paths", `filesystem: {read: [a, ./b, "", ~bob, /a/../b, $HOME/x, /a**, /***, "/a[bc]", "/{a", "/a}", '/a\b', '/a\']}`, []string{
			`write "/a"`, `write "/b"`, "empty path", "~user is not known", ".. leads elsewhere", `write "~/x"`, "** beside",
			"three stars", "[ has no meaning", "{ without }", "} without {", "nothing special", "nothing special"}},
		{"quotes forgotten", "filesystem:\n  read: [/usr/{bin,lib}]\n", []string{"2:15 put quotes around values with {"}},
		{"star taken for an alias", "network:\n  egress:\n    - *.example.com\n", []string{`3:7 "*.example.com"`}},
		{"tab", "mode: audit\n\tnamespace: a\n", []string{"2: YAML"}},
		{"egress", `network: {egress: [10.0.0.1/8, "2001:db8::1/32", 10.0.0.0/33, 10.0.0.0/08, a.com/24, 1.2.3, "1.2.3.4:0", "a:b", "::ffff:1.2.3.4",
  "fe80::1%eth0", "2001:db8::/32:443", "[2001:db8::1]/64", "[::1", "[1.2.3.4]:5", "*", "a.*.com", "*.com", "a..b", -a.com, "a.com:*", "a.com:1-2", münchen.de, ":80", "a b",
  "private 10.0.0.1:80", "private a.com/24", "private  a.com", "a.com private", "private münchen.de"]}`, []string{
			`write "10.0.0.0/8" for the network, or "10.0.0.1"`, `write "2001:db8::/32"`, `"33" is no prefix length`, `"08" is no prefix length`,
			"a name cannot have a prefix length", "is not an address", `"0" is no port`, `"b" is no port`, `write "1.2.3.4"`,
			`write "fe80::1"`, "write [2001:db8::/32]:443", "inside the brackets", "[ without ]", "only IPv6 stands in brackets",
			"names a domain", "middle of a name", "top-level domain", "not a host name", "not a host name",
			"leave the port out", "one rule for each port", "ASCII", "names no destination", "space",
			`write "10.0.0.1:80"`, "a name cannot have a prefix length", "space", "space", "ASCII"}},
		{"listen", `network: {listen: [0, 65536, "localhost:80", a.com, "10.0.0.1/8:80", true]}`, []string{
			"is no port", "is no port", "127.0.0.1 or [::1]", "not names", "bits set", "truth value"}},
		{"ingress", `network: {ingress: [0, "localhost:80", a.com, "10.0.0.1/8:80", "0.0.0.0:80", "::", ":80", "fe80::1%eth0"]}`, []string{
			"is no port", "not names", "not names", "bits set", "write the port alone", "nobody has this address", "names no destination", `write "fe80::1"`}},
		{"network words", "network: {default_action: deny, on_deny: drop}", []string{"1:27 drop or allow", "1:42 blackhole or reject"}},
		{"resources", "resources: {max_fds: 0, max_memory_mb: 1.5, max_processes: 0x10}", []string{
			"1:22 not between", "1:40 number 1.5", "1:60 number 0x10"}},
		{"merge of no mapping", "filesystem: &f [a]\nnetwork:\n  <<: *f\n", []string{"1:13 a list where keys", "1:17 text"}},
		{"merge of itself", "filesystem: &f\n  <<: *f\n", []string{"merge keys nest"}},
		{"list of itself", "filesystem:\n  read: &r [/a, *r]\n", []string{"where text is wanted"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Parse("p.yaml", []byte(c.text))
			var problems Errors
			if !errors.As(err, &problems) || p != nil {
				t.Fatalf("got %v, %v, want Errors", p, err)
			}
			if len(problems) != len(c.want) {
				t.Errorf("%d problems, want %d:\n%v", len(problems), len(c.want), err)
			}
			for i, want := range c.want {
				where, words, _ := strings.Cut(want, " ")
				if !strings.Contains(where, ":") {
					where, words = "", want
				}
				found := i < len(problems) && problems[i].File == "p.yaml" && problems[i].Line > 0 && problems[i].Column > 0
				text := strings.Join(strings.Split(err.Error(), "\n")[min(i, len(problems)-1):min(i+1, len(problems))], "")
				if !found || !strings.Contains(text, words) || !strings.HasPrefix(text, "p.yaml:"+where) {
					t.Errorf("problem %d: %q, want %s %q", i, text, where, words)
				}
			}
		})
	}
}

// TestParseForms: different texts, one policy.
func TestParseForms(t *testing.T) {
	want := `{"filesystem":{"deny":["~/.ssh/**"],"read":["/usr/**","~","~/work/**"],"write":["~/work/**"]},"mode":"enforce","namespace":"default",` +
		`"network":{"default_action":"drop","egress":["10.0.0.0/8:443","[2001:db8::]:443","api.example.com"],"listen":["127.0.0.1:80","8080"],"on_deny":"blackhole"},` +
		`"on_violation":"block","resources":{"max_fds":1024},"syscalls":{"ptrace":"deny"}}`
	for name, text := range map[string]string{
		"block style": `
# a comment
resources:
  max_fds: 1024
network:
  listen: [8080, "127.0.0.1:80"]
  egress:
    - API.Example.COM.
    - 10.0.0.0/8:443
    - "[2001:DB8:0::]:443"
    - api.example.com
filesystem:
  write: ["~/work/**"]
  read: [/usr//**, ~/./work/**/, "~/", ~/work/**/**]
  deny: [~/.ssh/**]
syscalls: {ptrace: deny}
`,
		"anchors and aliases": `
filesystem:
  write: &work [~/work/**]
  read: [*work, /usr/**, "~"]
  deny: [~/.ssh/**]
network: {egress: [api.example.com, &net 10.0.0.0/8:443, "[2001:db8::]:443", *net], listen: ["127.0.0.1:80", "8080"]}
resources: {max_fds: 1024}
syscalls: {ptrace: deny}
`,
		"merge keys": `
filesystem: {read: [/usr/**, "~", ~/work/**], write: [~/work/**], deny: [~/.ssh/**]}
network:
  <<: [{listen: ["127.0.0.1:80", 8080], egress: [a.com]}, {on_deny: reject}]
  on_deny: blackhole
  egress: [api.example.com, 10.0.0.0/8:443, "[2001:db8::]:443"]
resources: {<<: {max_fds: 7}, max_fds: 1024}
syscalls: {ptrace: deny}
mode: enforce
`,
		"JSON": want,
	} {
		t.Run(name, func(t *testing.T) {
			p, err := Parse("test", []byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if got := string(p.Canonical()); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

// TestSectionsAlone: a policy need not have a filesystem section, nor any other.
func TestSectionsAlone(t *testing.T) {
	for _, text := range []string{"syscalls: {bpf: log}", "network: {}", "resources: {max_processes: 9}", "namespace: a", "{}",
		"syscalls: {bpf: log}\nnetwork: {egress: [a.com]}\nresources: {max_fds: 9}"} {
		p, err := Parse("test", []byte(text))
		if err != nil || p.Filesystem != nil || p.FileRules().Governed() {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestExpansionBombs: what aliases, braces and depth may cost.
func TestExpansionBombs(t *testing.T) {
	aliases := "filesystem:\n  read:\n    - &a0 [/a, /a, /a, /a, /a, /a, /a, /a, /a]\n"
	for i := 1; i < 12; i++ {
		aliases += fmt.Sprintf("    - &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1)
	}
	var many strings.Builder
	many.WriteString("filesystem: {read: [")
	for i := range 200 {
		fmt.Fprintf(&many, `"/%d%s",`, i, strings.Repeat("{a,b}", 8))
	}
	many.WriteString("]}")
	for name, c := range map[string]struct{ text, want string }{
		"aliases":       {aliases, "aliases make more than"},
		"depth":         {"a: " + strings.Repeat("[", 5000), "depth"},
		"size":          {"#" + strings.Repeat("x", MaxSize), "at most"},
		"braces of one": {`filesystem: {read: ["/` + strings.Repeat("{a,b}", 40) + `"]}`, "more than 256"},
		"choices":       {`filesystem: {read: ["/{` + strings.Repeat("a,", 400) + `}"]}`, "more than 256"},
		"nesting":       {`filesystem: {read: ["/` + strings.Repeat("{", 40) + strings.Repeat("}", 40) + `"]}`, "nest deeper"},
		"braces in all": {many.String(), "of all paths"},
		"long list":     {"network: {egress: [" + strings.Repeat("a.com, ", 5000) + "]}", "5000 items"},
		"long path":     {"filesystem: {read: [/" + strings.Repeat("a", 5000) + "]}", "at most 4096"},
	} {
		t.Run(name, func(t *testing.T) {
			started := time.Now()
			_, err := Parse("bomb", []byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %.300v, want %q", err, c.want)
			}
			t.Log(time.Since(started))
		})
	}
}

// TestExamplesParse holds every policy that the repository ships, and those of the documentation.
func TestExamplesParse(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(file, text); err != nil {
			t.Error(err)
		}
	}
	for page, least := range map[string]int{"policy.md": 4, "network.md": 3} {
		guide, err := os.ReadFile("../docs/" + page)
		if err != nil {
			t.Fatal(err)
		}
		blocks := strings.Split(string(guide), "```yaml\n")[1:]
		for i, block := range blocks {
			text, _, _ := strings.Cut(block, "```")
			if _, err := Parse(fmt.Sprintf("docs/%s, block %d", page, i+1), []byte(text)); err != nil {
				t.Error(err)
			}
		}
		if len(blocks) < least {
			t.Errorf("only %d examples in docs/%s", len(blocks), page)
		}
	}
}
