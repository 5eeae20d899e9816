package policy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestInclusionAgainstReference compares the answers for random lists of patterns with trying all small paths.
//
// A path that escapes must be found by both: the patterns have at most three components with at most two wildcards and
// literals in each, but an escape may need longer names or more of them than the small paths have. So what the search finds
// is checked by the reference matcher on the path that it names, and what small paths show must be found.
func TestInclusionAgainstReference(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	paths := smallPaths()
	included, beyond := 0, 0
	for i := range 1500 {
		inner, outer := randomPattern(r), append(randomPatterns(r, 3), randomPattern(r))
		if i%3 == 0 {
			outer = append(outer, splitOf(inner)...)
		}
		m := newAutomaton()
		for _, text := range outer {
			m.add(text, 1)
		}
		example, found, ok := m.search(inner, func(l mask) bool { return l == 0 }, func(sure mask) bool { return sure != 0 })
		if !ok {
			t.Fatalf("%s in %q: out of budget", inner, outer)
		}
		escapes := func(path string) bool { return referenceMatch(inner, path) && !matchesAny(outer, path) }
		if found {
			beyond++
			if !escapes(example) {
				t.Fatalf("%s in %q: %s is no escape", inner, outer, example)
			}
			continue
		}
		included++
		if at := slices.IndexFunc(paths, escapes); at >= 0 {
			t.Fatalf("%s in %q: said to be included, but %s escapes", inner, outer, paths[at])
		}
	}
	t.Logf("%d included, %d beyond, each checked on up to %d paths", included, beyond, len(paths))
	if included < 200 || beyond < 200 {
		t.Fatalf("the random patterns are one-sided: %d included, %d beyond", included, beyond)
	}
}

// splitOf makes patterns that only together hold all that inner matches.
func splitOf(inner string) []string {
	if before, after, ok := strings.Cut(inner, "{a,b}"); ok {
		return []string{before + "a" + after, before + "b" + after}
	}
	return []string{strings.Replace(inner, "?", "*", 1)}
}

func matchesAny(texts []string, path string) bool {
	return slices.ContainsFunc(texts, func(text string) bool { return referenceMatch(text, path) })
}

// TestNarrowIsTheStricterOfBoth is the meaning of narrowing: for every access of every path the narrowed policy says what the
// stricter of the two says, and a policy that is refused really asks for more on some path.
func TestNarrowIsTheStricterOfBoth(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	paths := smallPaths()
	narrowed, refused, asked := 0, 0, 0
	for range 1200 {
		outer, inner := randomFilesystem(r), randomFilesystem(r)
		if r.IntN(4) > 0 {
			inner.Read = append(slices.Clone(outer.Read[:r.IntN(len(outer.Read)+1)]), inner.Read[:min(1, len(inner.Read))]...)
			inner.Write, inner.Exec = outer.Write, nil
			outer.Read = append(outer.Read, "/a/**")
		}
		result, err := Narrow(&Policy{Filesystem: outer}, &Policy{Filesystem: inner})
		if err != nil {
			refused++
			continue
		}
		narrowed++
		asked += len(result.Filesystem.RequireApproval)
		rules, above, below := result.FileRules(), (&Policy{Filesystem: outer}).FileRules(), (&Policy{Filesystem: inner}).FileRules()
		for _, path := range paths {
			for a := Read; a <= Read|Write|Exec; a++ {
				got := rules.Decide(path, a).Verdict
				want := min(above.Decide(path, a).Verdict, below.Decide(path, a).Verdict)
				if got != want {
					t.Fatalf("outer %+v\ninner %+v\nresult %+v\n%s access %d: %s, want %s", *outer, *inner, *result.Filesystem, path, a, got, want)
				}
			}
		}
		if beyond := Included(result, &Policy{Filesystem: outer}); len(beyond) > 0 {
			for _, b := range beyond {
				if b.Reason != "denied by the policy above" {
					t.Fatalf("narrowed %+v is beyond %+v: %v", *result.Filesystem, *outer, beyond)
				}
			}
		}
	}
	t.Logf("%d narrowed with %d approval rules, %d refused", narrowed, asked, refused)
	if narrowed < 200 || refused < 200 || asked < 50 {
		t.Fatal("the random policies are one-sided")
	}
}

func files(text string) *Policy {
	p, err := Parse("test", []byte(text))
	if err != nil {
		panic(err)
	}
	return p
}

var inclusionCases = []struct {
	name         string
	outer, inner string
	beyond       []string // items, in order
}{
	{"same", "filesystem: {read: [/a/**]}", "filesystem: {read: [/a/**]}", nil},
	{"deeper", "filesystem: {read: [/a/**]}", `filesystem: {read: [/a/b, "/a/*/c", "/a/{x,y}/**"]}`, nil},
	{"beside", "filesystem: {read: [/a/**]}", "filesystem: {read: [/a/b, /ab, /]}", []string{"/", "/ab"}},
	{"split over two rules", "filesystem: {read: [/x/a, /x/b]}", `filesystem: {read: ["/x/{a,b}"]}`, nil},
	{"split over two rules, one missing", "filesystem: {read: [/x/a]}", `filesystem: {read: ["/x/{a,b}"]}`, []string{"/x/{a,b}"}},
	{"a name is never empty", `filesystem: {read: ["/x/?*"]}`, `filesystem: {read: ["/x/*"]}`, nil},
	{"union of lengths", `filesystem: {read: ["/x/?", "/x/??*"]}`, `filesystem: {read: ["/x/*"]}`, nil},
	{"union of lengths with a hole", `filesystem: {read: ["/x/?", "/x/???*"]}`, `filesystem: {read: ["/x/*"]}`, []string{"/x/*"}},
	{"tree from root and children", `filesystem: {read: ["/a", "/a/*/**"]}`, `filesystem: {read: ["/a/**"]}`, nil},
	{"two trees meet", `filesystem: {read: ["/**/a/**"]}`, `filesystem: {read: ["/x/**/a/b/**"]}`, nil},
	{"write is not read", "filesystem: {write: [/a/**]}", "filesystem: {read: [/a/b]}", []string{"/a/b"}},
	{"exec is read", "filesystem: {exec: [/a/**]}", "filesystem: {read: [/a/b]}", nil},
	{"read is not exec", "filesystem: {read: [/a/**]}", "filesystem: {exec: [/a/b]}", []string{"/a/b"}},
	{"a deny inside carries down", "filesystem: {read: [/a/**], deny: [/a/s/**]}", "filesystem: {read: [/a/**]}", nil},
	{"asks for what is denied", "filesystem: {read: [/a/**], deny: [/a/s/**]}", "filesystem: {read: [/a/s/k]}", []string{"/a/s/k"}},
	{"own deny makes room", "filesystem: {read: [/a/x/**]}", `filesystem: {read: ["/a/{x,y}/**"], deny: [/a/y/**]}`, nil},
	{"no section above: not governed", "namespace: a", "filesystem: {read: [/a]}", nil},
	{"no section below: inherited", "filesystem: {read: [/a]}", "namespace: a", nil},
	{"empty section grants nothing", "filesystem: {}", "filesystem: {read: [/a]}", []string{"/a"}},
	{"approval narrows", "filesystem: {read: [/a/**]}", "filesystem: {read: [/a/**], require_approval: [/a/b]}", nil},
	{"approval alone asks for all", "filesystem: {read: [/a/**]}", "filesystem: {require_approval: [/a/b]}", []string{"/a/b"}},
	{"approval within approval", "filesystem: {require_approval: [/a/**]}", "filesystem: {require_approval: [/a/b]}", nil},
	{"read of what is asked about", "filesystem: {require_approval: [/a/**]}", "filesystem: {read: [/a/b]}", nil},
	{"approval cut across", `filesystem: {read: [/a/**], require_approval: ["/a/*x"]}`, `filesystem: {read: ["/a/y*"]}`, []string{"/a/y*"}},
	{"home", "filesystem: {read: [~/**]}", `filesystem: {read: ["~", ~/x, /home/u/x]}`, []string{"/home/u/x"}},
	{"everything holds home", "filesystem: {read: [/**]}", "filesystem: {read: [~/x]}", nil},

	{"network absent above grants nothing", "namespace: a", "network: {egress: [10.0.0.1]}", []string{"10.0.0.1"}},
	{"address in net", "network: {egress: [10.0.0.0/8]}", "network: {egress: [10.1.0.0/16, 10.9.9.9, 10.9.9.9:53]}", nil},
	{"net in halves", "network: {egress: [10.0.0.0/9, 10.128.0.0/9]}", "network: {egress: [10.0.0.0/8]}", nil},
	{"net in halves, one for one port", `network: {egress: [10.0.0.0/9, "10.128.0.0/9:443"]}`, `network: {egress: [10.0.0.0/8, "10.0.0.0/8:443"]}`, []string{"10.0.0.0/8"}},
	{"IPv4 is not IPv6", "network: {egress: [0.0.0.0/0]}", `network: {egress: ["::/0", "::1"]}`, []string{"::/0", "::1"}},
	{"names", `network: {egress: ["*.a.com", "b.com:443"]}`, `network: {egress: ["x.a.com:1", "*.y.a.com", "b.com:443", a.com, b.com, "*.com.b.com"]}`,
		[]string{"*.com.b.com", "a.com", "b.com"}},
	{"private names", `network: {egress: ["private *.a.com", "private b.com:443", c.com]}`, `network: {egress: ["private x.a.com:1", y.a.com, "private *.z.a.com", "b.com:443", "private b.com:443", "private c.com", c.com]}`,
		[]string{"private c.com"}},
	{"private names below default allow", "network: {default_action: allow}", "network: {egress: [private a.com]}", nil},
	{"private names below networks", "network: {egress: [a.com, 10.0.0.0/8]}", "network: {egress: [private a.com]}", []string{"private a.com"}},
	{"addresses do not grant names", `network: {egress: [0.0.0.0/0, "::/0"]}`, "network: {egress: [a.com]}", []string{"a.com"}},
	{"default allow above", "network: {default_action: allow}", `network: {default_action: allow, egress: [a.com, "::/0"]}`, nil},
	{"reserved addresses below a wide rule", `network: {egress: [0.0.0.0/0, "::/0"]}`, `network: {egress: ["127.0.0.1:80", 169.254.169.254, "::1", "10.0.0.1", "64:ff9b::7f00:1"]}`,
		[]string{"127.0.0.1:80", "169.254.169.254", "64:ff9b::7f00:1", "::1"}},
	{"reserved addresses below default allow", `network: {default_action: allow, egress: [127.0.0.0/8]}`, `network: {egress: ["127.0.0.1:80", 169.254.169.254]}`, []string{"169.254.169.254"}},
	{"halves of a reserved range", `network: {egress: [127.0.0.0/9, 127.128.0.0/9]}`, `network: {egress: [127.0.0.0/8]}`, nil},
	{"default allow below", "network: {egress: [a.com]}", "network: {default_action: allow}", []string{"allow"}},
	{"listen", `network: {listen: ["127.0.0.1:80", 90]}`, `network: {listen: ["127.0.0.1:80", "[::1]:90", 90, 80, "0.0.0.0:80"]}`, []string{"0.0.0.0:80", "80"}},
	{"ingress", `network: {ingress: ["10.0.0.0/8:80", "2001:db8::/32", 90]}`, `network: {ingress: ["10.1.0.0/16:80", "10.0.0.0/8", "10.0.0.0/7:80", "[2001:db8::1]:7", 90, "192.0.2.1:90", 91]}`,
		[]string{"10.0.0.0/7:80", "10.0.0.0/8", "91"}},
	{"ingress below listening at every address", `network: {listen: [80, "127.0.0.1:90"]}`, `network: {ingress: [80, "10.0.0.0/8:80", "127.0.0.1:90"]}`, []string{"127.0.0.1:90"}},
	{"listening below ingress of everyone", `network: {ingress: [80, "10.0.0.0/8:90"]}`, `network: {listen: [80, "127.0.0.1:80", "10.0.0.1:90"]}`, []string{"10.0.0.1:90"}},
	{"ingress below nothing", "network: {}", "network: {ingress: [80]}", []string{"80"}},
	{"unix", `network: {unix: ["/run/*.sock"]}`, `network: {unix: [/run/a.sock, /run/a/b.sock]}`, []string{"/run/a/b.sock"}},

	{"syscalls", "syscalls: {ptrace: deny, bpf: log}", "syscalls: {ptrace: log, bpf: allow, mount: allow}", []string{"bpf: allow", "ptrace: log"}},
	{"syscalls that silence refuses", "syscalls: {bpf: deny}", "syscalls: {shmget: allow, mq_open: log, semget: deny, bpf: deny}", []string{"mq_open: log", "shmget: allow"}},
	{"syscalls that silence refuses, under nothing", "{}", "syscalls: {shmget: allow}", []string{"shmget: allow"}},
	{"syscalls that silence refuses, allowed above", "syscalls: {shmget: allow, semget: allow}", "syscalls: {shmget: log}", nil},
	{"syscalls stricter", "syscalls: {ptrace: log, bpf: allow}", "syscalls: {ptrace: deny, bpf: log}", nil},
	{"limits", "resources: {max_fds: 10, max_processes: 5}", "resources: {max_fds: 11, max_memory_mb: 5}", []string{"11"}},
	{"mode", "mode: audit", "mode: permissive", []string{"permissive"}},
	{"stricter mode", "mode: audit", "mode: enforce", nil},
	{"namespace", "namespace: a", "namespace: b", []string{"b"}},
	{"namespace by default", "namespace: a", "mode: enforce", nil},
}

func TestIncluded(t *testing.T) {
	for _, c := range inclusionCases {
		t.Run(c.name, func(t *testing.T) {
			var items []string
			for _, b := range Included(files(c.inner), files(c.outer)) {
				if b.Reason == "" {
					t.Errorf("%s: no reason", b)
				}
				items = append(items, b.Item)
			}
			if !slices.Equal(items, c.beyond) {
				t.Errorf("beyond %q, want %q", items, c.beyond)
			}
		})
	}
}

func TestNarrowInherits(t *testing.T) {
	outer := files("{namespace: prod, mode: audit, on_violation: kill, syscalls: {ptrace: deny}, network: {egress: [a.com]}, " +
		"filesystem: {read: [/a/**], deny: [/a/s]}, resources: {max_fds: 10, max_processes: 7}}")
	inner := files("{mode: enforce, syscalls: {bpf: log}, filesystem: {read: [/a/**], deny: [/a/t]}, resources: {max_fds: 9}}")
	got, err := Narrow(outer, inner)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"filesystem":{"deny":["/a/s","/a/t"],"read":["/a/**"]},"mode":"enforce","namespace":"prod",` +
		`"network":{"default_action":"drop","egress":["a.com"],"on_deny":"blackhole"},"on_violation":"kill",` +
		`"resources":{"max_fds":9,"max_processes":7},"syscalls":{"bpf":"log","ptrace":"deny"}}`
	if string(got.Canonical()) != want {
		t.Errorf("got  %s\nwant %s", got.Canonical(), want)
	}
	if got, err := Narrow(outer, &Policy{}); err != nil || got.Hash() != outer.Hash() {
		t.Errorf("an empty policy does not inherit everything: %s, %v", got.Canonical(), err)
	}
	intent, err := ParseIntent("intent", []byte("{filesystem: {read: [/a/b]}}"))
	if err != nil {
		t.Fatal(err)
	}
	if intent, err = ParseCanonical(intent.Canonical()); err != nil {
		t.Fatal(err)
	}
	if got, err := Narrow(outer, intent); err != nil || got.Mode != Audit || got.Namespace != "prod" || got.OnViolation != Kill {
		t.Errorf("an intent changes what it does not name: %+v, %v", got, err)
	}
	_, err = Narrow(inner, outer)
	var excess *Excess
	if !errors.As(err, &excess) || len(excess.Items) == 0 || !strings.Contains(err.Error(), "a.com") {
		t.Errorf("widening: %v", err)
	}
}

// TestIntricatePatternsFailClosed makes the subset construction explode: the answer must be beyond, soon.
func TestIntricatePatternsFailClosed(t *testing.T) {
	inner := "/" + strings.Repeat("*a", 40) + strings.Repeat("?", 40)
	outer := "/*a" + strings.Repeat("?", 39)
	started := time.Now()
	beyond := Included(files(fmt.Sprintf("filesystem: {read: [%q]}", inner)), files(fmt.Sprintf("filesystem: {read: [%q, /b]}", outer)))
	if len(beyond) != 1 {
		t.Fatalf("beyond %v", beyond)
	}
	t.Logf("%s after %s", beyond[0].Reason, time.Since(started))
}

func BenchmarkIncluded(b *testing.B) {
	var outer, inner Filesystem
	for i := range 300 {
		outer.Read = append(outer.Read, fmt.Sprintf("/srv/app%d/**", i), fmt.Sprintf("/home/*/data%d/*.json", i))
		inner.Read = append(inner.Read, fmt.Sprintf("/srv/app%d/sub/*.txt", i), fmt.Sprintf("/home/u/data%d/x*.json", i))
	}
	outer.Deny = []string{"/**/.ssh/**", "/**/*.pem"}
	above, below := &Policy{Filesystem: &outer}, &Policy{Filesystem: &inner}
	for b.Loop() {
		if beyond := Included(below, above); len(beyond) > 0 {
			b.Fatal(beyond[0])
		}
	}
}
