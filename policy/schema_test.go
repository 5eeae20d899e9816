package policy

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"
)

// TestSchema validates the examples and mistakes with an independent implementation of JSON Schema.
func TestSchema(t *testing.T) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("policy.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("policy.json")
	if err != nil {
		t.Fatal(err)
	}
	validate := func(text []byte) error {
		var value any
		if err := yaml.Unmarshal(text, &value); err != nil {
			t.Fatal(err)
		}
		return schema.Validate(value)
	}
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no examples", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(text); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	if err := validate([]byte("filesystem: {exec: [/a, {path: ~/b, sha256: " + sumA + "}]}")); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{
		"filesytem: {}", "mode: off", "network: {on_deny: drop}", "filesystem: {read: /a}", "filesystem: {read: [a]}",
		"filesystem: {read: [3]}", "syscalls: {ptrce: deny}", "syscalls: {bpf: forbid}", "resources: {max_fds: 0}",
		"resources: {max_fds: many}", "namespace: A", "network: {egress: [1]}",
		"filesystem: {exec: [{path: /a}]}", "filesystem: {exec: [{path: /a, sha256: x}]}",
	} {
		if validate([]byte(bad)) == nil {
			t.Errorf("the schema accepts %s", bad)
		}
		if _, err := Parse("bad", []byte(bad)); err == nil {
			t.Errorf("Parse accepts %s", bad)
		}
	}
}

// TestSchemaDescribesEveryKey: a key without a text has been forgotten in schema.go.
func TestSchemaDescribesEveryKey(t *testing.T) {
	keys := strings.Count(string(Schema()), `"description"`)
	if keys != len(schemaTexts) {
		t.Errorf("%d descriptions for %d texts", keys, len(schemaTexts))
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct {
		name, text string
		lines      []string // "action says what" of some lines
		warnings   []string // words, one for each warning
	}{
		{"nothing", "{}", []string{"files and programs not governed", "connect refused all (no network section)", "listen refused all"},
			[]string{"files are not governed"}},
		{"least", `{filesystem: {read: [~/work/**], write: [~/work/out/**], exec: [/usr/bin/git]}, network: {egress: ["a.com:443"], on_deny: reject}}`,
			[]string{"read files granted ~/work/**", "read files granted /usr/bin/git (exec implies read)", "write files refused all others",
				"execute refused all others", "connect granted a.com:443", "connect refused all others, with an error", "connect to unix sockets refused all"}, nil},
		{"broad", `{filesystem: {read: ["/**"], write: [~/**], exec: ["/**"]}, network: {default_action: allow, unix: ["/**"]}, mode: audit}`,
			[]string{"connect granted all others but reserved addresses (default_action: allow)"},
			[]string{"mode audit refuses nothing", "read /** reaches secrets", "write ~/** reaches", "exec /** with default_action allow",
				"exec /** may also be written", "default_action allow", "unix", "unix", "unix", "unix", "unix", "unix", "unix",
				"io.systemd.Resolve, which resolves every name", "/run/nscd/socket", "/var/run/nscd/socket", "avahi"}},
		{"private names", `{filesystem: {}, network: {egress: ["private *.corp.example", "private nas.example.com:445"]}}`,
			[]string{"connect granted private *.corp.example", "connect granted private nas.example.com:445"}, []string{"private *.corp.example: whoever answers"}},
		{"secrets denied", `filesystem: {read: [~/**], deny: ["~/.{ssh,aws,config,kube,gnupg,docker}/**", ~/.netrc, ~/.git-credentials]}`,
			[]string{"any access refused ~/.netrc"}, nil},
		{"useless", `filesystem: {read: [/a/b/**, /c], deny: [/a/**], require_approval: [/a/x]}`, nil,
			[]string{"read /a/b/** has no effect", "require_approval /a/x has no effect"}},
		{"who comes in", `{filesystem: {}, network: {ingress: [8080, "10.0.0.0/8:90", "2001:db8::/32"]}}`,
			[]string{"flows from outside granted from everyone to port 8080", "flows from outside granted from 10.0.0.0/8 to port 90", "flows from outside granted from 2001:db8::/32 to every port"}, nil},
		{"any address", `{filesystem: {}, network: {egress: ["0.0.0.0/0:443"]}}`, nil, []string{"reaches every address"}},
		{"limits and calls", "{filesystem: {}, resources: {max_fds: 7}, syscalls: {bpf: log, kill: allow}}",
			[]string{"resources limited 7 open files per process", "resources not governed MiB of memory", "system call logged bpf"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := files(c.text).Explain()
			var all strings.Builder
			for _, line := range e.Lines {
				all.WriteString(line.Action + " " + line.Says + " " + line.What + "\n")
			}
			for _, want := range c.lines {
				if !strings.Contains(all.String(), want) {
					t.Errorf("no line %q in\n%s", want, all.String())
				}
			}
			if len(e.Warnings) != len(c.warnings) {
				t.Errorf("%d warnings, want %d: %q", len(e.Warnings), len(c.warnings), e.Warnings)
				return
			}
			for i, want := range c.warnings {
				if !strings.Contains(e.Warnings[i], want) {
					t.Errorf("warning %q, want %q", e.Warnings[i], want)
				}
			}
		})
	}
}
