package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParsePCRs(t *testing.T) {
	value := strings.Repeat("ab", 32)
	for _, c := range []struct{ name, text, want string }{
		{"two", "7 = " + value + "\n\n# firmware\n0=" + value + " # measured", ""},
		{"none", "# nothing", "1: no PCRs"},
		{"SHA-1", "0 = " + value + "\n7 = " + value[:40], "2: 20 bytes: the SHA-256 bank"},
		{"twice", "7 = " + value + "\n7 = " + value, "2: PCR 7 stands twice"},
		{"no number", "seven = " + value, "1: expected"},
		{"no value", "7", "1: expected"},
		{"no hexadecimal", "7 = xy", "1: expected"},
	} {
		pcrs, err := parsePCRs(c.text)
		if c.want == "" && (err != nil || len(pcrs) != 2 || pcrs[0].Index != 0 || pcrs[1].Index != 7) || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%s: %v, %v", c.name, pcrs, err)
		}
	}
}

func TestSealPolicyAndShow(t *testing.T) {
	dir := t.TempDir()
	key, ed, pcrs, out := filepath.Join(dir, "key"), filepath.Join(dir, "ed"), filepath.Join(dir, "pcrs"), filepath.Join(dir, "policy")
	line := "7 = " + strings.Repeat("ab", 32)
	if err := os.WriteFile(pcrs, []byte(line+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, error) {
		c := sealCommand()
		if args[0] == "keygen" {
			c = ceilingCommand()
		}
		var text bytes.Buffer
		c.SetOut(&text)
		c.SetErr(&text)
		c.SetArgs(args)
		err := c.Execute()
		return text.String(), err
	}
	for _, args := range [][]string{{"keygen", "--p256", key}, {"keygen", ed}, {"policy", pcrs, "--key", key, "--name", "api", "--version", "2", "-o", out}} {
		if text, err := run(args...); err != nil {
			t.Fatalf("%q: %s, %v", args, text, err)
		}
	}
	if shown, err := run("show", out); err != nil || !strings.Contains(shown, line) || !strings.Contains(shown, "secret api, policy version 2; the signature was not verified") {
		t.Errorf("%s, %v", shown, err)
	}
	if _, err := run("policy", pcrs, "--key", ed, "--name", "api", "--version", "2", "-o", out); err == nil || !strings.Contains(err.Error(), "--p256") {
		t.Errorf("with an Ed25519 key: %v", err)
	}
}
