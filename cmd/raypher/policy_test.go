package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/cmd/internal/usage"
	"github.com/raypher/raypher/policy"
)

// policyCLI runs one policy command and returns what it printed and its exit code.
func policyCLI(t *testing.T, in string, args ...string) (out, problems string, code int) {
	t.Helper()
	c := &cobra.Command{Use: "raypher"}
	c.AddCommand(policyCommand())
	usage.Explain(c)
	args = append([]string{"policy"}, args...)
	var stdout, stderr bytes.Buffer
	c.SetOut(&stdout)
	c.SetErr(&stderr)
	c.SetIn(strings.NewReader(in))
	c.SetArgs(args)
	c.SilenceErrors, c.SilenceUsage = true, true
	err := c.Execute()
	if err != nil {
		code = usage.ExitCode(err)
		stderr.WriteString(err.Error())
	}
	return stdout.String(), stderr.String(), code
}

// TestPolicyCommands: exit codes and what a person reads.
func TestPolicyCommands(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := write("good.yaml", "filesystem: {read: [/srv/app/**]}\n")
	wide := write("wide.yaml", "filesystem: {read: [/srv/**, ~/x]}\n")
	bad := write("bad.yaml", "filesystem:\n  raed: [/a]\nnetwork: {egress: [10.0.0.1/8]}\n")
	for _, c := range []struct {
		name          string
		in            string
		args          []string
		code          int
		out, problems string // words of them
	}{
		{"check", "", []string{"check", good, wide}, 0, "ok  " + good, ""},
		{"check what is bad", "", []string{"check", good, bad}, 1, "ok  " + good, bad + ":2:3: unknown key \"raed\"\n    did you mean read?\n" + bad + ":3:20:"},
		{"check standard input", "mode: x", []string{"check", "-"}, 1, "", "standard input:1:7:"},
		{"check JSON", "", []string{"check", "--json", bad}, 1, `"fix": "did you mean read?"`, ""},
		{"check nothing", "", []string{"check"}, 2, "", "requires at least 1 arg(s), only received 0: usage: raypher policy check FILE... [flags]"},
		{"check a missing file", "", []string{"check", "/nonexistent"}, 2, "", "no such file or directory: name a policy file, or - for standard input"},
		{"unknown flag", "", []string{"check", "--nope", good}, 2, "", "unknown flag: --nope: usage: raypher policy check FILE..."},
		{"explain", "", []string{"explain", good}, 0, "/srv/app/**", ""},
		{"explain what is bad", "", []string{"explain", bad}, 1, "", "did you mean read?"},
		{"explain JSON", "", []string{"explain", "--json", good}, 0, `"warnings"`, ""},
		{"hash", "", []string{"hash", good}, 0, "sha256:", ""},
		{"canonical form", "", []string{"hash", "--canonical", good}, 0, `{"filesystem":{"read":["/srv/app/**"]},"mode"`, ""},
		{"schema", "", []string{"schema"}, 0, `"$schema"`, ""},
		{"include", "", []string{"include", good, wide}, 0, "included", ""},
		{"include too much", "", []string{"include", "--home", "/home/u", wide, good}, 1, "filesystem.read: /home/u/x: not granted", ""},
		{"include JSON", "", []string{"include", "--json", "--home", "/home/u", wide, good}, 1, `"included": false`, ""},
		{"sign without key", "", []string{"sign", good}, 2, "", "give --key"},
		{"verify without signature", "", []string{"verify", good}, 1, "", "raypher policy sign makes it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, problems, code := policyCLI(t, c.in, c.args...)
			if strings.HasPrefix(problems, "raypher") { // main says it
				t.Errorf("the program is named twice: %s", problems)
			}
			if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(problems, c.problems) {
				t.Errorf("code %d, want %d\n%s\n%s", code, c.code, out, problems)
			}
			if strings.Contains(out+problems, "\x1b") {
				t.Error("colours without a terminal")
			}
			if strings.Contains(strings.Join(c.args, " "), "--json") && !json.Valid([]byte(out)) {
				t.Errorf("no JSON: %s", out)
			}
		})
	}
}

func TestPolicySignAndVerify(t *testing.T) {
	dir := t.TempDir()
	signers := filepath.Join(dir, "signers")
	if err := os.Mkdir(signers, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "p.yaml")
	if err := os.WriteFile(file, []byte("network: {egress: [a.com]}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(want int, args ...string) string {
		t.Helper()
		out, problems, code := policyCLI(t, "", args...)
		if code != want {
			t.Fatalf("%q: code %d, want %d: %s%s", args, code, want, out, problems)
		}
		return out + problems
	}
	run(0, "keygen", "--out", dir, "ops")
	run(0, "sign", "--key", filepath.Join(dir, "ops.key"), file)
	if said := run(1, "verify", "--signers", signers, file); !strings.Contains(said, "not trusted") {
		t.Error(said)
	}
	public, err := os.ReadFile(filepath.Join(dir, "ops.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(signers, "ops.pub"), public, 0o644); err != nil {
		t.Fatal(err)
	}
	if said := run(0, "verify", "--signers", signers, file); !strings.Contains(said, "signed by ops") {
		t.Error(said)
	}
	if err := os.WriteFile(file, []byte("# reformatted\nnetwork:\n  egress:\n    - A.COM\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(0, "verify", "--signers", signers, file)
	if err := os.WriteFile(file, []byte("network: {egress: [a.com, b.com]}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if said := run(1, "verify", "--signers", signers, file); !strings.Contains(said, policy.ErrPolicyChanged.Error()) {
		t.Error(said)
	}
}
