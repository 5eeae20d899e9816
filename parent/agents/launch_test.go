package agents

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/cgroup"
	"github.com/raypher/raypher/policy"
)

// TestGoneTouchesNobody: a warden or runner that ended while its launch was made ready leaves its pid to another process, which is neither
// moved nor bounded.
func TestGoneTouchesNobody(t *testing.T) {
	caller := exec.Command("sleep", "1000")
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	held, err := task.Open(caller.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := caller.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	caller.Wait()
	h := &Host{options: Options{Cgroups: &cgroup.Parent{}}} // moves nobody: its folder does not exist
	if err := h.retire(held); !errors.Is(err, task.ErrGone) {
		t.Errorf("the warden: %v, want %v", err, task.ErrGone)
	}
	var none uint64
	a := &Agent{host: h, group: &cgroup.Group{}, launchPermit: &policy.Policy{Resources: &policy.Resources{MaxFDs: &none}}}
	if err := h.install(a, Caller{Task: held}, held); !errors.Is(err, task.ErrGone) {
		t.Errorf("the runner: %v, want %v", err, task.ErrGone)
	}
}
