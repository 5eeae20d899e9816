package policy

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func addExamples(f *testing.F) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
}

// FuzzParse: no panic; what is accepted has one canonical form that reads back, expands and compiles.
func FuzzParse(f *testing.F) {
	addExamples(f)
	for _, text := range []string{"{}", "filesystem: &f\n  <<: *f\n", "filesystem: {read: [&a [/x, *a]]}", "a: *b", "syscalls: {<<: [{bpf: log}]}", "\"\\u0000\"", "? [a]\n: b"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := Parse("fuzz", data)
		if err != nil {
			problems, ok := err.(Errors)
			if !ok || len(problems) == 0 || problems[0].Message == "" {
				t.Fatalf("error %#v is no list of problems", err)
			}
			return
		}
		checkAccepted(t, p)
	})
}

// FuzzParseCanonical: no panic; what is accepted is exactly the bytes that were given.
func FuzzParseCanonical(f *testing.F) {
	f.Add([]byte(`{"mode":"enforce","namespace":"default","on_violation":"block"}`))
	f.Add([]byte(`{"filesystem":{"read":["/a","~/b"]},"mode":"enforce","namespace":"default","network":{"default_action":"drop","egress":["a.com"],"on_deny":"blackhole"},"on_violation":"block","resources":{"max_fds":3},"syscalls":{"bpf":"log"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParseCanonical(data)
		if err != nil {
			return
		}
		if !bytes.Equal(p.Canonical(), data) {
			t.Fatalf("accepted %q, whose canonical form is %q", data, p.Canonical())
		}
		checkAccepted(t, p)
	})
}

func checkAccepted(t *testing.T, p *Policy) {
	canonical := p.Canonical()
	if _, err := ParseCanonical(canonical); err != nil {
		t.Fatalf("canonical form %s: %v", canonical, err)
	}
	again, err := ParseIntent("again", canonical)
	if err != nil || again.Hash() != p.Hash() {
		t.Fatalf("canonical form %s read as YAML: %v", canonical, err)
	}
	expanded, err := p.Expand("/home/u")
	if err != nil {
		if strings.Contains(err.Error(), "at most") {
			return // longer than a path may be, with the home folder
		}
		t.Fatal(err)
	}
	if expanded.FileRules().broken != "" {
		t.Fatalf("%s does not compile", expanded.Canonical())
	}
	expanded.FileRules().Decide("/home/u/x", Read)
	expanded.Filesystem.Floor()
	p.Explain()
}

// smallAlphabet maps fuzzed bytes to patterns over few characters, so that their paths can be tried.
func smallAlphabet(data string) string {
	var b strings.Builder
	b.WriteByte('/')
	for i := range min(len(data), 24) {
		b.WriteString([]string{"a", "b", "/", "*", "?", "/**/", "{", ",", "}", "."}[data[i]%10])
	}
	return b.String()
}

// FuzzMatch compares the compiled pattern with the definition.
func FuzzMatch(f *testing.F) {
	f.Add("\x05\x00\x03", "a/ab/b")
	f.Add("\x06\x00\x07\x01\x08\x02\x04", "b/x")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		text := smallAlphabet(pattern)
		if _, fault := parsePattern(text); fault != nil || len(path) > 64 {
			return
		}
		path = "/" + path
		rules := (&Policy{Filesystem: &Filesystem{Read: []string{text}}}).FileRules()
		if _, clean := rules.match(path); !clean {
			return
		}
		got := rules.Decide(path, Read).Verdict == VerdictAllow
		if want := referenceMatch(text, path); got != want {
			t.Fatalf("%q on %q: %v, want %v", text, path, got, want)
		}
		if cleaned := cleanPattern(text); referenceMatch(cleaned, path) != got {
			t.Fatalf("%q cleaned to %q matches otherwise on %q", text, cleaned, path)
		}
	})
}

// FuzzIncluded compares inclusion with trying all small paths, and each escape that it names with the definition.
func FuzzIncluded(f *testing.F) {
	paths := smallPaths()
	f.Add("\x06\x00\x07\x01\x08", "\x00", "\x01")
	f.Add("\x05", "\x03\x05", "\x00\x04")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		inner, outer := smallAlphabet(a), []string{smallAlphabet(b), smallAlphabet(c)}
		for _, text := range append(outer, inner) {
			if _, fault := parsePattern(text); fault != nil {
				return
			}
		}
		m := newAutomaton()
		for _, text := range outer {
			m.add(text, 1)
		}
		example, found, ok := m.search(inner, func(l mask) bool { return l == 0 }, func(sure mask) bool { return sure != 0 })
		escapes := func(path string) bool { return referenceMatch(inner, path) && !matchesAny(outer, path) }
		if !ok {
			return
		}
		if found && len(example) < 40 && !escapes(example) {
			t.Fatalf("%q in %q: %q is no escape", inner, outer, example)
		}
		for _, path := range paths[:90] {
			if !found && escapes(path) {
				t.Fatalf("%q in %q: %q escapes", inner, outer, path)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text, err := os.ReadFile("testdata/agent.yaml")
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Parse("agent.yaml", text); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseCanonical(b *testing.B) {
	text, err := os.ReadFile("testdata/agent.yaml")
	if err != nil {
		b.Fatal(err)
	}
	p, err := Parse("agent.yaml", text)
	if err != nil {
		b.Fatal(err)
	}
	canonical := p.Canonical()
	for b.Loop() {
		if _, err := ParseCanonical(canonical); err != nil {
			b.Fatal(err)
		}
	}
}
