package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/policy"
)

const example = `{
  "skill_id": "acme/weather",
  "version": "1.2.0",
  "permissions": {
    "filesystem": {
      "read": ["./**", "/usr/share/zoneinfo/**"],
      "write": ["./cache/**"]
    },
    "network": {"egress": ["api.weather.example:443", "192.0.2.0/24:53"]},
    "exec": ["/usr/bin/python3", "./bin/*"]
  },
  "hashes": {
    "SKILL.md": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "bin/fetch.py": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
  }
}
`

func parse(t *testing.T, text string) *Manifest {
	t.Helper()
	m, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return m
}

func TestParse(t *testing.T) {
	m := parse(t, example)
	if m.SkillID != "acme/weather" || m.Version != "1.2.0" || len(m.Hashes) != 2 || m.Signature != nil {
		t.Errorf("read %+v", m)
	}
	if got := m.Asks.Network.Egress; !slices.Equal(got, []string{"api.weather.example:443", "192.0.2.0/24:53"}) {
		t.Errorf("egress %q", got)
	}
}

func TestEncodeIsReadBack(t *testing.T) {
	m := parse(t, example)
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again := parse(t, string(text))
	one, _ := m.Canonical()
	two, _ := again.Canonical()
	if !bytes.Equal(one, two) {
		t.Errorf("canonical form changed:\n%s\n%s", one, two)
	}
}

// What was written is signed: formatting, order of keys and escapes do not matter, an empty list is not a missing one.
func TestCanonical(t *testing.T) {
	canonical := func(text string) string {
		c, err := parse(t, text).Canonical()
		if err != nil {
			t.Fatal(err)
		}
		return string(c)
	}
	plain := canonical(`{"skill_id":"a","version":"1","permissions":{"exec":["/bin/\u0061"]}}`)
	if want := `{"permissions":{"exec":["/bin/a"]},"skill_id":"a","version":"1"}`; plain != want {
		t.Errorf("got %s, want %s", plain, want)
	}
	if other := canonical("{ \"permissions\":\n{\"exec\" :[\"/bin/a\"] },\"version\":\"1\",\"skill_id\":\"a\"}"); other != plain {
		t.Errorf("formatting changed the canonical form: %s", other)
	}
	empty := canonical(`{"skill_id":"a","version":"1","permissions":{"exec":["/bin/a"],"filesystem":{"read":[]}}}`)
	if want := `{"permissions":{"exec":["/bin/a"],"filesystem":{"read":[]}},"skill_id":"a","version":"1"}`; empty != want {
		t.Errorf("got %s, want %s", empty, want)
	}
}

func TestParseRefuses(t *testing.T) {
	sub := func(old, new string) string {
		if !strings.Contains(example, old) {
			t.Fatalf("the example has no %q", old)
		}
		return strings.Replace(example, old, new, 1)
	}
	tests := []struct {
		name, text string
		want       []string // each must be part of the error
	}{
		{"empty", "", []string{"clawmanifest.json:1:1", "end of the file"}},
		{"not an object", `["a"]`, []string{"1:1", "the manifest is an array, it must be an object"}},
		{"trailing bytes", example + "x", []string{"17:1", "after the end of the document", "remove everything"}},
		{"second document", `{} {}`, []string{"1:4", "after the end"}},
		{"cut short", example[:60], []string{"4:7", "does not end"}},
		{"trailing comma", sub(`"./bin/*"]`, `"./bin/*",]`), []string{"10:44", "expected a value"}},
		{"trailing comma in an object", `{"version": "1",}`, []string{"1:17", "expected a key"}},
		{"missing comma", sub(`"version": "1.2.0",`, `"version": "1.2.0"`), []string{"4:3", "expected , or }"}},
		{"comment", sub(`"hashes"`, `// here "hashes"`), []string{"12:3", "expected a key"}},
		{"single quotes", `{'version': 1}`, []string{"1:2", "expected a key", "double quotes"}},
		{"NaN", sub(`"1.2.0"`, `NaN`), []string{"3:14", "NaN and Infinity are not JSON"}},
		{"number", sub(`"1.2.0"`, `1.2`), []string{"3:14", "version is a number, it must be a string"}},
		{"null", sub(`"1.2.0"`, `null`), []string{"3:14", "version is null, it must be a string"}},
		{"string for a list", sub(`["./cache/**"]`, `"./cache/**"`), []string{"7:16", "permissions.filesystem.write is a string, it must be a list"}},
		{"list of lists", sub(`["./cache/**"]`, `[["./cache/**"]]`), []string{"7:17", "permissions.filesystem.write[0] is an array"}},
		{"invalid UTF-8", sub("acme/weather", "acme\xff"), []string{"2:20", "byte 0xff is not UTF-8"}},
		{"byte order mark", "\ufeff" + example, []string{"1:1", "byte order mark"}},
		{"lone surrogate", sub("acme", `\ud800`), []string{"2:16", "surrogate"}},
		{"surrogates the wrong way round", sub("acme", `\udc00\ud800`), []string{"2:16", "surrogate"}},
		{"bad escape", sub("acme", `\x41`), []string{"2:16", "unknown escape"}},
		{"line break in a string", sub("acme/", "acme\n"), []string{"2:20", "control character"}},
		{"NUL in a path", sub("/usr/bin/python3", `/usr/bin/\u0000`), []string{"10:14", "permissions.exec[0]"}},
		{"too deep", strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 20), []string{"1:46", "more than 8 deep"}},
		{"too large", `{"skill_id": "` + strings.Repeat("a", maxDocument) + `"}`, []string{"a manifest has at most 1048576 bytes"}},
		{"string too long", sub("acme", strings.Repeat("a", 5000)), []string{"more than 4096 bytes"}},
		{"list too long", sub(`["./cache/**"]`, `["/a"`+strings.Repeat(`,"/a"`, maxItems)+`]`), []string{"more than 8192 elements"}},
		{"too many permissions", sub(`["./cache/**"]`, `["/a"`+strings.Repeat(`,"/a"`, maxPatterns)+`]`), []string{"7:16", "has 513 items, more than 512"}},
		{"skill_id", sub("acme/weather", "../weather"), []string{"2:15", "skill_id", "not well formed"}},
		{"version", sub("1.2.0", "1 2"), []string{"3:14", "version", "not well formed"}},
		{"missing keys", `{}`, []string{"has no permissions", "has no skill_id", "has no version"}},
		{"signature without value", sub(`"skill_id"`, `"signature": {"algorithm": "Ed25519", "signed_by": "acme"}, "skill_id"`), []string{"2:16", "signature has no value"}},
		{"egress", sub("api.weather.example:443", "api.weather.example:99999"), []string{"9:28", `permissions.network.egress[0] "api.weather.example:99999"`}},
		{"CIDR", sub("192.0.2.0/24:53", "192.0.2.0/40"), []string{"9:55", "permissions.network.egress[1]"}},
		{"relative pattern", sub("./cache/**", "cache/**"), []string{"7:17", `write "./cache/**"`}},
		{"pattern that leaves the folder", sub("./cache/**", "./cache/../../**"), []string{"7:17", "has a .. in it"}},
		{"absolute hash", sub(`"bin/fetch.py"`, `"/bin/fetch.py"`), []string{"14:5", "is absolute"}},
		{"hash outside", sub(`"bin/fetch.py"`, `"bin/../../fetch.py"`), []string{"14:5", "leaves the folder"}},
		{"hash not clean", sub(`"bin/fetch.py"`, `"bin//./fetch.py"`), []string{"14:5", `write "bin/fetch.py"`}},
		{"hash of the manifest", sub(`"bin/fetch.py"`, `"clawmanifest.json"`), []string{"14:5", "is the manifest itself"}},
		{"upper-case digest", sub("sha256:e3b0", "sha256:E3B0"), []string{"14:21", "not a SHA-256 digest"}},
		{"other digest", sub("sha256:e3b0", "sha512:e3b0"), []string{"14:21", "not a SHA-256 digest"}},
		{"everything at once", `{
  "skill_id": 7,
  "version": "1", "version": "2",
  "permisions": {},
  "permissions": {"exec": [1, "/bin/sh"], "Network": {}},
  "hashes": {"a": "sha256:00"}
}`, []string{"2:15: skill_id is a number", `3:19: the key "version" stands twice, first in line 3`, `4:3: unknown key "permisions"`, "5:28: permissions.exec[0] is a number",
			`5:43: unknown key "Network" in permissions: known are exec, filesystem, network`, "6:19: hashes[\"a\"] is not a SHA-256 digest"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := Parse([]byte(tt.text))
			var ps policy.Errors
			if m != nil || !errors.As(err, &ps) {
				t.Fatalf("got %v, %v; want policy.Errors", m, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q:\n%v", want, err)
				}
			}
		})
	}
}

// A document in one long line must not cost the square of its length to place.
func TestParseLongLine(t *testing.T) {
	text := `{"a":[` + strings.Repeat(`["`+strings.Repeat("é", 50)+`"],`, 8000) + `[]]}`
	if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), "unknown key") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(example))
	f.Add([]byte(`{"skill_id":"a","version":"1","permissions":{},"signature":{"algorithm":"Ed25519","signed_by":"a","value":"AA==","covers":{"a":["b"]}}}`))
	f.Add([]byte(`{"a":"\ud83d\ude00\n","b":[1e400,-0,true,null,NaN]}`))
	f.Add([]byte("\ufeff{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Parse(data)
		if err != nil {
			var ps policy.Errors
			if !errors.As(err, &ps) || len(ps) == 0 {
				t.Fatalf("error without problems: %v", err)
			}
			return
		}
		if !json.Valid(data) {
			t.Fatalf("accepted what encoding/json refuses: %q", data)
		}
		one, err := m.Canonical()
		if err != nil {
			t.Fatalf("no canonical form: %v", err)
		}
		text, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("does not read its own output: %v\n%s", err, text)
		}
		if two, _ := again.Canonical(); !bytes.Equal(one, two) {
			t.Fatalf("canonical form is not stable:\n%s\n%s", one, two)
		}
	})
}
