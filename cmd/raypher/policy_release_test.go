package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/raypher/raypher/policy"
	"github.com/raypher/raypher/release"
)

// TestPolicyRelease: what the command writes opens with the operator's key, and says what was asked for.
func TestPolicyRelease(t *testing.T) {
	dir := t.TempDir()
	key, source := filepath.Join(dir, "op.key"), filepath.Join(dir, "policy.yaml")
	mustCall(t, ceilingCommand(), "keygen", key)
	text := []byte("filesystem: {read: [\"~/work/**\"]}\n")
	if err := os.WriteFile(source, text, 0o644); err != nil {
		t.Fatal(err)
	}
	var said struct{ File, Name string }
	if err := json.Unmarshal([]byte(mustCall(t, policyCommand(), "release", "--json", "--key", key, "--name", "coder", "--version", "3", "--for", "24h", source)), &said); err != nil {
		t.Fatal(err)
	}
	der, err := readOperatorKey(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(said.File)
	if err != nil {
		t.Fatal(err)
	}
	r, err := release.Open(file, [][]byte{der})
	if err != nil {
		t.Fatal(err)
	}
	want, err := policy.Parse("policy.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "coder" || r.Version != 3 || r.Policy.Hash() != want.Hash() || r.Over(time.Now()) || !r.Over(time.Now().Add(25*time.Hour)) {
		t.Errorf("%+v", r)
	}
	for name, args := range map[string][]string{
		"no version":               {"--key", key, "--name", "coder", source},
		"version 0":                {"--key", key, "--name", "coder", "--version", "0", source},
		"a name that is no word":   {"--key", key, "--name", "a/b", "--version", "1", source},
		"over before it begins":    {"--key", key, "--name", "coder", "--version", "1", "--for", "-1h", source},
		"a key that is none":       {"--key", source, "--name", "coder", "--version", "1", source},
		"standard input, no --out": {"--key", key, "--name", "coder", "--version", "1", "-"},
	} {
		if out, err := call(t, policyCommand(), append([]string{"release"}, args...)...); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
}
