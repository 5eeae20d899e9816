package audit_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/parent/audit"
)

// TestReadWhileEpochsBegin: a reader that has begun with an epoch does not take it for altered when the writer goes on to the next
// one meanwhile, and removes the zeros behind it.
func TestReadWhileEpochsBegin(t *testing.T) {
	key := journaltest.NewKey(t)
	for range 10 {
		dir := t.TempDir()
		s := open(t, dir)
		first := journaltest.New(t, key, nil)
		fill(t, s, first, 3000, 1)
		begun, read := make(chan struct{}), make(chan error)
		go func() {
			var err error
			for over := false; err == nil && !over; {
				select {
				case <-begun:
					over = true
				default:
				}
				_, err = audit.OpenReadOnly(dir)
			}
			read <- err
		}()
		fill(t, s, journaltest.New(t, key, first), 1)
		close(begun)
		if err := <-read; err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
}

// TestOpeningSyncs: a batch that a killed writer wrote and did not sync counts as acknowledged once the journal is opened, so it is
// synced by then.
func TestOpeningSyncs(t *testing.T) {
	from, dir := t.TempDir(), t.TempDir()
	s := open(t, from)
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	fill(t, s, l, 5)
	s.Close()
	content, err := os.ReadFile(onlyFile(t, from))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, filepath.Base(onlyFile(t, from)))
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if unsynced(t, path) == 0 {
		t.Skip("this file system has written the file at once: nothing is left to sync")
	}
	if s := open(t, dir); s.Attach().Size != l.Tree.Size() {
		t.Fatalf("%d entries", s.Attach().Size)
	}
	if n := unsynced(t, path); n != 0 {
		t.Errorf("%d pages are not on the disk", n)
	}
}

// unsynced is how many pages of a file are not on the disk yet.
func unsynced(t *testing.T, path string) uint64 {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var pages unix.Cachestat_t
	if err := unix.Cachestat(uint(file.Fd()), &unix.CachestatRange{}, &pages, 0); err != nil {
		t.Skipf("this kernel does not say which pages are synced: %v", err)
	}
	return pages.Dirty + pages.Writeback
}
