package tpm

import (
	"os"
	"testing"
	"time"
)

func now() time.Time { return time.Now() }

// copyState gives a simulator a folder of its own with the same TPM.
func copyState(t testing.TB, state string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	return dir
}
