package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/raypher/raypher/parent/doctor"
)

// Exit code and report must say the same, whatever this host can do.
func TestDoctorJSON(t *testing.T) {
	t.Setenv("RAYPHER_RUN_DIR", t.TempDir()) // no daemon there
	c := doctorCommand()
	c.SilenceErrors, c.SilenceUsage = true, true
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetArgs([]string{"--json"})
	err := c.Execute()
	var report doctor.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	var exit *exitError
	if failed := errors.As(err, &exit) && exit.code == 1; failed == report.CanRun {
		t.Errorf("can_run is %v, the command ended with %v", report.CanRun, err)
	}
	if report.Backend == "" || report.Tier == "" || len(report.Checks) < 20 {
		t.Errorf("got %+v", report)
	}
}

func TestNoColoursOutsideTerminals(t *testing.T) {
	if hasColours(new(bytes.Buffer)) {
		t.Error("colours in a buffer")
	}
}
