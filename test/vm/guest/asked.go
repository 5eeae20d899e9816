package main

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// askedText lets some of each kind of call wait for a person.
const askedText = `
namespace: vm
filesystem:
  read: [~/work/**, /bin/guest, /proc/**, /sys/kernel/mm/transparent_hugepage/**, "/etc/{passwd,group}", /dev/null]
  write: [~/work/**, /dev/null]
  exec: [/bin/guest]
  require_approval: [~/work/ask/**, %s]
network:
  require_approval: [127.0.0.1:8081]
`

// askedCalls are what the resident is told, what is asked about it, what is asked after that was approved, and what is there when it
// was done exactly once. The program reads its own file when it starts: to read what require_approval names is a question of its own.
var askedCalls = []struct{ do, operation, then, path, content string }{
	{"append ask/file", "open-write", "", "ask/file", "x"},
	{"create ask/new", "create", "", "ask/new", "x"},
	{"rename ask/old ask/moved", "rename", "", "ask/moved", "old"},
	{"remove ask/gone", "unlink", "", "ask/gone", "-"},
	{"run " + copied + " append ran", "exec", "open-read", "ran", "x"},
	{"dial 127.0.0.1:8081", "connect", "", "", "-"},
}

// reached counts who came to the address that is asked about.
var reached = make(chan struct{}, 64)

func listenAsked() error {
	l, err := net.Listen("tcp", "127.0.0.1:8081")
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			reached <- struct{}{}
			conn.Close()
		}
	}()
	return nil
}

// approvals: where the kernel holds files, a call that waits is done exactly once when a person allowed it, and not at all when they
// did not or when the agent is killed meanwhile; each is asked about again.
func (m *machine) approvals() {
	const policy = "/etc/asked.yaml"
	folder := homes[userID] + "/work"
	err := os.WriteFile(policy, []byte(fmt.Sprintf(askedText, copied)), 0o644)
	for name, content := range map[string]string{"ask/file": "", "ask/old": "old", "ask/gone": "gone", "ask/kept": "kept", "ran": ""} {
		if err == nil {
			err = os.MkdirAll(folder+"/ask", 0o777)
		}
		if err == nil {
			err = os.WriteFile(folder+"/"+name, []byte(content), 0o666)
		}
		if err == nil {
			err = os.Chown(folder+"/"+name, userID, userID)
		}
	}
	if err == nil {
		err = os.Chown(folder+"/ask", userID, userID)
	}
	if err == nil {
		err = listenAsked()
	}
	if err != nil {
		m.fail("approvals: %v", err)
		return
	}
	t, err := m.resident(policy)
	if err != nil {
		m.fail("resident: %v", err)
		return
	}
	for _, c := range askedCalls {
		before := look(folder, c.path)
		if got := m.decide(t, c.do, "deny", c.operation); !strings.Contains(got, "permission denied") {
			m.fail("%s, denied: %q", c.do, got)
		}
		if after := look(folder, c.path); after != before || len(reached) > 0 {
			m.fail("%s, denied: %q became %q", c.do, before, after)
		}
		questions := []string{c.operation}
		if c.then != "" {
			questions = append(questions, c.then)
		}
		if got := m.decide(t, c.do, "approve", questions...); got != "done" {
			m.fail("%s, approved: %q", c.do, got)
		}
		if after := look(folder, c.path); after != c.content {
			m.fail("%s, approved: there is %q", c.do, after)
		}
		if c.operation == "connect" {
			m.reachedOnce()
		}
	}
	if got := m.decide(t, "append ask/file", "deny", "open-write"); !strings.Contains(got, "permission denied") || look(folder, "ask/file") != "x" {
		m.fail("after once: %q, %q", got, look(folder, "ask/file"))
	}
	m.answersOnRecord()
	m.killedWhileItWaits(t, folder)
	fmt.Println("GUEST approved once, denied, killed while it waits")
}

// answersOnRecord looks for what was decided about the program in the journal: denied, approved, and that it may read its file.
func (m *machine) answersOnRecord() {
	out := m.command(0, "/bin/raypher", "evidence", "list")
	for _, words := range [][]string{{"deny", "exec", copied}, {"approve", "exec", copied}, {"approve", "open-read", copied}} {
		if !slices.ContainsFunc(strings.Split(out.stdout, "\n"), func(line string) bool {
			return !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) })
		}) {
			m.fail("the journal has no %v:\n%s%s", words, out.stdout, out.stderr)
		}
	}
}

// reachedOnce looks at who came to the address.
func (m *machine) reachedOnce() {
	select {
	case <-reached:
	case <-time.After(patient):
		m.fail("nobody came to the address that was approved")
	}
	if len(reached) > 0 {
		m.fail("somebody came to the address a second time")
	}
}

// killedWhileItWaits ends the agent whose call waits: nobody is asked any more, and nothing was done.
func (m *machine) killedWhileItWaits(t *talk, folder string) {
	answer := make(chan string, 1)
	go func() { answer <- t.do("remove ask/kept") }()
	if m.question("unlink") == "" {
		m.fail("nobody was asked about the last call")
	}
	if out := m.command(0, "/bin/raypher", "agents", "list"); out.code == 0 {
		if id := regexp.MustCompile(`(?m)^([0-9a-f]{8,})\s`).FindStringSubmatch(out.stdout); id != nil {
			if stop := m.command(0, "/bin/raypher", "agents", "stop", id[1]); stop.code != 0 {
				m.fail("agents stop: %s%s", stop.stdout, stop.stderr)
			}
		} else {
			m.fail("agents list: %s", out.stdout)
		}
	}
	select {
	case got := <-answer:
		if got != "no answer" {
			m.fail("killed while it waits: %q", got)
		}
	case <-time.After(patient):
		m.fail("it lives on, and waits")
		return
	}
	t.ask.Close()
	_ = t.wait() // it was killed
	for end := time.Now().Add(patient); ; time.Sleep(50 * time.Millisecond) {
		out := m.command(0, "/bin/raypher", "approvals", "list")
		if strings.Contains(out.stdout, "nothing waits") {
			break
		}
		if time.Now().After(end) {
			m.fail("a question is left of a killed agent:\n%s", out.stdout)
			break
		}
	}
	if look(folder, "ask/kept") != "kept" {
		m.fail("the call of a killed agent was done")
	}
}

// decide has the agent do something, answers the questions that come of it, one after the other, and returns what the agent said.
func (m *machine) decide(t *talk, do, answer string, operations ...string) string {
	got := make(chan string, 1)
	go func() { got <- t.do(do) }()
	for _, operation := range operations {
		id := m.question(operation)
		if id == "" {
			m.fail("%s: nobody was asked about %s", do, operation)
		} else if out := m.command(0, "/bin/raypher", "approvals", answer, id); out.code != 0 {
			m.fail("%s: %s: %s%s", do, answer, out.stdout, out.stderr)
		}
	}
	select {
	case said := <-got:
		return said
	case <-time.After(patient):
		out := m.command(0, "/bin/raypher", "approvals", "list")
		return fmt.Sprintf("nothing: it waits still\n%s%s", out.stdout, out.stderr)
	}
}

// question waits for one about an operation and returns its id.
func (m *machine) question(operation string) string {
	for end := time.Now().Add(patient / 3); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		out := m.command(0, "/bin/raypher", "approvals", "list")
		for line := range strings.Lines(out.stdout) {
			if fields := strings.Fields(line); len(fields) > 2 && fields[2] == operation {
				return fields[0]
			}
		}
	}
	return ""
}

// look is what a file holds; "-": there is none.
func look(folder, name string) string {
	content, err := os.ReadFile(folder + "/" + name)
	if err != nil {
		return "-"
	}
	return string(content)
}
