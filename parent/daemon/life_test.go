package daemon

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/parent/instance"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/raypher/raypher/visa"
)

// sweepAll removes cgroup and pins of an instance, with whatever still runs in it.
func sweepAll(p instance.Paths) error {
	cgroups, err := cgroup.Open(p.Cgroup)
	if err != nil {
		return err
	}
	defer cgroups.Close()
	names, err := cgroups.Agents()
	for _, name := range names {
		group, findErr := cgroups.Find(name)
		if findErr == nil {
			err = errors.Join(err, group.Kill())
			if empty, watchErr := group.Empty(); watchErr == nil {
				<-empty
			}
			err = errors.Join(err, group.Remove())
		}
	}
	return errors.Join(err, cgroups.Remove(), removePins(p.Pins))
}

func (p *pair) cgroupLeft(id string) bool {
	_, err := os.Stat(filepath.Join(p.cgroupPath(), id))
	return err == nil
}

func (p *pair) cgroupPath() string {
	mounts, err := cgroup.FindMounts()
	if err != nil {
		p.t.Fatal(err)
	}
	return filepath.Join(mounts.Unified, p.paths.Cgroup)
}

func TestLaunchAndEnd(t *testing.T) {
	p := newPair(t).start()
	w := p.run(plain, "echo inside; read line; exit 3")
	g := w.grant()
	claims, err := visa.Read(g.Visa)
	if err != nil {
		t.Fatal(err)
	}
	if g.Tier != "software" || !g.Development || g.Backend != "broker" || claims.Subject != g.Subject ||
		claims.Asserted.PID != int32(w.runner) || len(claims.Asserted.BinarySHA256) != 32 || claims.Asserted.AgentID != g.AgentID {
		t.Errorf("granted %+v with claims %+v", g, claims)
	}
	if want := "spiffe://raypher.local/ns/default/agent/sh"; g.Subject != want {
		t.Errorf("subject %s, want %s", g.Subject, want)
	}
	w.printed("inside")
	p.eventually("the agent is listed as running", func() bool {
		list := p.list()
		return len(list) == 1 && list[0].State == "running" && list[0].Processes == 1 && list[0].AgentId == g.AgentID
	})
	if id, inside, err := cgroupOf(p, w.runner); err != nil || !inside || id != g.AgentID {
		t.Errorf("the runner is in agent %q, %v, %v", id, inside, err)
	}
	syscall.Kill(w.runner, syscall.SIGKILL)
	p.eventually("the agent is gone", func() bool { return len(p.list()) == 0 })
	p.eventually("its cgroup is removed", func() bool { return !p.cgroupLeft(g.AgentID) })
	if left, _ := os.ReadDir(p.paths.Records); len(left) != 0 {
		t.Errorf("records left: %v", left)
	}
	p.eventually("the warden is told", func() bool { return w.heard("stream ended", "EOF") != nil })
}

func cgroupOf(p *pair, pid int) (string, bool, error) {
	parent, err := cgroup.Open(p.paths.Cgroup)
	if err != nil {
		return "", false, err
	}
	defer parent.Close()
	return parent.Contains(pid)
}

// TestExpected: a warden hears what its agent will be granted while the enclave still decides, also where the ceiling adds
// something, from the second time on.
func TestExpected(t *testing.T) {
	p := newPair(t).start()
	for round, policy := range []string{plain, plain, "network: {egress: [192.0.2.1]}\nsyscalls: {mq_open: allow}\n"} {
		w := p.run(policy, "exit 0")
		expected := w.expected()
		if expected == nil || round > 0 && !expected.Equal(&w.grant().Terms) {
			t.Errorf("round %d: expected %+v, granted %+v", round, expected, w.grant().Terms)
		}
	}
}

func TestStopByAnOperator(t *testing.T) {
	p := newPair(t).start()
	w := p.run(plain, "sleep 1000 & sleep 1000 & wait")
	if _, err := p.operator().StopAgent(context.Background(), &parentv1.StopAgentRequest{AgentId: w.grant().AgentID}); err != nil {
		t.Fatal(err)
	}
	if len(p.list()) != 0 || p.cgroupLeft(w.grant().AgentID) {
		t.Error("something is left of a stopped agent")
	}
	p.eventually("the warden is told", func() bool { return w.heard("end", "operator") != nil })
	_, err := p.operator().StopAgent(context.Background(), &parentv1.StopAgentRequest{AgentId: "nobody"})
	if status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "raypher agents list") {
		t.Errorf("stopping nobody: %v", err)
	}
}

func TestAWardensDeathEndsItsAgent(t *testing.T) {
	p := newPair(t).start()
	w := p.run(plain, "sleep 1000 & sleep 1000 & wait")
	p.eventually("the agent runs", func() bool { return len(p.list()) == 1 })
	w.cmd.Process.Kill()
	p.eventually("the agent is gone", func() bool { return len(p.list()) == 0 })
	p.eventually("its cgroup is removed", func() bool { return !p.cgroupLeft(w.grant().AgentID) })
}

func TestLaunchesThatAreRefused(t *testing.T) {
	p := newPair(t).start()
	for name, tt := range map[string]struct {
		policy string
		change func(*attend.Launch)
		want   []string
	}{
		"malformed policy":   {"mode: enforce\nfilesistem: {}\nnetwork: {egress: [10.0.0.0/40]}\n", nil, []string{"policy.yaml:2:1", "filesistem", "policy.yaml:3", "10.0.0.0/40"}},
		"no policy":          {"", nil, []string{"no policy", "--policy", instance.Policy}},
		"relative program":   {plain, func(l *attend.Launch) { l.Program = "sh" }, []string{"absolute"}},
		"relative home":      {plain, func(l *attend.Launch) { l.Home = "" }, []string{"absolute"}},
		"broken manifest":    {plain, func(l *attend.Launch) { l.Manifest, l.ManifestPath = []byte("{"), "/tmp/clawmanifest.json" }, []string{"/tmp/clawmanifest.json:1"}},
		"init as a runner":   {plain, func(l *attend.Launch) { l.RunnerPID = 1 }, []string{"process 1 cannot become an agent"}},
		"nobody as a runner": {plain, func(l *attend.Launch) { l.RunnerPID = 1 << 30 }, []string{"has ended"}},
	} {
		t.Run(name, func(t *testing.T) {
			words := p.refused(tt.policy, func(o *order, _ *exec.Cmd) {
				if tt.change != nil {
					tt.change(o.Launch)
				}
			})
			if strings.Contains(words, "invalid: ") {
				t.Errorf("refused with %q, which says what the place of the mistake says", words)
			}
			for _, want := range tt.want {
				if !strings.Contains(words, want) {
					t.Errorf("refused with %q, which lacks %q", words, want)
				}
			}
		})
	}
	if names, _ := os.ReadDir(p.cgroupPath()); names != nil {
		for _, n := range names {
			if n.IsDir() {
				t.Errorf("cgroup %s is left of a refused launch", n.Name())
			}
		}
	}
	if left, _ := os.ReadDir(p.paths.Records); len(left) != 0 {
		t.Errorf("records left: %v", left)
	}
}
