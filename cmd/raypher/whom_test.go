package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/raypher/raypher/journal"
)

// TestCalled: an agent goes by its id, the beginning of it, or its name; what means several is not chosen from.
func TestCalled(t *testing.T) {
	running := []whom{{"aa11", "node"}, {"aa22", "node"}, {"bb33", "python3"}, {"cc44", "bb"}, {"dd55", "aa11"}}
	for _, c := range []struct{ word, id, problem string }{
		{"bb33", "bb33", ""},
		{"python3", "bb33", ""},
		{"aa1", "aa11", ""},
		{"aa11", "aa11", ""}, // an id is never somebody else's name
		{"dd", "dd55", ""},
		{"node", "", "2 are called so: name one by its id: aa11 (node), aa22 (node)"},
		{"aa", "", "2 are called so"},
		{"bb", "", "2 are called so: name one by its id: bb33 (python3), cc44 (bb)"},
		{"nobody", "", "these run: aa11 (node), aa22 (node), bb33 (python3)"},
		{"", "", "none that runs"},
	} {
		id, err := theOne(c.word, running)
		if id != c.id || (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%q: %q, %v", c.word, id, err)
		}
	}
	if _, err := theOne("x", nil); err == nil || !strings.Contains(err.Error(), "no agent runs") {
		t.Errorf("without agents: %v", err)
	}
}

// TestOfAgent: verdicts are chosen by the names of those who caused them, also of agents that are gone.
func TestOfAgent(t *testing.T) {
	verdict := func(id, name string) listItem {
		return listItem{Verdict: journal.Verdict{AgentID: id, Subject: "spiffe://d/ns/n/agent/" + name}}
	}
	all := func() []listItem {
		return []listItem{verdict("aa11", "node"), verdict("aa22", "node"), verdict("bb33", "cat"), verdict("aa11", "node")}
	}
	for word, want := range map[string]int{"": 4, "node": 3, "aa11": 2, "b": 1} {
		if got, err := ofAgent(word, all()); err != nil || len(got) != want {
			t.Errorf("%q: %d, %v", word, len(got), err)
		}
	}
	if _, err := ofAgent("x", all()); err == nil || !strings.Contains(err.Error(), "there are verdicts of aa11 (node), aa22 (node), bb33 (cat)") {
		t.Errorf("none: %v", err)
	}
}

// TestNoDaemon: whoever finds no raypherd is told what to do.
func TestNoDaemon(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("RAYPHER_RUN_DIR", folder)
	t.Setenv("RAYPHER_AGENT_ID", "")
	if _, err := call(t, statusCommand()); err == nil || !strings.Contains(err.Error(), "raypherd does not run") || !strings.Contains(err.Error(), "correct RAYPHER_RUN_DIR") {
		t.Errorf("no socket: %v", err)
	}
	if out, err := call(t, evidenceCommand(), "list"); err == nil || out != "" || !strings.Contains(err.Error(), "correct RAYPHER_RUN_DIR") {
		t.Errorf("the journal of a raypherd elsewhere, that is not there: %q, %v", out, err)
	}
	if os.Geteuid() == 0 { // other users are told to be root
		if _, err := call(t, evidenceCommand(), "export", "--all", "-o", t.TempDir()); err == nil || !strings.Contains(err.Error(), "name it with --state-dir") {
			t.Errorf("the whole journal of a raypherd elsewhere: %v", err)
		}
	}
	socket := filepath.Join(folder, "raypherd.sock")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if _, err := os.Lstat(socket); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"list"}, {"stop", "x"}} {
		if _, err := call(t, agentsCommand(), command...); err == nil || !strings.Contains(err.Error(), "nobody serves "+socket) {
			t.Errorf("%v at a socket that was left: %v", command, err)
		}
	}
	t.Setenv("RAYPHER_AGENT_ID", "aa11")
	for _, command := range []*cobra.Command{statusCommand(), evidenceCommand(), runCommand()} {
		var args []string
		if command.HasSubCommands() {
			args = []string{"list"}
		}
		if command.Name() == "run" {
			args = []string{"--", "/bin/true"}
		}
		if _, err := call(t, command, args...); err == nil || !strings.Contains(err.Error(), "from outside the agent") {
			t.Errorf("%s in an agent: %v", command.Name(), err)
		}
	}
}

// TestVisaRequestOutside: who asks for a visa where there is no agent is told where to ask, whoever serves agents on this host.
func TestVisaRequestOutside(t *testing.T) {
	t.Setenv("RAYPHER_AGENT_SOCKET", "")
	if out, err := call(t, visaCommand(), "request"); err == nil || out != "" || !strings.Contains(err.Error(), "no governed program") {
		t.Errorf("%q, %v", out, err)
	}
}
