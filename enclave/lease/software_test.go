package lease_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	"github.com/raypher/raypher/journal"
)

func software(t testing.TB, dir string) lease.Anchor {
	t.Helper()
	a, err := lease.OpenSoftware(dir)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSoftware(t *testing.T) {
	dir := t.TempDir()
	leasetest.Run(t, func(t *testing.T) lease.Anchor { return software(t, dir) })
}

// What the tier software says of itself: with its folder the count goes back.
func TestSoftwareIsNoProtection(t *testing.T) {
	dir := t.TempDir()
	a := software(t, dir)
	old := leasetest.Copy(t, dir)
	first, err := a.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again, err := software(t, old).Take(t.Context())
	if err != nil || again != first || a.Tier() != journal.TierSoftware {
		t.Errorf("%d and %d, %v, tier %s", first, again, err, a.Tier())
	}
}

func TestSoftwareFileGoneOrBroken(t *testing.T) {
	for name, breakIt := range map[string]func(path string) error{
		"removed":  os.Remove,
		"garbage":  func(path string) error { return os.WriteFile(path, []byte("garbage"), 0o600) },
		"empty":    func(path string) error { return os.Truncate(path, 0) },
		"replaced": func(path string) error { return errors.Join(os.Remove(path), os.Symlink("/dev/null", path)) },
	} {
		dir := t.TempDir()
		a := software(t, dir)
		if err := breakIt(filepath.Join(dir, lease.CounterFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Take(t.Context()); !errors.Is(err, lease.ErrAnchor) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
