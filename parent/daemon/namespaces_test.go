package daemon

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/raypher/raypher/parent/cgroup"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// limitedTo writes a file for --namespaces.
func limitedTo(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "namespaces.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// of is a policy of a namespace with limits of its own.
func of(namespace string, memory, processes int) string {
	return plain + fmt.Sprintf("namespace: %s\nresources: {max_memory_mb: %d, max_processes: %d}\n", namespace, memory, processes)
}

// use is what a namespace has given to its agents.
func (p *pair) use(namespace string) *parentv1.NamespaceUse {
	p.t.Helper()
	status, err := p.operator().Status(context.Background(), &parentv1.StatusRequest{})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, u := range status.Namespaces {
		if u.Namespace == namespace {
			return u
		}
	}
	p.t.Fatalf("no namespace %s in %v", namespace, status.Namespaces)
	return nil
}

// A namespace never has more than it was given: what does not fit is refused in words, and others are not touched by it.
func TestNamespaceLimits(t *testing.T) {
	t.Parallel()
	p := newPair(t, "--namespaces", limitedTo(t, "namespaces:\n  dev: {max_memory_mb: 512, max_processes: 40, max_agents: 2}\n  \"*\": {max_agents: 1}\n")).start()
	first := p.run(of("dev", 300, 20), "sleep 1000")
	id := first.grant().AgentID
	for name, tt := range map[string]struct {
		policy string
		want   []string
	}{
		"more than is left": {of("dev", 213, 21), []string{"launch: no room in namespace dev", "namespaces.yaml", "max_memory_mb: the agent may use 213, and 212 of 512 are left",
			"max_processes: the agent may use 21, and 20 of 40 are left", "sh (" + id + ") max_memory_mb 300 max_processes 20", "raypher agents stop"}},
		"without a limit": {plain + "namespace: dev\nresources: {max_memory_mb: 1}\n", []string{"max_processes: the agent has no limit of its own", "resources"}},
	} {
		words := p.refused(tt.policy)
		for _, want := range tt.want {
			if !strings.Contains(words, want) {
				t.Errorf("%s: refused with %q, which lacks %q", name, words, want)
			}
		}
	}
	if w := p.launch(of("dev", 213, 1), "exit 0"); w.grant() != nil || w.expected() != nil {
		t.Errorf("granted %+v, expected %+v: the enclave must not be asked for what does not fit", w.grant(), w.expected())
	}
	second := p.run(of("dev", 212, 20), "sleep 1000")
	p.run(plain+"namespace: other\n", "sleep 1000")
	if words := p.refused(of("dev", 1, 1)); !strings.Contains(words, "max_agents: 2 of 2 run") {
		t.Errorf("refused with %q", words)
	}
	if words := p.refused(plain + "namespace: other\n"); !strings.Contains(words, "max_agents: 1 of 1 run") {
		t.Errorf("refused with %q", words)
	}
	if u := p.use("dev"); u.Agents.Used != 2 || u.MemoryMb.Used != 512 || *u.MemoryMb.Limit != 512 || u.Processes.Used != 40 || u.Fds.Limit != nil {
		t.Errorf("in use: %v", u)
	}
	for _, a := range p.list() {
		if a.AgentId == id && (a.Namespace != "dev" || a.GetMaxMemoryMb() != 300 || a.GetMaxProcesses() != 20 || a.MaxFds != nil) {
			t.Errorf("listed as %v", a)
		}
	}

	// What an agent had is there again when nothing is left of it, and not before.
	if _, err := p.operator().StopAgent(context.Background(), &parentv1.StopAgentRequest{AgentId: second.grant().AgentID}); err != nil {
		t.Fatal(err)
	}
	p.run(of("dev", 212, 20), "sleep 1000")
}

// Of launches at once that each want all that is left one is granted.
func TestNamespaceLastShareIsGivenOnce(t *testing.T) {
	t.Parallel()
	p := newPair(t, "--namespaces", limitedTo(t, "namespaces: {dev: {max_processes: 40}}\n")).start()
	var launches sync.WaitGroup
	wardens := make([]*warden, 6)
	for i := range wardens {
		launches.Go(func() { wardens[i] = p.launch(of("dev", 100, 40), "sleep 1000") })
	}
	launches.Wait()
	granted := 0
	for _, w := range wardens {
		switch {
		case w == nil:
			t.Fatal("a launch had no answer")
		case w.grant() != nil:
			granted++
		case !strings.Contains(w.heard("", "").Error, "no room in namespace dev"):
			t.Errorf("refused with %q", w.heard("", "").Error)
		}
	}
	if granted != 1 {
		t.Errorf("%d of %d have the last share", granted, len(wardens))
	}
}

// Agents that a restarted raypherd finds again count, also under a file that gives less than they have.
func TestNamespacesAfterARestart(t *testing.T) {
	t.Parallel()
	limits := limitedTo(t, "namespaces: {dev: {max_processes: 40}}\n")
	p := newPair(t, "--namespaces", limits).start()
	w := p.run(of("dev", 100, 20), "sleep 1000")
	p.eventually("the agent runs", func() bool { return p.state(w.grant().AgentID) == "running" })
	p.end(syscall.SIGKILL)
	p.start()
	if words := p.refused(of("dev", 100, 21)); !strings.Contains(words, "20 of 40 are left") {
		t.Errorf("refused with %q", words)
	}
	if err := os.WriteFile(limits, []byte("namespaces: {dev: {max_processes: 10, max_fds: 100}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.end(syscall.SIGTERM)
	p.start()
	words := p.refused(plain + "namespace: dev\nresources: {max_processes: 1, max_fds: 1}\n")
	for _, want := range []string{"0 of 10 are left", "0 of 100 are left", "without max_fds"} {
		if !strings.Contains(words, want) {
			t.Errorf("refused with %q, which lacks %q", words, want)
		}
	}
	if u := p.use("dev"); u.Processes.Used != 20 || !u.Fds.Endless {
		t.Errorf("in use: %v", u)
	}
}

// A fork bomb stays within its namespace's share, and an agent of another namespace does not notice.
func TestForkBombHarmsNoOtherNamespace(t *testing.T) {
	t.Parallel()
	p := newPair(t, "--namespaces", limitedTo(t, "namespaces: {\"*\": {max_processes: 30}}\n")).start()
	parent, err := cgroup.Open(p.paths.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	if _, tasks := parent.Bounds(); !tasks {
		t.Skip("this host has no pids controller")
	}
	bomb := p.run(of("bomb", 100, 30), `while :; do (sleep 1000) & done 2>/dev/null`)
	processes := func() uint32 {
		for _, a := range p.list() {
			if a.AgentId == bomb.grant().AgentID {
				return a.Processes
			}
		}
		return 0
	}
	p.eventually("the bomb is at its limit", func() bool { return processes() >= 29 })
	if words := p.refused(of("bomb", 100, 1)); !strings.Contains(words, "0 of 30 are left") {
		t.Errorf("refused with %q", words)
	}
	calm := p.run(of("calm", 100, 30), `n=0; while [ $n -lt 10 ]; do sleep 1000 & n=$((n+1)); done; echo began $n; sleep 1000`)
	calm.printed("began 10")
	if n := processes(); n > 30 {
		t.Errorf("%d processes under a limit of 30", n)
	}
}

// Who needs more memory than its share is ended by the kernel, and an agent of another namespace has its own.
func TestMemoryHogHarmsNoOtherNamespace(t *testing.T) {
	t.Parallel()
	p := newPair(t, "--namespaces", limitedTo(t, "namespaces: {\"*\": {max_memory_mb: 64}}\n")).start()
	parent, err := cgroup.Open(p.paths.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	if memory, _ := parent.Bounds(); !memory {
		t.Skip("this host has no memory controller")
	}
	hog := `dd if=/dev/zero of=/dev/null bs=%dM count=1 2>/dev/null; echo status $?; sleep 1000`
	p.run(of("hog", 64, 30), fmt.Sprintf(hog, 256)).printed("status 137")
	p.run(of("calm", 64, 30), fmt.Sprintf(hog, 16)).printed("status 0")
}

// Where no controller bounds an agent, what is counted and not held is said at the launch and in the status.
func TestNamespaceLimitsThatAreNotHeld(t *testing.T) {
	t.Parallel()
	p := newPair(t, "--namespaces", limitedTo(t, "namespaces: {dev: {max_memory_mb: 200, max_processes: 30, max_fds: 2000}}\n"))
	if on, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers"); len(on) > 0 {
		t.Skip("the controllers of cgroup2 cannot be taken away from one process")
	}
	real := p.bin
	p.bin = t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec unshare -m sh -c 'for c in memory pids; do ! mountpoint -q /sys/fs/cgroup/$c || umount -l /sys/fs/cgroup/$c; done; exec \"$@\"' sh %s \"$@\"\n", filepath.Join(real, "raypherd"))
	if err := os.WriteFile(filepath.Join(p.bin, "raypherd"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("unshare", "-m", "true").CombinedOutput(); err != nil {
		t.Skipf("a mount namespace of its own: %v: %s", err, out)
	}
	p.start()
	w := p.run(plain+"namespace: dev\nresources: {max_memory_mb: 100, max_processes: 10, max_fds: 100}\n", "sleep 1000")
	status, err := p.operator().Status(context.Background(), &parentv1.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for where, notes := range map[string]string{"launch": strings.Join(w.grant().Notes, "\n"), "status": strings.Join(status.Notes, "\n")} {
		for _, limit := range []string{"max_memory_mb", "max_processes", "max_fds"} {
			if !strings.Contains(notes, limit+" of namespaces is counted at launches and not held") {
				t.Errorf("%s says %q, nothing of %s", where, notes, limit)
			}
		}
	}
	if words := p.refused(of("dev", 101, 10)); !strings.Contains(words, "100 of 200 are left") {
		t.Errorf("refused with %q", words)
	}
}
