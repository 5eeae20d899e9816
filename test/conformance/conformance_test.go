package conformance_test

import (
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/raypher/raypher/test/conformance"
	"github.com/raypher/raypher/test/governed"
)

func TestMain(m *testing.M) { os.Exit(governed.Main(m)) }

// TestConformance plays the whole table with the programs as a person uses them, as root and as a user.
func TestConformance(t *testing.T) {
	m := governed.Open(t)
	for _, setting := range conformance.Settings() {
		t.Run(setting.Name, func(t *testing.T) {
			for name, uid := range map[string]int{"as root": 0, "as a user": governed.UserID} {
				t.Run(name, func(t *testing.T) {
					if missing := setting.Missing(uid); missing != "" {
						t.Skip(missing)
					}
					err := conformance.Play(guard{m}, setting, uid, m.Folder, governed.Probe(), func(c conformance.Case, what string) {
						t.Errorf("%s: %s", c.Name, what)
					})
					if err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

// guard is the product on this machine.
type guard struct{ *governed.Machine }

func (g guard) Backend() string { return conformance.Broker }

func (g guard) Launch(policy string, uid int, folder string, argv []string) (conformance.Run, error) {
	a, err := g.Prepare(policy, uid, folder, argv...)
	if err != nil {
		return nil, err
	}
	return run{a}, nil
}

type run struct{ *governed.Agent }

func (r run) Command() *exec.Cmd { return r.Cmd }

// Close says why an agent was not started.
func (r run) Close() error {
	if r.Cmd.ProcessState.ExitCode() > 0 {
		return errors.New(r.Said())
	}
	return nil
}
