package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// raypher starts the CLI against this pair; its output gathers in the buffer.
func (p *pair) raypher(args ...string) (*exec.Cmd, *safeBuffer) {
	p.t.Helper()
	cmd := exec.Command(filepath.Join(p.bin, "raypher"), args...)
	cmd.Env = append(os.Environ(), "RAYPHER_RUN_DIR="+p.paths.Run)
	cmd.Dir = p.dir
	out := &safeBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, out
}

func (p *pair) write(name, content string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func TestRealRunOutlivesRaypherd(t *testing.T) {
	p := newPair(t).start()
	policy := p.write("policy.yaml", reject())
	host := listener(t)
	address, port, _ := strings.Cut(host, ":")
	try := fmt.Sprintf("(exec 3<>/dev/tcp/%s/%s) 2>&1", address, port)
	run, out := p.raypher("run", "--policy", policy, "--name", "survivor", "--", "bash", "-c",
		"echo begins; while [ ! -e again ]; do sleep 0.1; done; "+try+"; echo tried; while [ ! -e end ]; do sleep 0.1; done; exit 7")
	p.eventually("the agent begins", func() bool { return strings.Contains(out.String(), "begins") })
	list, said := p.raypher("agents", "list")
	if err := list.Wait(); err != nil || !strings.Contains(said.String(), "/agent/survivor") || !strings.Contains(said.String(), "running") {
		t.Errorf("agents list: %v, %s", err, said)
	}

	p.end(syscall.SIGKILL)
	p.write("again", "")
	p.eventually("the agent tries what is not granted", func() bool { return strings.Contains(out.String(), "tried") })
	if !strings.Contains(out.String(), "ot permitted") {
		t.Errorf("without raypherd the agent reaches the host:\n%s", out)
	}
	p.start()
	p.eventually("the agent runs again", func() bool {
		agents := p.list()
		return len(agents) == 1 && agents[0].State == "running"
	})
	p.eventually("what the kernel refused meanwhile is evidence", func() bool {
		for _, v := range p.evidence() {
			if v.Target == host+"/tcp" {
				return true
			}
		}
		return false
	})
	p.write("end", "")
	if err := run.Wait(); run.ProcessState.ExitCode() != 7 {
		t.Errorf("raypher run ended with %v, want status 7:\n%s", err, out)
	}
	p.eventually("the agent is gone", func() bool { return len(p.list()) == 0 })
}

func TestRealRunsAreLimited(t *testing.T) {
	p := newPair(t).start()
	tests := []struct {
		name, resources, script string
		want                    string // in what it prints
	}{
		{"a fork bomb", "max_processes: 24", `trap '' TERM; i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i+1)); done; echo all started; kill $(jobs -p)`, "fork"},
		{"a memory hog", "max_memory_mb: 64", `dd if=/dev/zero of=/dev/null bs=256M count=1; echo dd ended with $?`, "ended with 137"},
		{"too many files", "max_fds: 16", `ulimit -n; exec 99</dev/null`, "16"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			policy := p.write("policy.yaml", reject()+"resources: {"+tt.resources+"}\n")
			run, out := p.raypher("run", "--quiet", "--policy", policy, "--", "bash", "-c", tt.script)
			run.Wait()
			if strings.Contains(out.String(), "is not held") {
				t.Skip(out)
			}
			if !strings.Contains(out.String(), tt.want) || strings.Contains(out.String(), "all started") {
				t.Errorf("it printed %s, want %q in it", out, tt.want)
			}
		})
	}
}

func TestOperatorCommands(t *testing.T) {
	p := newPair(t).start()
	policy := p.write("policy.yaml", reject())
	host := listener(t)
	follow, events := p.raypher("events", "--follow")
	defer func() { follow.Process.Kill(); follow.Wait() }()
	run, out := p.raypher("run", "--policy", policy, "--", "bash", "-c", "(exec 3<>/dev/tcp/"+strings.Replace(host, ":", "/", 1)+"); sleep 1000")
	p.eventually("the refusal is shown", func() bool { return strings.Contains(events.String(), "block connect "+host+"/tcp") })
	id := p.list()[0].AgentId
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"events", "--json"}, []string{`"target":"` + host + `/tcp"`, `"agent_id":"` + id + `"`}},
		{[]string{"events", "--agent", "bash", "--json"}, []string{`"agent_id":"` + id + `"`}},
		{[]string{"agents", "list", "--json"}, []string{`"agent_id":`, id}},
		{[]string{"status"}, []string{"tier software", "ceiling", "verdicts_block"}},
		{[]string{"status", "--json"}, []string{`"enclave_reachable":`}},
		{[]string{"agents", "stop", id}, nil},
		{[]string{"agents", "list"}, []string{"no agent runs"}},
	} {
		cmd, said := p.raypher(tt.args...)
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v, %s", tt.args, err, said)
		}
		for _, want := range tt.want {
			if !strings.Contains(said.String(), want) {
				t.Errorf("%v says %s, which lacks %q", tt.args, said, want)
			}
		}
		if tt.want == nil && said.String() != "" {
			t.Errorf("%v says %s, want nothing", tt.args, said)
		}
	}
	if run.Wait(); !strings.Contains(out.String(), "stopped by an operator") {
		t.Errorf("raypher run of a stopped agent says %s", out)
	}
	cmd, said := p.raypher("agents", "stop", id)
	if cmd.Wait(); !strings.Contains(said.String(), "no agent runs") {
		t.Errorf("stopping it again says %s", said)
	}
}
