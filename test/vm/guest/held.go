package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/raypher/raypher/parent/agents"
)

// casesHeld are the cases where programs of BPF LSM hold files: the same checks, and what only this backend does.
func (m *machine) casesHeld() {
	if err := m.startDaemon("--backend", agents.LSM); err != nil {
		m.fail("%v", err)
		return
	}
	m.governed(0, 0, "raypherd")
	m.governed(0, userID, "raypherd")
	services := m.attached()
	m.heldWithoutDaemon(services)
	m.detached(services)
	m.narrowed()
	m.kills()
	m.approvals()
	m.killDaemon()
	m.startsBeside()
}

// talk is a resident agent, which answers line by line.
type talk struct {
	m       *machine
	ask     io.WriteCloser
	answers *bufio.Scanner
	said    *strings.Builder
	wait    func() error
}

// resident starts one as the user.
func (m *machine) resident(policy string) (*talk, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*patient) // raypherd is started anew meanwhile
	return m.begin(prepare(ctx, userID, "/bin/raypher", "run", "--policy", policy, "--", program, "resident"), cancel)
}

// begin starts a resident by a command, whose context ends with cancel.
func (m *machine) begin(cmd *exec.Cmd, cancel func()) (*talk, error) {
	t := &talk{m: m, said: &strings.Builder{}}
	cmd.Stderr = t.said
	var err error
	if t.ask, err = cmd.StdinPipe(); err != nil {
		cancel()
		return nil, err
	}
	answers, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	t.answers = bufio.NewScanner(answers)
	t.wait = func() error { defer cancel(); return cmd.Wait() }
	return t, nil
}

// do asks the agent for one thing and returns what it said.
func (t *talk) do(what string) string {
	_, _ = io.WriteString(t.ask, what+"\n")
	if !t.answers.Scan() {
		return "no answer"
	}
	return t.answers.Text()
}

// heldWithoutDaemon: what the kernel holds stays when raypherd is killed, for new programs too, and raypherd finds it again; for attached
// services too.
func (m *machine) heldWithoutDaemon(services []*talk) {
	t, err := m.resident(policyPath)
	if err != nil {
		m.fail("resident: %v", err)
		return
	}
	check := func(when string) {
		for _, one := range []struct{ what, want string }{
			{"read notes", "the notes"}, {"child read notes", "the notes"}, {"read private.key", "permission denied"},
			{"child read private.key", "permission denied"}, {"read ../secret", "permission denied"},
		} {
			if got := t.do(one.what); !strings.Contains(got, one.want) {
				m.fail("%s, %s: %q instead of %q", when, one.what, got, one.want)
			}
		}
		m.holdsAttached(when, services, "the notes")
	}
	check("under raypherd")
	m.killDaemon()
	check("without raypherd")
	if err := m.startDaemon("--backend", agents.LSM); err != nil {
		m.fail("restart: %v", err)
	}
	check("when raypherd is back")
	// It waits for its warden first, which comes back by itself.
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out := m.command(0, "/bin/raypher", "agents", "list")
		if strings.Contains(out.stdout, "running") {
			break
		}
		if time.Now().After(deadline) {
			m.fail("the agent was not found again:\n%s%s", out.stdout, out.stderr)
			break
		}
	}
	t.ask.Close()
	if err := t.wait(); err != nil {
		m.fail("the resident: %v\n%s", err, t.said)
	}
	fmt.Println("GUEST held without raypherd, found again")
}

// narrowed: rules that a running agent narrows hold at once, also for what it has read before.
func (m *machine) narrowed() {
	t, err := m.resident(policyPath)
	if err != nil {
		m.fail("resident: %v", err)
		return
	}
	if got := t.do("read notes"); got != "the notes" {
		m.fail("before it is narrowed: %q", got)
	}
	if got := t.do("narrow filesystem: {read: [/proc/**, /bin/**, /dev/null], exec: [/bin/guest]}"); got != "narrowed" {
		m.fail("narrowing: %q", got)
	}
	for _, what := range []string{"read notes", "child read notes"} {
		if got := t.do(what); !strings.Contains(got, "permission denied") {
			m.fail("%s after it was narrowed: %q", what, got)
		}
	}
	t.ask.Close()
	_ = t.wait() // what it was refused is its own matter
	fmt.Println("GUEST narrowed while it runs")
}

// kills: with on_violation: kill the process ends before its call has an effect.
func (m *machine) kills() {
	const policy = "/etc/kill.yaml"
	text := strings.Replace(policyText, "namespace: vm", "namespace: vm\non_violation: kill", 1)
	if err := os.WriteFile(policy, []byte(text), 0o644); err != nil {
		m.fail("%v", err)
		return
	}
	t, err := m.resident(policy)
	if err != nil {
		m.fail("resident: %v", err)
		return
	}
	if got := t.do("read notes"); got != "the notes" {
		m.fail("before its violation: %q", got)
	}
	victim := homes[userID] + "/work/precious.key"
	if err := os.WriteFile(victim, []byte("x"), 0o666); err != nil {
		m.fail("%v", err)
	}
	if got := t.do("remove precious.key"); got != "no answer" {
		m.fail("it lived on after a violation, and said %q", got)
	}
	if _, err := os.Stat(victim); err != nil {
		m.fail("the call had an effect: %v", err)
	}
	t.ask.Close()
	if err := t.wait(); err == nil {
		m.fail("it was not killed")
	}
	fmt.Println("GUEST killed at its first violation")
}

// startsBeside: root starts a private raypherd, which leaves files to the broker.
func (m *machine) startsBeside() {
	m.backend = agents.Broker
	m.governed(0, 0, "a private pair")
}
