package launch

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/journal"
	table "github.com/raypher/raypher/test/conformance"
)

// ownPolicy is what the table below runs under.
const ownPolicy = `
mode: enforce
filesystem:
  read: [LIBRARIES, SELF, FOLDER/w/**]
  write: [FOLDER/w/**]
  exec: [SELF]
network:
  unix: ["FOLDER/sock/*.sock", FOLDER/run/*]
`

// conformance is one line of the table: an action inside, what its system call answers, and what is reported of it:
// "operation target", or nothing.
type conformance struct {
	name   string
	do     action
	want   string
	report string
}

// TestOwnFiles: what only this run has: its own sockets, by whatever name, and its visa. What holds of every run is the table of
// test/conformance.
func TestOwnFiles(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, ownPolicy)
		a.mkdir("w")
		a.mkdir("sock")
		for _, name := range []string{"run/raypherd-relay.sock", "run/verdicts.sock", "run/raypherd.sock", "run/other.sock"} {
			listener, err := net.Listen("unix", filepath.Join(a.folder, name))
			a.must(err)
			a.t.Cleanup(func() { listener.Close() })
			go greet(listener)
		}
		a.must(os.Link(filepath.Join(a.folder, "run/raypherd.sock"), filepath.Join(a.folder, "sock/alias.sock")))
		a.must(os.Link(filepath.Join(a.folder, "run/raypherd-relay.sock"), filepath.Join(a.folder, "sock/alias2.sock")))
		a.probeTable([]conformance{
			{"connect to the agent's socket", action{"connect", "FOLDER/run/verdicts.sock"}, "ok", ""},
			{"connect to one's own relay by another name", action{"connect", "FOLDER/sock/alias2.sock"}, "EACCES", "connect sock/alias2.sock"},
			{"connect to one's own raypherd by another name", action{"connect", "FOLDER/sock/alias.sock"}, "EACCES", "connect sock/alias.sock"},
			{"connect to what lies beside the agent's socket", action{"connect", "FOLDER/run/other.sock"}, "EACCES", "connect run/other.sock"},
			{"the visa", action{"content", "FOLDER/run/verdicts.visa", "the visa"}, "ok", ""},
			{"writing the visa", action{"open", "FOLDER/run/verdicts.visa", "w"}, "EACCES", ""},
		})
	})
}

// TestConformance plays what the table says of files and programs without a raypherd, and so without root, and relayed. The network
// guard is not there: what it alone holds is left out.
func TestConformance(t *testing.T) {
	asUsers(t, func(t *testing.T, uid int) {
		program := filepath.Join(t.TempDir(), "probe")
		build := exec.Command("go", "build", "-o", program, "../../test/probe/program")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the probe: %v\n%s", err, out)
		}
		for _, setting := range table.Settings() {
			if slices.Contains([]string{"sockets", "limits"}, setting.Name) || setting.Dies {
				continue
			}
			t.Run(setting.Name, func(t *testing.T) {
				err := table.Play(&parts{t}, setting, uid, os.TempDir(), program, func(c table.Case, what string) {
					t.Errorf("%s: %s", c.Name, what)
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// parts is the guard without a raypherd.
type parts struct{ t *testing.T }

func (p *parts) Backend() string { return table.Broker }

func (p *parts) Launch(policy string, uid int, folder string, argv []string) (table.Run, error) {
	a := newAgent(p.t, uid, "")
	a.write("policy.yaml", policy)
	cmd := a.command(argv...)
	cmd.Dir = folder
	return &partsRun{a, cmd}, nil
}

type partsRun struct {
	agent *agent
	cmd   *exec.Cmd
}

func (r *partsRun) Command() *exec.Cmd                   { return r.cmd }
func (r *partsRun) Verdicts() ([]journal.Verdict, error) { return r.agent.reported(), nil }
func (r *partsRun) Close() error                         { r.agent.waitForWarden(); return nil }

// probeTable runs a table in one process and compares what each call answered, and what was reported of all of them.
func (a *agent) probeTable(table []conformance) {
	a.t.Helper()
	actions := make([]action, len(table))
	for i, c := range table {
		actions[i] = slices.Clone(c.do)
		for j := range actions[i] {
			actions[i][j] = a.expand(actions[i][j])
		}
	}
	results := a.probe(actions)
	var wanted, got []string
	for i, c := range table {
		if results[i] != c.want {
			a.t.Errorf("%s: %q answered %s, want %s", c.name, c.do, results[i], c.want)
		}
		if c.report != "" {
			wanted = append(wanted, c.report)
		}
	}
	for _, v := range a.reported() {
		got = append(got, shortReport(a, v))
	}
	compareReports(a.t, got, wanted)
}

// shortReport is a verdict as the table writes it.
func shortReport(a *agent, v journal.Verdict) string {
	target := strings.TrimPrefix(v.Target, a.folder+"/")
	target = strings.Replace(target, fmt.Sprintf("/proc/%d/", v.PID), "/proc/SELFPID/", 1)
	if shell, err := filepath.EvalSymlinks("/bin/sh"); err == nil && target == shell {
		target = "SHELL"
	}
	return v.Operation + " " + target
}

// compareReports expects each report that is wanted, and no other. Equal ones may be folded.
func compareReports(t testing.TB, got, wanted []string) {
	t.Helper()
	for _, all := range []*[]string{&got, &wanted} {
		slices.Sort(*all)
		*all = slices.Compact(*all)
	}
	for _, report := range wanted {
		if !slices.Contains(got, report) {
			t.Errorf("not reported: %s", report)
		}
	}
	for _, report := range got {
		if !slices.Contains(wanted, report) {
			t.Errorf("reported and not wanted: %s", report)
		}
	}
}
