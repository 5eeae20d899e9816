package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCeilingSign: a ceiling's mistakes are all said at once, as those of a policy are; one without is signed and shown.
func TestCeilingSign(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "op.key")
	mustCall(t, ceilingCommand(), "keygen", key)
	source := filepath.Join(dir, "c.yaml")
	write := func(text string) {
		if err := os.WriteFile(source, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("version: 1\ntrust_domain: d\ngrants:\n- namespase: dev\n  agents: [x]\n  permit: {network: {egres: []}}\n")
	c := ceilingCommand()
	var said bytes.Buffer
	c.SetErr(&said)
	c.SetArgs([]string{"sign", "--key", key, source})
	c.SilenceErrors, c.SilenceUsage = true, true
	err := c.Execute()
	var exit *exitError
	want := source + ":4:3: grants[0].namespace: 0 bytes, from 1 to 256 are possible\n    \"*\" matches every one\n" +
		source + ":4:3: unknown key \"namespase\"\n    did you mean namespace?\n" +
		source + ":6:22: unknown key \"egres\"\n    did you mean egress?\n"
	if !errors.As(err, &exit) || exit.code != 1 {
		t.Errorf("%v", err)
	}
	for _, line := range strings.SplitAfter(want, "\n") {
		if !strings.Contains(said.String(), line) {
			t.Errorf("said\n%swant %s", said.String(), line)
		}
	}
	write("version: 1\ntrust_domain: d\ngrants:\n- namespace: dev\n  agents: [x]\n  permit: {resources: {max_processes: 9000000}}\n")
	if _, err := call(t, ceilingCommand(), "sign", "--key", key, source); err == nil {
		t.Error("a limit beyond its bounds was signed")
	}
	write("version: 1\ntrust_domain: d\ngrants:\n- namespace: dev\n  agents: [x]\n  permit: {resources: {max_processes: 4000000}}\n")
	mustCall(t, ceilingCommand(), "sign", "--key", key, source)
	if out := mustCall(t, ceilingCommand(), "show", filepath.Join(dir, "c.ceiling")); !strings.Contains(out, "max_processes: 4000000\n") {
		t.Errorf("shown:\n%s", out)
	}
}
