package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExitStatus: the exit status is the program's; 125, 126 and 127 mean that it was never started.
func TestExitStatus(t *testing.T) {
	m := newMachine(t)
	plain := filepath.Join(m.home.Work, "plain.txt")
	if err := os.WriteFile(plain, []byte("words\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		policy  string
		command []string
		want    int
	}{
		{"success", ordinary, []string{"/bin/true"}, 0},
		{"failure", ordinary, []string{"/bin/false"}, 1},
		{"a status of its own", ordinary, []string{"/bin/sh", "-c", "exit 42"}, 42},
		{"125 of the program itself", ordinary, []string{"/bin/sh", "-c", "exit 125"}, 125},
		{"found through PATH", ordinary, []string{"true"}, 0},
		{"malformed policy", "namespace: [", []string{"/bin/true"}, 125},
		{"unknown key in the policy", "filesytem: {}", []string{"/bin/true"}, 125},
		{"not a program", ordinary, []string{plain}, 126},
		{"no such program", ordinary, []string{"/no/such/program"}, 127},
		{"not in PATH", ordinary, []string{"no-such-program"}, 127},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := m.in(t)
			got := m.run(test.policy, test.command...)
			if got.code != test.want {
				t.Errorf("status %d, want %d\n%s", got.code, test.want, got.stderr)
			}
		})
	}
}

// TestWrongUsage: a command line that is wrong never looks like a program's own status, nor like a yes.
func TestWrongUsage(t *testing.T) {
	m := newMachine(t)
	for _, test := range []struct {
		arguments []string
		want      int
	}{
		{[]string{"run"}, 125},
		{[]string{"run", "--bogus", "--", "true"}, 125},
		{[]string{"run", "--quiet", "--json", "--", "true"}, 125},
		{[]string{"policy", "frob"}, 2},
		{[]string{"learn"}, 2},
		{[]string{"learn", "--risky", "some", "--", "true"}, 2},
		{[]string{"learn", "--merge", "/no/such/trace"}, 2},
		{[]string{"policy", "drift", "/no/such/trace"}, 2},
		{[]string{"evidence", "frob"}, 2},
		{[]string{"--version"}, 0},
	} {
		cmd := m.command(t.Context(), test.arguments...)
		_ = cmd.Run()
		if code := cmd.ProcessState.ExitCode(); code != test.want {
			t.Errorf("%q: status %d, want %d", test.arguments, code, test.want)
		}
	}
}

// TestSignalledProgram: a program that dies of a signal looks as without the guard to who waits for it.
func TestSignalledProgram(t *testing.T) {
	m := newMachine(t)
	cmd := m.command(t.Context(), "run", "--policy", m.policy(ordinary), "--", "/bin/sh", "-c", "kill -TERM $$")
	if err := cmd.Run(); err == nil || !strings.Contains(cmd.ProcessState.String(), "signal: terminated") {
		t.Errorf("it ended with %v, want signal: terminated", cmd.ProcessState)
	}
}

// TestBoundLine: what `raypher run` says before the program starts, and that --quiet says nothing.
func TestBoundLine(t *testing.T) {
	m := newMachine(t)
	loud := m.run(ordinary, "/bin/true")
	for _, want := range []string{"Successfully bound to Raypher kernel guard", "software", "broker"} {
		if !strings.Contains(loud.stderr, want) {
			t.Errorf("stderr lacks %q:\n%s", want, loud.stderr)
		}
	}
	quiet := m.raypher("run", "--quiet", "--policy", m.policy(ordinary), "--", "/bin/true")
	if quiet.code != 0 || quiet.stderr != "" {
		t.Errorf("with --quiet: status %d, stderr %q", quiet.code, quiet.stderr)
	}
}

// TestPipes: standard input, output and error are the program's own.
func TestPipes(t *testing.T) {
	m := newMachine(t)
	input := strings.Repeat("a line of text\n", 100_000)
	got := m.finish(t.Context(), input, "run", "--quiet", "--policy", m.policy(ordinary), "--",
		"/bin/sh", "-c", "echo loud >&2; cat | tr a-z A-Z")
	if got.code != 0 || got.stdout != strings.ToUpper(input) || got.stderr != "loud\n" {
		t.Errorf("status %d, %d bytes out of %d, stderr %q", got.code, len(got.stdout), len(input), got.stderr)
	}
}

// TestRefusals: what a policy does not grant fails, is told in one line, and is in the journal.
func TestRefusals(t *testing.T) {
	m := newMachine(t)
	key := m.home.Path(".ssh", "id_rsa")
	for _, test := range []struct {
		name, script, target string
	}{
		{"read", "cat " + key, key},
		{"list", "ls " + m.home.Path("documents"), m.home.Path("documents")},
		{"remove", "rm -rf " + m.home.Path("documents"), m.home.Path("documents")},
		{"create", "echo x > " + m.home.Path("planted"), m.home.Path("planted")},
		{"rename away", "mv " + key + " " + filepath.Join(m.home.Work, "key"), key},
		{"link into its folder", "ln " + key + " key && cat key", key},
		{"symbolic link in its folder", "ln -s " + key + " soft; cat soft", key},
		{"truncate", "truncate -s 0 " + key, key},
		{"change mode", "chmod 777 " + key, key},
		{"connect", "exec 3<>/dev/tcp/127.0.0.1/9", "127.0.0.1:9"},
		{"send over UDP", "echo x > /dev/udp/127.0.0.1/9", "127.0.0.1:9"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := m.in(t)
			got := m.run(ordinary, "/bin/bash", "-c", test.script)
			if got.code == 0 {
				t.Errorf("it succeeded: %s%s", got.stdout, got.stderr)
			}
			if strings.Contains(got.stdout, "WORTH-STEALING") {
				t.Error("the key leaked")
			}
			if !strings.Contains(got.stderr, test.target) {
				t.Errorf("no line on stderr names %s:\n%s", test.target, got.stderr)
			}
		})
	}
	if text, err := os.ReadFile(key); err != nil || !strings.Contains(string(text), "WORTH-STEALING") {
		t.Errorf("the key was changed: %q, %v", text, err)
	}
	if _, err := os.Stat(m.home.Path("documents", "tax.txt")); err != nil {
		t.Errorf("the documents were touched: %v", err)
	}
	journal := m.raypher("evidence", "list", "--state-dir", m.pair.State)
	for _, want := range []string{key, "127.0.0.1:9", m.home.Path("documents")} {
		if !strings.Contains(journal.stdout, want) {
			t.Errorf("the journal has no entry about %s:\n%s%s", want, journal.stdout, journal.stderr)
		}
	}
}

// TestDryRun: with --dry-run nothing is refused, and what would have been is said.
func TestDryRun(t *testing.T) {
	m := newMachine(t)
	got := m.raypher("run", "--dry-run", "--policy", m.policy(ordinary), "--", "/bin/cat", m.home.Path(".ssh", "id_rsa"))
	if got.code != 0 || !strings.Contains(got.stdout, "WORTH-STEALING") {
		t.Errorf("status %d, stdout %q: a dry run refuses nothing", got.code, got.stdout)
	}
	if !strings.Contains(got.stderr, "id_rsa") {
		t.Errorf("stderr does not say what would have been blocked:\n%s", got.stderr)
	}
}

// TestKillOnViolation: on_violation kill ends the agent at the first refused action.
func TestKillOnViolation(t *testing.T) {
	m := newMachine(t)
	got := m.run("on_violation: kill\n"+strings.TrimSpace(ordinary), "/bin/sh", "-c", "cat ~/.ssh/id_rsa; sleep 5; echo survived")
	if got.code == 0 || strings.Contains(got.stdout, "survived") {
		t.Errorf("status %d, stdout %q: the agent went on", got.code, got.stdout)
	}
}

// TestPrivatePair: without a daemon root gets a pair for this run, which leaves no process behind.
func TestPrivatePair(t *testing.T) {
	m := newBareMachine(t)
	got := m.run(ordinary, "/bin/sh", "-c", "echo works; cat ~/.ssh/id_rsa")
	if !strings.Contains(got.stdout, "works") || strings.Contains(got.stdout, "WORTH-STEALING") || got.code != 1 {
		t.Errorf("status %d, stdout %q\n%s", got.code, got.stdout, got.stderr)
	}
	// That the pair ends with its run is nothing to tell.
	for _, word := range []string{"away", "did not reach"} {
		if strings.Contains(got.stderr, word) {
			t.Errorf("the end of the pair was told:\n%s", got.stderr)
		}
	}
}
