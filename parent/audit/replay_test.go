package audit_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/parent/audit"
)

// snapshotPart is an entry of a snapshot.
func snapshotPart(t *testing.T, id byte, number, parts uint64) []byte {
	t.Helper()
	payload, err := (&journal.SnapshotPart{ID: journal.Hash{id}, Number: number, Parts: parts, Bytes: []byte{id, byte(number)}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := journal.NewEntry(journal.TypeSnapshot, time.Now(), payload)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestReplayBegins: a replay begins with the newest whole snapshot, or with the journal, and leads to the head of the epoch that is asked for; it is the
// same after the store was opened again.
func TestReplayBegins(t *testing.T) {
	type step struct {
		name string
		put  func(l *journaltest.Log) [][]byte // a batch
		want uint64                            // of the epoch: where a replay begins
	}
	verdicts := func(n int) func(*journaltest.Log) [][]byte {
		return func(l *journaltest.Log) (all [][]byte) {
			for i := range n {
				all = append(all, l.Verdict(verdict("a", i)))
			}
			return all
		}
	}
	parts := func(all ...[]byte) func(*journaltest.Log) [][]byte {
		return func(*journaltest.Log) [][]byte { return all }
	}
	dir := t.TempDir()
	s, l := open(t, dir), journaltest.New(t, journaltest.NewKey(t), nil) // which begins with an epoch entry
	for _, c := range []step{
		{"no snapshot", verdicts(5), 0},
		{"the first half of one", parts(snapshotPart(t, 1, 0, 2)), 0},
		{"something beside it", verdicts(3), 0},
		{"the other half", parts(snapshotPart(t, 1, 1, 2)), 6},
		{"a half without the first", parts(snapshotPart(t, 2, 1, 2)), 6},
		{"halves of two", parts(snapshotPart(t, 3, 0, 2), snapshotPart(t, 6, 1, 2)), 6},
		{"a whole one", parts(snapshotPart(t, 4, 0, 1)), 14},
		{"more than a mark's distance", verdicts(1500), 14},
		{"one in the middle of a batch", func(l *journaltest.Log) [][]byte {
			return slices.Concat(verdicts(7)(l), [][]byte{snapshotPart(t, 5, 0, 1)}, verdicts(4)(l))
		}, 1522},
	} {
		put(t, s, wire(l, l.Append(c.put(l)...)))
		for _, store := range []*audit.Store{s, reopened(t, dir)} {
			if got, want := replayed(t, store, l), fmt.Sprintf("from %d", c.want); got != want {
				t.Errorf("%s: %s, want %s", c.name, got, want)
			}
		}
	}
	if err := s.Replay(journal.EpochID{9}, nil, nil); err == nil || !strings.Contains(err.Error(), "no such entry") {
		t.Errorf("of an epoch that is not there: %v", err)
	}
}

func reopened(t *testing.T, dir string) *audit.Store {
	t.Helper()
	s, err := audit.OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// replayed says where a replay begins, if it leads to the tree of the log.
func replayed(t *testing.T, s *audit.Store, l *journaltest.Log) string {
	t.Helper()
	var tree journal.Tree
	said := ""
	err := s.Replay(l.Epoch, func(id journal.EpochID, first uint64, edge []journal.Hash) (err error) {
		said += fmt.Sprintf("from %d", first)
		tree, err = journal.TreeFromEdge(first, edge)
		return err
	}, func(raw [][]byte) error {
		leaves := make([]journal.Hash, len(raw))
		for i, entry := range raw {
			leaves[i] = journal.LeafHash(entry)
		}
		tree.Append(leaves)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if tree.Size() != l.Tree.Size() || tree.Root() != l.Tree.Root() {
		return fmt.Sprintf("%s to another tree of %d entries", said, tree.Size())
	}
	return said
}
