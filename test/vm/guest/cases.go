package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/raypher/raypher/parent/agents"
)

// What the machine holds.
const (
	policyPath    = "/etc/policy.yaml"
	grantedSocket = "/run/granted.sock"
	otherSocket   = "/run/other.sock"
	program       = "/bin/guest"
	copied        = "/bin/copy" // the same program, which no agent may execute
)

var homes = map[int]string{0: "/root", userID: "/home/user"}

var homeFiles = map[string]string{
	"work/notes": "the notes", "work/private.key": "the key", "secret": "the secret",
}

// policyText grants ~/work but for what a pattern denies: the kernel's floor cannot hold that, so every open is decided by the
// warden.
const policyText = `
namespace: vm
filesystem:
  read: [~/work/**, /bin/**, /proc/**, /sys/kernel/mm/transparent_hugepage/**, "/etc/{passwd,group}", /dev/null]
  write: [~/work/**, /dev/null]
  exec: [/bin/guest]
  deny: ["~/work/*.key"]
network:
  on_deny: reject
  egress: [127.0.0.1:8080]
  unix: [/run/granted.sock]
`

// cases are the whole test. Each governed run prints its own failures. Loading the network guard is what takes time in an emulated
// machine, so raypherd is started as seldom as the cases allow.
func (m *machine) cases() {
	if err := m.startDaemon("--backend", agents.Broker); err != nil {
		m.fail("%v", err)
		return
	}
	for _, scope := range []int{0, 1, 2} {
		if err := yama(scope); err != nil {
			m.fail("ptrace_scope %d: %v", scope, err)
			continue
		}
		m.governed(scope, 0, "raypherd")
		m.governed(scope, userID, "raypherd")
	}
	m.restart()
	m.killDaemon()
	m.governed(2, 0, "a private pair")
	m.doctor()
	m.nobody()
}

// governed runs the agent's checks under the guard.
func (m *machine) governed(scope, uid int, by string) {
	began := time.Now()
	name := fmt.Sprintf("scope %d, user %d, by %s", scope, uid, by)
	out := m.command(uid, "/bin/raypher", "run", "--policy", policyPath, "--", program, "checks", m.backend)
	if !strings.Contains(out.stderr, "backend "+m.backend) {
		m.fail("%s: not under backend %s:\n%s", name, m.backend, out.stderr)
	}
	lines := 0
	for line := range strings.Lines(out.stdout) {
		line = strings.TrimSpace(line)
		if line != "" {
			lines++
		}
		if !strings.HasPrefix(line, "ok ") {
			m.fail("%s: %s", name, line)
		}
	}
	if out.code != 0 || lines < len(checks) {
		m.fail("%s: status %d after %d of %d checks\n%s", name, out.code, lines, len(checks), out.stderr)
	}
	// What was refused is told.
	for _, word := range []string{"/private.key", "exec " + copied, "connect " + otherSocket} {
		if !strings.Contains(out.stderr, word) {
			m.fail("%s: nothing was said of %q:\n%s", name, word, out.stderr)
		}
	}
	fmt.Printf("GUEST %s: %d checks in %v\n", name, lines, time.Since(began).Round(time.Millisecond))
}

// restart kills raypherd under an agent: what begins then is refused, and works when raypherd is back.
func (m *machine) restart() {
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	cmd := prepare(ctx, userID, "/bin/raypher", "run", "--policy", policyPath, "--", program, "resident")
	ask, err := cmd.StdinPipe()
	if err != nil {
		m.fail("restart: %v", err)
		return
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		m.fail("restart: %v", err)
		return
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		m.fail("restart: %v", err)
		return
	}
	replies := bufio.NewScanner(answers)
	// A child reads the notes: a process that raypherd has not been asked of.
	read := func() string {
		_, _ = io.WriteString(ask, "child read notes\n")
		if !replies.Scan() {
			return "no answer"
		}
		return replies.Text()
	}
	if got := read(); got != "the notes" {
		m.fail("a child before raypherd was killed: %s", got)
	}
	m.killDaemon()
	if got := read(); !strings.Contains(got, "permission denied") {
		m.fail("a child while raypherd is away: %s", got)
	}
	if err := m.startDaemon("--backend", agents.Broker); err != nil {
		m.fail("restart: %v", err)
	}
	if got := read(); got != "the notes" {
		m.fail("a child when raypherd is back: %s", got)
	}
	ask.Close()
	if err := cmd.Wait(); err != nil {
		m.fail("the resident: %v\n%s", err, said.String())
	}
	if !strings.Contains(said.String(), "ptrace_scope") {
		m.fail("nobody said why a call was refused:\n%s", said.String())
	}
}

// doctor must not count Yama as a fault.
func (m *machine) doctor() {
	out := m.command(0, "/bin/raypher", "doctor")
	found := false
	for line := range strings.Lines(out.stdout) {
		fmt.Print("GUEST doctor: ", line)
		fields := strings.Fields(line)
		found = found || len(fields) > 1 && fields[0] == "ok" && fields[1] == "Yama"
	}
	if out.code != 0 || !found {
		m.fail("doctor: status %d", out.code)
	}
}

// nobody: where not even root may look at a process, nothing is started.
func (m *machine) nobody() {
	if err := yama(3); err != nil {
		m.fail("ptrace_scope 3: %v", err)
		return
	}
	// Not even root: so raypherd could not stand in for wardens.
	other := exec.Command(program, "resident")
	in, err := other.StdinPipe()
	if err == nil {
		err = other.Start()
	}
	if err != nil {
		m.fail("scope 3: %v", err)
		return
	}
	if memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", other.Process.Pid)); !errors.Is(err, fs.ErrPermission) {
		m.fail("scope 3: root reads the memory of others: %v, %v", memory, err)
	}
	in.Close()
	_ = other.Wait() // it has done its part
	out := m.command(0, "/bin/raypher", "run", "--policy", policyPath, "--", program, "checks", m.backend)
	if out.code != 125 || !strings.Contains(out.stderr, "ptrace_scope is 3") || out.stdout != "" {
		m.fail("scope 3: status %d, %q\n%s", out.code, out.stdout, out.stderr)
	}
}
