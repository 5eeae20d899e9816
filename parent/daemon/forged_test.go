package daemon

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/policy"
)

// A record in the run folder that somebody else wrote must not widen what its agent may do: the restart believes what the enclave
// signed, and ends an agent whose record says otherwise.
func TestForgedRecordsGrantNothing(t *testing.T) {
	t.Parallel()
	p := newPair(t).start()
	wide, err := policy.Parse("wide", []byte("mode: enforce\nnetwork: {default_action: allow}\n"))
	if err != nil {
		t.Fatal(err)
	}
	impostor := exec.Command("sleep", "1000")
	if err := impostor.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { impostor.Process.Kill(); impostor.Wait() })
	identity := identityOf(t, impostor.Process.Pid)
	audit := `{"mode":"audit"}`
	type fields = map[string]any
	forgeries := map[string]func(r, other fields){
		"nothing":              func(r, _ fields) {},
		"permit":               func(r, _ fields) { r["Permit"] = wide.Canonical() },
		"permit of audit":      func(r, _ fields) { r["Permit"] = []byte(audit) },
		"both permits":         func(r, _ fields) { r["Permit"], r["LaunchPermit"] = wide.Canonical(), wide.Canonical() },
		"permit of the launch": func(r, _ fields) { r["LaunchPermit"] = wide.Canonical() },
		"another's grant": func(r, other fields) {
			for _, name := range []string{"Permit", "LaunchPermit", "Visa", "LaunchVisa", "VisaID"} {
				r[name] = other[name]
			}
		},
		"warden":           func(r, _ fields) { r["WardenPID"], r["WardenStarted"] = impostor.Process.Pid, identity.Started },
		"later deadline":   func(r, _ fields) { r["Deadline"] = 1 << 62 },
		"longer lifetime":  func(r, _ fields) { r["LifetimeSeconds"], r["Deadline"] = 1<<30, 1<<60 },
		"confirmation key": func(r, other fields) { r["Confirmation"] = other["Confirmation"] },
		"user":             func(r, _ fields) { r["UID"] = 12345 },
		"enclave key":      func(r, _ fields) { r["EnclaveKey"] = []byte("none") },
		"visa's key":       func(r, _ fields) { r["VisaKey"] = []byte("none") },
		"no visa":          func(r, _ fields) { r["Visa"] = nil },
	}
	open := p.run("mode: enforce\nnetwork: {default_action: allow}\n", "sleep 1000")
	agents := make(map[string]string)
	for what := range forgeries {
		agents[what] = p.run(plain, "sleep 1000").grant().AgentID
	}
	p.eventually("all run", func() bool {
		for _, id := range agents {
			if p.state(id) != "running" {
				return false
			}
		}
		return p.state(open.grant().AgentID) == "running"
	})
	p.end(syscall.SIGKILL)
	path := func(id string) string { return filepath.Join(p.paths.Records, id+".json") }
	other := make(fields)
	readRecord(t, path(open.grant().AgentID), &other)
	for what, forge := range forgeries {
		record := make(fields)
		readRecord(t, path(agents[what]), &record)
		forge(record, other)
		content, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path(agents[what]), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.start()
	for what, id := range agents {
		if state := p.state(id); what == "nothing" && state != "waiting" || what != "nothing" && state != "gone" {
			t.Errorf("%s forged: the agent is %s", what, state)
		}
		if what != "nothing" && p.cgroupLeft(id) {
			t.Errorf("%s forged: the agent's processes live on", what)
		}
	}
	for _, words := range []string{"does not agree with what the enclave signed", "is no warden of this raypherd", "is for another permit"} {
		if !strings.Contains(p.log.String(), words) {
			t.Errorf("nobody is told %q", words)
		}
	}
}

func readRecord(t *testing.T, path string, record *map[string]any) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err == nil {
		decoder := json.NewDecoder(strings.NewReader(string(content)))
		decoder.UseNumber()
		err = decoder.Decode(record)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func identityOf(t *testing.T, pid int) task.Identity {
	t.Helper()
	one, err := task.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	id, err := one.Identity()
	if err != nil {
		t.Fatal(strconv.Itoa(pid), err)
	}
	return id
}

// An agent of one instance whose policy lets its warden connect to the socket of another comes there with the credentials of its
// warden. The other instance has never heard of it, and must not take it for an operator.
func TestNothingOfAnotherInstanceOperates(t *testing.T) {
	p, other := newPair(t).start(), newPair(t).start()
	w := p.run(plain, "sleep 1000")
	p.eventually("the agent runs", func() bool { return p.state(w.grant().AgentID) == "running" })
	for _, q := range []string{"status", "launch"} {
		if answer := w.asked(other.paths.Socket, q); !strings.Contains(answer, "not allowed") {
			t.Errorf("the warden of another instance's agent asks %s: %s", q, answer)
		}
	}
	if answer := w.asked(other.paths.AgentSocket, "whoami"); !strings.Contains(answer, "another raypherd") {
		t.Errorf("the warden of another instance's agent asks who it is: %s", answer)
	}
	if answer := w.asked(p.paths.AgentSocket, "whoami"); answer != "i am "+w.grant().AgentID {
		t.Errorf("the warden on its own agent's socket: %s", answer)
	}
	inside := other.run(plain, `"$ASK" `+p.paths.Socket+` status; sleep 1000`)
	if line := inside.printed("operated", "error"); strings.Contains(line, "operated") {
		t.Errorf("an agent of another instance: %s", line)
	}
	if _, err := ask([]string{p.paths.Socket, "status"}); err != nil {
		t.Errorf("root outside: %v", err)
	}
}
