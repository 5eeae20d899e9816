package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// manifestCLI runs one command line of raypher manifest.
func manifestCLI(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	c := manifestCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	var b bytes.Buffer
	c.SetOut(&b)
	c.SetErr(&b)
	c.SetArgs(args)
	err = c.Execute()
	return b.String(), err
}

func writeFile(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The way of docs/manifest.md: an author makes, signs and hands out a skill, an operator checks it, somebody changes it.
func TestManifestFromKeyToRefusal(t *testing.T) {
	dir := t.TempDir()
	skill, signers := filepath.Join(dir, "weather"), filepath.Join(dir, "signers")
	writeFile(t, filepath.Join(skill, "SKILL.md"), "# Weather\n")
	writeFile(t, filepath.Join(skill, "bin/weather.py"), "print('sunny')\n")
	if err := os.Mkdir(signers, 0o755); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		before func()
		args   []string
		fails  bool
		says   []string
	}{
		{nil, []string{"keygen", "acme", "--out", dir}, false, []string{"acme.key", "key id sha256:"}},
		{nil, []string{"keygen", "acme", "--out", dir}, true, nil},
		{nil, []string{"verify", skill, "--signers", signers}, true, nil},
		{nil, []string{"init", skill, "--id", "acme/weather"}, false, []string{"clawmanifest.json", "raypher manifest sign"}},
		{nil, []string{"init", skill}, true, nil},
		{nil, []string{"verify", skill, "--signers", signers}, true, []string{"not signed", `"SKILL.md" was not signed`}},
		{nil, []string{"sign", skill}, true, nil},
		{nil, []string{"sign", "--key", filepath.Join(dir, "acme.key"), skill}, false, []string{`added    "SKILL.md"`, `added    "bin/weather.py"`, "signed acme/weather 0.1.0 with 2 files as acme"}},
		{nil, []string{"verify", skill, "--signers", signers}, true, []string{"no signer is trusted here"}},
		{func() {
			if err := os.Rename(filepath.Join(dir, "acme.pub"), filepath.Join(signers, "acme.pub")); err != nil {
				t.Fatal(err)
			}
		}, []string{"verify", skill, "--signers", signers}, false, []string{"ok  acme/weather 0.1.0, signed by acme"}},
		{nil, []string{"verify", filepath.Join(skill, "clawmanifest.json"), "--signers", signers, "--json"}, false, []string{`"ok": true`}},
		{nil, []string{"show", skill}, false, []string{skill + "/**", "reaches    nothing", "not checked"}},
		{func() { writeFile(t, filepath.Join(skill, "bin/weather.py"), "import os\n") }, []string{"verify", skill, "--signers", signers}, true, []string{`"bin/weather.py" was changed`}},
		{nil, []string{"sign", "--key", filepath.Join(dir, "acme.key"), skill}, false, []string{`changed  "bin/weather.py"`}},
	}
	for _, s := range steps {
		if s.before != nil {
			s.before()
		}
		out, err := manifestCLI(t, s.args...)
		if (err != nil) != s.fails {
			t.Fatalf("manifest %q: %v\n%s", s.args, err, out)
		}
		for _, want := range s.says {
			if !strings.Contains(out, want) {
				t.Errorf("manifest %q does not say %q:\n%s", s.args, want, out)
			}
		}
	}
}

func TestManifestVerifyAgainstPolicy(t *testing.T) {
	dir := t.TempDir()
	skill := filepath.Join(dir, "weather")
	writeFile(t, filepath.Join(skill, "clawmanifest.json"), `{"skill_id": "a", "version": "1", "permissions": {"exec": ["/usr/bin/python3"], "network": {"egress": ["evil.example"]}}}`)
	writeFile(t, filepath.Join(dir, "policy.yaml"), "filesystem: {exec: [/usr/bin/*]}\nnetwork: {egress: [good.example]}\n")
	if _, err := manifestCLI(t, "keygen", "acme", "--out", dir); err != nil {
		t.Fatal(err)
	}
	if _, err := manifestCLI(t, "sign", "--key", filepath.Join(dir, "acme.key"), skill); err != nil {
		t.Fatal(err)
	}
	out, err := manifestCLI(t, "verify", skill, "--signers", dir, "--policy", filepath.Join(dir, "policy.yaml"), "--json")
	var exit *exitError
	if !errors.As(err, &exit) || exit.code != 1 {
		t.Errorf("got %v, want exit code 1", err)
	}
	var result manifestResult
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if result.OK || len(result.Beyond) != 1 || result.Beyond[0].Item != "evil.example" {
		t.Errorf("got %+v", result)
	}
}
