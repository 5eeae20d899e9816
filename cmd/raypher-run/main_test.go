package main

import (
	"bytes"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLight: what every start of an agent waits for is not linked into this program.
func TestLight(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dependency := range strings.Fields(string(out)) {
		for _, heavy := range []string{
			"google.golang.org/", "net/http", "crypto/tls", "github.com/spf13/cobra", "github.com/cilium/ebpf", "github.com/google/go-tpm",
			"github.com/gowebpki/jcs", "github.com/raypher/raypher/proto",
		} {
			if dependency == heavy || strings.HasPrefix(dependency, strings.TrimSuffix(heavy, "/")+"/") {
				t.Errorf("it links %s", dependency)
			}
		}
	}
}

func build(t *testing.T, folder, name, path string) string {
	t.Helper()
	program := filepath.Join(folder, name)
	cmd := exec.Command("go", "build", "-o", program, path)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// TestOneCommand: the two programs are one to who types `raypher`, and either says in words that the other is missing.
func TestOneCommand(t *testing.T) {
	folder := t.TempDir()
	front := build(t, folder, "raypher", ".")
	play := func(arguments ...string) (string, int) {
		cmd := exec.Command(front, arguments...)
		cmd.Env = []string{"PATH=/nonexistent", "RAYPHER_RUN_DIR=" + t.TempDir()}
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		err := cmd.Run()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return said.String(), cmd.ProcessState.ExitCode()
	}
	for _, arguments := range [][]string{{"status"}, {}, {"run", "--unheard-of"}, {"run", "--help"}} {
		want := 1
		if len(arguments) > 0 && arguments[0] == "run" {
			want = 125 // never to be taken for the program's own
		}
		if said, code := play(arguments...); code != want || !strings.Contains(said, "raypher-cli is not beside raypher") {
			t.Errorf("%q without the other program: %d, %s", arguments, code, said)
		}
	}
	build(t, folder, "raypher-cli", "../raypher")
	for _, c := range []struct {
		arguments []string
		code      int
		said      string
	}{
		{[]string{"--help"}, 0, "Available Commands"},
		{[]string{"run", "--help"}, 0, "--policy"},
		{[]string{"run", "-h"}, 0, "--policy"},
		{[]string{"run", "--unheard-of"}, 125, "unknown flag: --unheard-of: see raypher run --help"},
		{[]string{"run", "--policy"}, 125, "flag needs an argument"},
		{[]string{"run"}, 125, "no program"},
		{[]string{"run", "--quiet", "--json", "--", "true"}, 125, "exclude each other"},
		{[]string{"run", "--", "/nonexistent/program"}, 127, "no such file"},
		{[]string{"warden"}, 1, "for `raypher run`"},
		{[]string{"warden", "--unheard-of"}, 2, "unknown flag"},
		{[]string{"unheard-of"}, 2, "unknown command"},
		{[]string{"policy", "check", "/nonexistent"}, 2, "/nonexistent"},
	} {
		if said, code := play(c.arguments...); code != c.code || !strings.Contains(said, c.said) {
			t.Errorf("%q: %d, want %d with %q: %s", c.arguments, code, c.code, c.said, said)
		}
	}
}
