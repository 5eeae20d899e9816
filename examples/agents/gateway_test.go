package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/examples/scripted"
	"github.com/raypher/raypher/examples/stage"
	"github.com/raypher/raypher/test/metered"
	"github.com/raypher/raypher/test/provider"
)

// inside says to a test's process that it has mounts of its own.
const inside = "RAYPHER_TEST_OWN_MOUNTS"

// TestMain gives the tests mounts of their own, which end with them: agents are shown where a plain user can reach them.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(inside) != "" {
		os.Exit(m.Run())
	}
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Env = append(os.Environ(), inside+"=1")
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	if err := again.Run(); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// TestAgentsThroughTheGateway: agents as npm has them do a task with the gateway as their model; each of their requests is understood, and
// what is spent is what the provider charges.
func TestAgentsThroughTheGateway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: an agent is shown in the home of another user, as a mount")
	}
	for name := range kinds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			model, w, log, err := work(t, name, "100")
			if err != nil || !model.Done() || !strings.Contains(strings.Join(model.Results(), ""), "3 lines") {
				t.Errorf("%v after %d steps: %q\n%s", err, len(model.Results()), model.Results(), log)
			}
			for _, refusal := range w.Refusals() {
				t.Error("refused:", refusal)
			}
			w.Agree()
			account := w.Provider.Account()
			if account.Calls < honest || account.Refused > 0 {
				t.Errorf("%+v\n%s", account, log)
			}
			t.Logf("%d calls, charged %s", account.Calls, account.Charged)
		})
	}
}

// TestAgentsOutOfMoney: an agent whose budget is at its end ends and says why, and nothing was charged beyond it.
func TestAgentsOutOfMoney(t *testing.T) {
	// A call of Codex holds 12.8 cents for 32,000 tokens of output, of Claude Code 51.2 for 128,000, and each byte that
	// an agent says holds one micro-dollar, or two where it may be written to a cache; it uses a
	// cent or two. So the budgets are for a call or two and not for the task.
	for name, budget := range map[string]string{"codex": "0.175", "claude-code": "0.625"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			model, w, log, err := work(t, name, budget)
			if model.Done() || !strings.Contains(log, "raypher: ") || !strings.Contains(log, budget) {
				t.Errorf("it does not end, or does not say why: %v\n%s", err, log)
			}
			w.Agree()
			most, err := cost.ParseAmount(budget)
			if account := w.Provider.Account(); err != nil || account.Charged > most || account.Calls == 0 {
				t.Errorf("%+v, %v\n%s", account, err, log)
			}
		})
	}
}

// kinds are the providers that the agents talk to.
var kinds = map[string]string{"openclaw": "compatible", "codex": "openai", "opencode": "compatible", "claude-code": "anthropic"}

// honest is how many steps of its script an agent carries out: reading notes, and running a program.
const honest = 2

// installed is the folder of an agent, as scripts/agents.sh has it.
func installed(t *testing.T, name string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: an agent is shown in the home of another user, as a mount")
	}
	out, err := exec.CommandContext(t.Context(), "../../scripts/agents.sh", name).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		t.Skipf("npm cannot be reached, so there are no agents to run: %s", exit.Stderr)
	}
	if err != nil {
		t.Fatalf("scripts/agents.sh: %v", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), name)
}

// work has an agent do the honest steps of its script, with the gateway as its model and a budget in dollars. err is how the agent ended,
// log what it wrote.
func work(t *testing.T, name, budget string) (model *scripted.Server, w *metered.World, log string, err error) {
	t.Helper()
	at := installed(t, name)
	a, err := load(name)
	if err != nil {
		t.Fatal(err)
	}
	script, err := scripted.Load(filepath.Join(name, "script.json"), map[string]string{"Home": "/h", "Root": "/r", "Secret": "s"})
	if err != nil {
		t.Fatal(err)
	}
	script.Steps = script.Steps[:honest]
	script.UseTool(a.Tool.Name, a.Tool.Command, a.Tool.Fixed)
	model = scripted.NewServer(script)
	w = metered.Open(t, metered.Options{Budget: budget, Provider: provider.Options{Reply: func(turn *scripted.Turn) (scripted.Reply, provider.Fault) {
		reply := model.Reply(turn)
		reply.Usage = nil // by what it got and said
		return reply, ""
	}}})
	a.model, a.key = w.URL+"/"+kinds[name], metered.Handle
	home, err := stage.NewHome()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { home.Close() })
	undo, err := a.furnish(home, at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { undo() })
	log, err = run(t, a, home, script.Task)
	return model, w, log, err
}

// run runs the agent.
func run(t *testing.T, a *agent, home *stage.Home, task string) (log string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	command := append(a.fill(home, a.Command), task)
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = home.Work
	cmd.Env = append([]string{"HOME=" + home.Dir, "PATH=/usr/local/bin:/usr/bin:/bin", "TERM=dumb"}, a.fill(home, a.Environment)...)
	cmd.SysProcAttr = stage.AsPerson()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}
