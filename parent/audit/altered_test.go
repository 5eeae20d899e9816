package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/parent/audit"
)

// TestEveryAlteredBitIsRefused flips each bit of a complete file; the error names an entry of the frame that holds it.
func TestEveryAlteredBitIsRefused(t *testing.T) {
	dir := inMemory(t)
	s := open(t, dir)
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	ends := []int64{}
	entries := []uint64{}
	for _, n := range []int{0, 1} {
		fill(t, s, l, n)
		info, _ := os.Stat(onlyFile(t, dir))
		ends, entries = append(ends, info.Size()), append(entries, l.Tree.Size())
	}
	s.Close()
	path := onlyFile(t, dir)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for bit := range len(whole) * 8 {
		at := bit / 8
		frame := 0
		for int64(at) >= ends[frame] {
			frame++
		}
		low := uint64(0)
		if frame > 0 {
			low = entries[frame-1]
		}
		bad := bytes.Clone(whole)
		bad[at] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := audit.OpenReadOnly(dir)
		var altered *audit.AlteredError
		if !errors.As(err, &altered) || altered.Entry < low || altered.Entry >= entries[frame] {
			t.Fatalf("bit %d of byte %d flipped, in entries %d to %d: %v", bit%8, at, low, entries[frame]-1, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(dir); err != nil {
		t.Fatal(err)
	}
}

// TestAlteringWithRightChecksums: who can compute a CRC cannot sign a head.
func TestAlteringWithRightChecksums(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	fill(t, s, l, 0, 3, 2)
	s.Close()
	path := onlyFile(t, dir)
	forger := journaltest.New(t, journaltest.NewKey(t), nil)
	forger.Epoch, forger.Start = l.Epoch, l.Start
	other := t.TempDir()
	forged := open(t, other)
	if err := forged.Append(wire(forger, forger.Append(forger.Verdict(verdict("a", 1))))); !errors.Is(err, audit.ErrBatch) {
		t.Fatalf("an epoch whose head another key signed is taken: %v", err)
	}
	raw, _ := os.ReadFile(path)
	altered := audit.Reseal(t, raw, func(entries [][]byte) {
		if len(entries) == 3 {
			entries[1] = l.Verdict(verdict("a0", 99))
		}
	})
	if err := os.WriteFile(path, altered, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := audit.Open(dir)
	var refused *audit.AlteredError
	if !errors.As(err, &refused) || refused.Entry != 1 || !strings.Contains(err.Error(), "root") {
		t.Fatalf("%v", err)
	}
}

func TestMissingPartsAreNoticed(t *testing.T) {
	build := func(t *testing.T) (dir string, files []string) {
		dir = t.TempDir()
		s := open(t, dir)
		var last *journaltest.Log
		for range 3 {
			l := journaltest.New(t, journaltest.NewKey(t), last)
			fill(t, s, l, 1, 2)
			last = l
		}
		s.Close()
		files, _ = filepath.Glob(filepath.Join(dir, "*.journal"))
		return dir, files
	}
	t.Run("a whole epoch", func(t *testing.T) {
		dir, files := build(t)
		os.Remove(files[1])
		if _, err := audit.Open(dir); err == nil {
			t.Error("opened")
		}
	})
	t.Run("the first epoch, renumbered", func(t *testing.T) {
		dir, files := build(t)
		for i := range 2 {
			to := filepath.Join(dir, fmt.Sprintf("%06d", i)+filepath.Base(files[i+1])[6:])
			os.Remove(files[i])
			os.Rename(files[i+1], to)
		}
		s, err := audit.OpenReadOnly(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Verify(evidence.Options{AllowSoftware: true}); !errors.Is(err, audit.ErrChain) {
			t.Error(err)
		}
	})
	t.Run("the last batch of an old epoch", func(t *testing.T) {
		dir, files := build(t)
		raw, _ := os.ReadFile(files[1])
		end := bytes.LastIndex(raw, []byte("RJF1"))
		os.WriteFile(files[1], raw[:end], 0o600)
		_, err := audit.Open(dir)
		var altered *audit.AlteredError
		if !errors.As(err, &altered) || altered.Entry != 2 {
			t.Error(err)
		}
	})
	t.Run("torn in an old epoch", func(t *testing.T) {
		dir, files := build(t)
		os.Truncate(files[0], 400)
		_, err := audit.Open(dir)
		var altered *audit.AlteredError
		if !errors.As(err, &altered) {
			t.Error(err)
		}
	})
}

// TestAnEpochMustFollowTheStore: an enclave cannot make the store hold what nobody could verify.
func TestAnEpochMustFollowTheStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	fill(t, s, l, 1)
	older := predecessor(t, s)
	fill(t, s, l, 1)
	longer := predecessor(t, s)
	longer.Size++
	stranger := journaltest.New(t, journaltest.NewKey(t), nil)
	stranger.Append()
	for name, p := range map[string]*journal.Predecessor{
		"no predecessor": nil,
		"an older head":  older,
		"a longer tree":  longer,
		"another epoch":  {Epoch: stranger.Epoch, Size: 1, SignedHead: stranger.Last.SignedHead, KeyEvidence: *stranger.KeyEvidence()},
	} {
		next := journaltest.NewAfter(t, journaltest.NewKey(t), p)
		if err := s.Append(wire(next, next.Append())); !errors.Is(err, audit.ErrBatch) || !errors.Is(err, audit.ErrChain) {
			t.Errorf("%s: %v", name, err)
		}
	}
	next := journaltest.NewAfter(t, journaltest.NewKey(t), predecessor(t, s))
	put(t, s, wire(next, next.Append()))
}

// predecessor is what an enclave makes of the store's Attach; nil for an empty store.
func predecessor(t testing.TB, s *audit.Store) *journal.Predecessor {
	t.Helper()
	a := s.Attach()
	if a.Size == 0 {
		return nil
	}
	id, err := journal.ParseEpochID(a.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := journal.DecodeKeyEvidence(a.KeyEvidence)
	if err != nil {
		t.Fatal(err)
	}
	return &journal.Predecessor{Epoch: id, Size: a.Size, SignedHead: a.SignedHead, KeyEvidence: *ev}
}

// TestZeroedWhileOpen: what a store has read as committed and then finds to be zeros is no end of the journal, and no batch that it
// has already.
func TestZeroedWhileOpen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	fill(t, s, l, 0, 2)
	before, err := os.ReadFile(onlyFile(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, s, l, 3)
	last := wire(l, l.Last)
	file, err := os.OpenFile(onlyFile(t, dir), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	reader, err := audit.OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(make([]byte, 4096), int64(len(bytes.TrimRight(before, "\x00")))); err != nil {
		t.Fatal(err)
	}
	_, verified := reader.Verify(evidence.Options{AllowSoftware: true})
	_, _, proven := reader.Receipt(l.Epoch, last.FirstIndex)
	for what, err := range map[string]error{"verify": verified, "prove": proven, "append the same again": s.Append(last)} {
		var altered *audit.AlteredError
		if !errors.As(err, &altered) || altered.Entry != last.FirstIndex {
			t.Errorf("%s: %v", what, err)
		}
	}
}
