package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

// TestReleasePins: a file guard that nobody arms any more is taken off, but not from agents that run under it.
func TestReleasePins(t *testing.T) {
	pins := filepath.Join(t.TempDir(), "files")
	if attached(pins) {
		t.Error("nothing is there, and it counts as attached")
	}
	if err := releasePins(pins, false); err != nil {
		t.Error(err)
	}
	if err := os.MkdirAll(filepath.Join(pins, "maps"), 0o700); err != nil {
		t.Fatal(err)
	}
	if attached(pins) {
		t.Error("what a guard left that never came to be attached counts as one")
	}
	if err := os.WriteFile(filepath.Join(pins, "link_file_open"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !attached(pins) {
		t.Error("a pinned link is there")
	}
	if err := releasePins(pins, true); err == nil || !attached(pins) {
		t.Errorf("agents run under it: %v", err)
	}
	if err := releasePins(pins, false); err != nil || attached(pins) {
		t.Errorf("nobody runs under it: %v", err)
	}
}
