package daemon

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/raypher/raypher/parent/instance"
)

// TestPrune: of private runs the newest stay, and every one that was written to lately, that runs, or that is no run at all.
func TestPrune(t *testing.T) {
	run, state := t.TempDir(), t.TempDir()
	now := time.Now()
	old := now.Add(-KeptFor - time.Hour)
	leave := func(id string, written time.Time) {
		t.Helper()
		folder := filepath.Join(state, "runs", id, "journal")
		file := filepath.Join(folder, "000000-x.journal")
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for path, at := range map[string]time.Time{file: written, folder: old, filepath.Dir(folder): old} {
			if err := os.Chtimes(path, at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	leave("first", now)
	leave("young", now.Add(-KeptFor+time.Hour))
	leave("old1", old.Add(-time.Hour))
	leave("old2", old.Add(-2*time.Hour))
	leave("old3", old.Add(-3*time.Hour))
	leave("running", old.Add(-4*time.Hour))
	leave("self1", old.Add(-5*time.Hour))
	leave("Not-A-Run", old)
	if err := os.MkdirAll(filepath.Join(run, "private", "running"), 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := instance.PrivateIn(run, state, "self1")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	left := func() (names []string) {
		entries, err := os.ReadDir(filepath.Join(state, "runs"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	prune(p, 100, now, log)
	if got := left(); len(got) != 8 {
		t.Errorf("fewer than are kept, and yet only %v are left", got)
	}
	prune(p, 3, now, log)
	if got, want := left(), []string{"Not-A-Run", "first", "old1", "running", "self1", "young"}; !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	system, err := instance.At(run, state)
	if err != nil {
		t.Fatal(err)
	}
	prune(system, 0, now, log)
	if got, want := left(), []string{"Not-A-Run", "first", "running", "young"}; !slices.Equal(got, want) {
		t.Errorf("beside the system's raypherd: left %v, want %v", got, want)
	}
}
