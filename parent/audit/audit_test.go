package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/evidence"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/parent/audit"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

func wire(l *journaltest.Log, b *journaltest.Batch) *enclavev1.Batch {
	return &enclavev1.Batch{Epoch: bytes.Clone(l.Epoch[:]), FirstIndex: b.First, Entries: b.Entries, SignedHead: b.SignedHead}
}

func verdict(agent string, n int) journal.Verdict {
	return journal.Verdict{AgentID: agent, Subject: "spiffe://example.org/ns/dev/agent/" + agent, PID: uint32(n), Comm: "cat", Decision: journal.Block,
		Layer: "broker", Operation: "open-read", Target: fmt.Sprintf("/secret/%d", n), Errno: 13, Count: 1}
}

func open(t testing.TB, dir string) *audit.Store {
	t.Helper()
	s, err := audit.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, s *audit.Store, b *enclavev1.Batch) {
	t.Helper()
	if err := s.Append(b); err != nil {
		t.Fatal(err)
	}
}

// fill appends batches of the given sizes.
func fill(t testing.TB, s *audit.Store, l *journaltest.Log, sizes ...int) {
	t.Helper()
	for _, n := range sizes {
		var entries [][]byte
		for i := range n {
			entries = append(entries, l.Verdict(verdict(fmt.Sprintf("a%d", i%2), int(l.Tree.Size())+i)))
		}
		put(t, s, wire(l, l.Append(entries...)))
	}
}

func onlyFile(t testing.TB, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*.journal"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v: %v", found, err)
	}
	return found[0]
}

func count(t testing.TB, s *audit.Store, f audit.Filter) int {
	t.Helper()
	n := 0
	for _, err := range s.Entries(f) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

func TestWhatWasAppendedIsThereAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	s := open(t, dir)
	if a := s.Attach(); len(a.Epoch) != 0 || a.Size != 0 {
		t.Fatalf("an empty journal attaches as %v", a)
	}
	first := journaltest.New(t, journaltest.NewKey(t), nil)
	fill(t, s, first, 0, 3, 1, 40)
	second := journaltest.New(t, journaltest.NewKey(t), first)
	second.Now = first.Now.Add(time.Hour)
	fill(t, s, second, 2)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, dir)
	a := s.Attach()
	if !bytes.Equal(a.Epoch, second.Epoch[:]) || a.Size != 3 || !bytes.Equal(a.SignedHead, second.Last.SignedHead) {
		t.Fatalf("attach %v", a)
	}
	if ev, err := journal.DecodeKeyEvidence(a.KeyEvidence); err != nil || ev.Tier != journal.TierSoftware {
		t.Fatalf("key evidence: %v", err)
	}
	fill(t, s, second, 5)
	for name, c := range map[string]struct {
		filter audit.Filter
		want   int
	}{
		"all":            {audit.Filter{}, 45 + 8},
		"verdicts":       {audit.Filter{Types: []journal.Type{journal.TypeVerdict}}, 44 + 7},
		"one agent":      {audit.Filter{Agent: "a1"}, 1 + 20 + 1 + 2},
		"since":          {audit.Filter{Since: second.Now}, 7},
		"one epoch from": {audit.Filter{Epoch: &first.Epoch, From: 40}, 5},
		"nobody":         {audit.Filter{Agent: "a7"}, 0},
	} {
		if got := count(t, s, c.filter); got != c.want {
			t.Errorf("%s: %d entries, want %d", name, got, c.want)
		}
	}
	reports, err := s.Verify(evidence.Options{AllowSoftware: true, Keys: []*journal.Key{first.Key, second.Key}})
	if err != nil || len(reports) != 2 || reports[0].Entries != 45 || reports[0].Heads != 4 || reports[1].Entries != 8 || !reports[1].Pinned {
		t.Fatalf("%+v: %v", reports, err)
	}
	if _, err := s.Verify(evidence.Options{}); !errors.Is(err, evidence.ErrTier) {
		t.Errorf("software without leave: %v", err)
	}
	if _, err := s.Verify(evidence.Options{AllowSoftware: true, Keys: []*journal.Key{second.Key}}); !errors.Is(err, evidence.ErrKey) {
		t.Errorf("a key that was not pinned: %v", err)
	}
}

func TestEveryEntryCanBeProven(t *testing.T) {
	s := open(t, t.TempDir())
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	fill(t, s, l, 0, 700, 1, 700, 13, 900, 5) // beyond the marks at 1024 and 2048
	options := evidence.Options{Keys: []*journal.Key{l.Key}, AllowSoftware: true}
	for _, index := range []uint64{0, 1, 699, 700, 701, 702, 1023, 1024, 1401, 1402, 1414, 1415, 2314, 2319} {
		b, err := s.Export(l.Epoch, index)
		if err != nil {
			t.Fatalf("entry %d: %v", index, err)
		}
		data, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		p, err := evidence.Verify(data, options)
		if err != nil || p.Index != index || index > 0 && p.Verdict.Target != fmt.Sprintf("/secret/%d", index) && index != 1 {
			t.Fatalf("entry %d: %+v: %v", index, p, err)
		}
	}
	for _, index := range []uint64{2320, 1 << 60} {
		if _, err := s.Export(l.Epoch, index); !errors.Is(err, audit.ErrNotFound) {
			t.Errorf("entry %d: %v", index, err)
		}
	}
	if _, err := s.Export(journal.EpochID{}, 0); !errors.Is(err, audit.ErrNotFound) {
		t.Error(err)
	}
}

// TestExportBringsTheVisaAlong: also where the enclave was restarted between the visa and the verdict.
func TestExportBringsTheVisaAlong(t *testing.T) {
	s := open(t, t.TempDir())
	first := journaltest.New(t, journaltest.NewKey(t), nil)
	claims := first.Claims("a0")
	v := verdict("a0", 1)
	v.Subject, v.VisaID = claims.Subject, claims.ID
	put(t, s, wire(first, first.Append(first.Visa(claims), first.Visa(first.Claims("a1")), first.Verdict(v))))
	second := journaltest.New(t, journaltest.NewKey(t), first)
	unknown := v
	unknown.VisaID = bytes.Repeat([]byte{1}, 16)
	put(t, s, wire(second, second.Append(second.Verdict(v), second.Verdict(unknown))))
	options := evidence.Options{Keys: []*journal.Key{first.Key, second.Key}, AllowSoftware: true}
	for _, c := range []struct {
		epoch           journal.EpochID
		index           uint64
		visa, ownsProof bool
	}{{first.Epoch, 3, true, false}, {second.Epoch, 1, true, true}, {second.Epoch, 1, true, true}, {second.Epoch, 2, false, false}} {
		b, err := s.Export(c.epoch, c.index)
		if err != nil {
			t.Fatal(err)
		}
		p, err := b.Verify(options)
		if err != nil || (p.Visa != nil) != c.visa || (b.VisaKeyEvidence != nil) != c.ownsProof {
			t.Errorf("entry %d of %s: %+v: %v", c.index, c.epoch, p, err)
		}
	}
	options.Keys = options.Keys[1:]
	if b, _ := s.Export(second.Epoch, 1); true {
		if _, err := b.Verify(options); !errors.Is(err, evidence.ErrKey) {
			t.Errorf("the visa's enclave is not trusted: %v", err)
		}
	}
}

func TestBatchesThatDoNotContinueAreRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	first := wire(l, l.Append(l.Verdict(verdict("a", 1))))
	early := wire(l, &journaltest.Batch{First: 1, Entries: first.Entries[1:], SignedHead: first.SignedHead})
	if err := s.Append(early); !errors.Is(err, audit.ErrBatch) {
		t.Fatalf("an epoch that does not begin at 0: %v", err)
	}
	put(t, s, first)
	second := wire(l, l.Append(l.Verdict(verdict("a", 2)), l.Verdict(verdict("a", 3))))
	third := wire(l, l.Append(l.Verdict(verdict("a", 4))))
	altered := wire(l, &journaltest.Batch{First: second.FirstIndex, SignedHead: second.SignedHead,
		Entries: [][]byte{second.Entries[0], l.Verdict(verdict("a", 9))}})
	before, _ := os.ReadFile(onlyFile(t, dir))
	for name, b := range map[string]*enclavev1.Batch{
		"a gap":               third,
		"altered entries":     altered,
		"no entries":          {Epoch: second.Epoch, FirstIndex: 2, SignedHead: second.SignedHead},
		"no epoch":            {FirstIndex: 2, Entries: second.Entries, SignedHead: second.SignedHead},
		"no head":             {Epoch: second.Epoch, FirstIndex: 2, Entries: second.Entries},
		"garbage":             {Epoch: second.Epoch, FirstIndex: 2, Entries: [][]byte{{1}}, SignedHead: second.SignedHead},
		"another epoch entry": {Epoch: second.Epoch, FirstIndex: 2, Entries: [][]byte{l.Start}, SignedHead: second.SignedHead},
		"nothing":             {},
	} {
		if err := s.Append(b); !errors.Is(err, audit.ErrBatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after, _ := os.ReadFile(onlyFile(t, dir)); !bytes.Equal(before, after) {
		t.Fatal("a refused batch left something in the file")
	}
	put(t, s, second)
	for name, b := range map[string]*enclavev1.Batch{"the last": second, "the first": first} {
		if err := s.Append(b); err != nil {
			t.Errorf("%s again: %v", name, err)
		}
	}
	if err := s.Append(altered); !errors.Is(err, audit.ErrBatch) {
		t.Errorf("an altered one again: %v", err)
	}
	next := journaltest.NewAfter(t, journaltest.NewKey(t), predecessor(t, s))
	put(t, s, wire(next, next.Append()))
	if err := s.Append(third); !errors.Is(err, audit.ErrBatch) {
		t.Errorf("an epoch that has ended: %v", err)
	}
}

// TestCutAtEveryByte is the state after kill -9 or a power failure at any byte: what was acknowledged before is there, the
// rest is set aside and said, and the journal goes on.
func TestCutAtEveryByte(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	type commit struct {
		bytes   int64
		entries uint64
	}
	acknowledged := []commit{{}}
	for _, n := range []int{0, 2} {
		fill(t, s, l, n)
		s.Close() // without zeros ahead
		info, err := os.Stat(onlyFile(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		acknowledged = append(acknowledged, commit{info.Size(), l.Tree.Size()})
		s = open(t, dir)
	}
	s.Close()
	whole, err := os.ReadFile(onlyFile(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Base(onlyFile(t, dir))
	work := inMemory(t)
	for cut := range len(whole) {
		var want commit
		for _, c := range acknowledged {
			if c.bytes <= int64(cut) {
				want = c
			}
		}
		// As it is cut, and with zeros where something was lost: what some file systems leave after a power failure.
		for _, holes := range []int{0, min(len(whole)-cut, 24), len(whole) - cut} {
			if holes > 0 && (cut%5 != 0 || allZero(whole[cut:cut+holes])) {
				continue
			}
			sub := filepath.Join(work, fmt.Sprintf("%d-%d", cut, holes))
			if err := os.Mkdir(sub, 0o700); err != nil {
				t.Fatal(err)
			}
			torn := append(bytes.Clone(whole[:cut]), make([]byte, holes)...)
			if err := os.WriteFile(filepath.Join(sub, name), torn, 0o600); err != nil {
				t.Fatal(err)
			}
			lost := int64(len(torn))
			if want.entries > 0 {
				lost = max(0, int64(len(bytes.TrimRight(torn, "\x00")))-want.bytes) // zeros behind a frame mean nothing
			}
			checkRecovery(t, sub, l, want.entries, lost, fmt.Sprintf("cut at byte %d, %d zeros behind", cut, holes))
			os.RemoveAll(sub)
		}
	}
}

// inMemory is a folder where thousands of syncs cost nothing.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "raypher-audit-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func allZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

func checkRecovery(t *testing.T, dir string, l *journaltest.Log, entries uint64, torn int64, what string) {
	t.Helper()
	reader, err := audit.OpenReadOnly(dir)
	if err != nil {
		t.Fatalf("%s: read only: %v", what, err)
	}
	if got := reader.Size(l.Epoch); got != entries {
		t.Fatalf("%s: a reader sees %d entries, want %d", what, got, entries)
	}
	s, err := audit.Open(dir)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer s.Close()
	if got := s.Size(l.Epoch); got != entries {
		t.Fatalf("%s: %d entries, want %d", what, got, entries)
	}
	r := s.Recovered()
	if torn == 0 && entries > 0 {
		if len(r) != 0 {
			t.Fatalf("%s: reports %+v", what, r)
		}
		return
	}
	if len(r) != 1 || r[0].Bytes != torn || r[0].Entries != entries {
		t.Fatalf("%s: reports %+v, want %d bytes", what, r, torn)
	}
	if info, err := os.Stat(r[0].SavedAs); err != nil || info.Size() != torn {
		t.Fatalf("%s: set aside: %v", what, err)
	}
	if torn%8 != 0 {
		return
	}
	next := journaltest.NewAfter(t, l.Signer, predecessor(t, s))
	put(t, s, wire(next, next.Append()))
	s.Close()
	again, err := audit.OpenReadOnly(dir)
	if err != nil || len(again.Recovered()) != 0 || again.Size(l.Epoch) != entries || again.Size(next.Epoch) != 1 {
		t.Fatalf("%s: after recovery: %v", what, err)
	}
}

func TestASecondWriterIsLockedOut(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := audit.Open(dir); !errors.Is(err, audit.ErrLocked) {
		t.Fatal(err)
	}
	reader, err := audit.OpenReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := reader.Append(&enclavev1.Batch{}); !errors.Is(err, audit.ErrReadOnly) {
		t.Error(err)
	}
	s.Close()
	if err := s.Append(&enclavev1.Batch{}); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	open(t, dir)
}

// TestReadingBesideTheWriter: a reader sees a prefix that proves itself, whatever the writer does at that moment.
func TestReadingBesideTheWriter(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	fill(t, s, l, 1)
	var writer sync.WaitGroup
	writer.Go(func() {
		for range 150 {
			fill(t, s, l, 7)
		}
	})
	last := uint64(0)
	for range 40 {
		reader, err := audit.OpenReadOnly(dir)
		if err != nil {
			t.Fatal(err)
		}
		size := reader.Size(l.Epoch)
		if size < last || count(t, reader, audit.Filter{}) != int(size) {
			t.Fatalf("%d entries after %d", size, last)
		}
		// The reader may be one batch ahead: written, not yet synced. The writer's own store proves what is durable.
		if _, _, err := s.Receipt(l.Epoch, s.Size(l.Epoch)-1); err != nil {
			t.Fatal(err)
		}
		last = size
	}
	writer.Wait()
}

// TestDiskFull: a full disk refuses the batch, keeps what was acknowledged, and takes the batch once there is room.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a small tmpfs")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("cannot mount a tmpfs here: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := open(t, dir)
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	fill(t, s, l, 1)
	var refused *enclavev1.Batch
	for refused == nil {
		var entries [][]byte
		for i := range 20 {
			entries = append(entries, l.Verdict(verdict("a", i)))
		}
		b := wire(l, l.Append(entries...))
		if err := s.Append(b); err != nil {
			if !errors.Is(err, unix.ENOSPC) {
				t.Fatal(err)
			}
			refused = b
		}
	}
	size := s.Size(l.Epoch)
	if size != refused.FirstIndex {
		t.Fatalf("%d entries, %d were acknowledged", size, refused.FirstIndex)
	}
	reader, err := audit.OpenReadOnly(dir)
	if err != nil || reader.Size(l.Epoch) != size || len(reader.Recovered()) != 0 {
		t.Fatalf("a reader sees %d: %v", reader.Size(l.Epoch), err)
	}
	next := journaltest.NewAfter(t, journaltest.NewKey(t), predecessor(t, s))
	var many [][]byte
	for i := range 400 {
		many = append(many, next.Verdict(verdict("a", i)))
	}
	if err := s.Append(wire(next, next.Append(many...))); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("a new epoch on a full disk: %v", err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	put(t, s, refused)
	s.Close()
	if again := open(t, dir); again.Size(l.Epoch) != size+20 || len(again.Recovered()) != 0 {
		t.Fatalf("%d entries, %+v", again.Size(l.Epoch), again.Recovered())
	}
}

// BenchmarkAppend is one group commit of 32 entries with its fdatasync.
func BenchmarkAppend(b *testing.B) {
	s := open(b, b.TempDir())
	l := journaltest.New(b, journaltest.NewKey(b), nil)
	fill(b, s, l, 1)
	var batches []*enclavev1.Batch
	for range b.N {
		var entries [][]byte
		for i := range 32 {
			entries = append(entries, l.Verdict(verdict("a", i)))
		}
		batches = append(batches, wire(l, l.Append(entries...)))
	}
	b.ResetTimer()
	for _, batch := range batches {
		put(b, s, batch)
	}
}
