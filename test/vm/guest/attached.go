package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// The cgroup that is attached, two folders below that of a program that is not, and one that lies in it.
const (
	besideGroup   = "/sys/fs/cgroup/services"
	attachedGroup = besideGroup + "/web/worker"
	innerGroup    = attachedGroup + "/inner"
)

// service starts a resident as the user, in a cgroup and under no guard.
func (m *machine) service(folder string) (*talk, error) {
	group, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer group.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*patient) // raypherd is started anew meanwhile
	cmd := prepare(ctx, userID, program, "resident")
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(group.Fd())
	return m.begin(cmd, cancel)
}

// attached puts services under a policy, in a cgroup deep in the hierarchy and below it; the last one, beside it, is not. They are held from
// the next call on, and their events name the agent. Without services nothing could be started.
func (m *machine) attached() []*talk {
	if err := os.MkdirAll(innerGroup, 0o755); err != nil {
		m.fail("attach: %v", err)
		return nil
	}
	var services []*talk
	for _, folder := range []string{attachedGroup, innerGroup, besideGroup} {
		t, err := m.service(folder)
		if err != nil {
			m.fail("a service in %s: %v", folder, err)
			return nil
		}
		services = append(services, t)
		if got := t.do("read ../secret"); got != "the secret" {
			m.fail("%s before it is attached: %q", folder, got)
		}
	}
	out := m.command(0, "/bin/raypher", "attach", "--cgroup", attachedGroup, "--name", "web", "--policy", policyPath)
	if out.code != 0 || !strings.Contains(out.stdout, "held: network, files, programs and other processes") {
		m.fail("attach: status %d: %s%s", out.code, out.stdout, out.stderr)
		return nil
	}
	m.holdsAttached("attached", services, "the notes")
	out = m.command(0, "/bin/raypher", "events", "--agent", m.attachedID())
	if out.code != 0 || !strings.Contains(out.stdout, homes[userID]+"/secret") {
		m.fail("events of the attached agent: status %d: %s%s", out.code, out.stdout, out.stderr)
	}
	fmt.Println("GUEST attached")
	return services
}

// detached: attached services follow a policy that is applied, and go on as before when they are detached.
func (m *machine) detached(services []*talk) {
	if services == nil {
		return
	}
	m.attachedID()
	const narrower = "/etc/narrower.yaml"
	if err := os.WriteFile(narrower, []byte(strings.ReplaceAll(policyText, "~/work/**", "~/work/a/**")), 0o644); err != nil {
		m.fail("attach: %v", err)
	}
	if out := m.command(0, "/bin/raypher", "policy", "apply", "--agent", "web", narrower); out.code != 0 {
		m.fail("a policy for the attached agent: status %d: %s%s", out.code, out.stdout, out.stderr)
	}
	m.holdsAttached("under another policy", services, "permission denied")
	if out := m.command(0, "/bin/raypher", "detach", "web"); out.code != 0 {
		m.fail("detach: status %d: %s%s", out.code, out.stdout, out.stderr)
	}
	for i, t := range services {
		for _, path := range []string{"../secret", "notes", "private.key"} {
			if got := t.do("child read " + path); !strings.HasPrefix(got, "the ") {
				m.fail("service %d, detached, %s: %q", i, path, got)
			}
		}
		t.ask.Close()
		if err := t.wait(); err != nil {
			m.fail("service %d: %v", i, err)
		}
	}
	fmt.Println("GUEST held while attached, found again, given another policy, detached")
}

// holdsAttached wants that the services in the attached cgroup read what is granted and nothing else, and that the one beside it, which is
// the last, reads everything.
func (m *machine) holdsAttached(when string, services []*talk, notes string) {
	for i, t := range services {
		wants := map[string]string{"notes": notes, "private.key": "permission denied", "../secret": "permission denied"}
		if i == len(services)-1 {
			wants = map[string]string{"notes": "the notes", "private.key": "the key", "../secret": "the secret"}
		}
		for path, want := range wants {
			for _, how := range []string{"read ", "child read "} {
				if got := t.do(how + path); !strings.Contains(got, want) {
					m.fail("%s, service %d, %s%s: %q instead of %q", when, i, how, path, got, want)
				}
			}
		}
	}
}

// attachedID is the id of the attached agent, which raypherd may still be finding again.
func (m *machine) attachedID() string {
	for end := time.Now().Add(patient); ; time.Sleep(100 * time.Millisecond) {
		out := m.command(0, "/bin/raypher", "agents", "list")
		for line := range strings.Lines(out.stdout) {
			if strings.Contains(line, "attached") && strings.Contains(line, "web") {
				return strings.Fields(line)[0]
			}
		}
		if time.Now().After(end) {
			m.fail("the attached agent is not listed:\n%s%s", out.stdout, out.stderr)
			return ""
		}
	}
}
