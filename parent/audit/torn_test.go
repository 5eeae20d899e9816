package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
	"github.com/raypher/raypher/parent/audit"
)

const sector = 512

// written is a journal of three batches as it lies in its file, without zeros ahead, and where its frames end.
type written struct {
	log   *journaltest.Log
	name  string
	whole []byte
	ends  [3]int
	sizes [3]uint64
}

// write makes a journal whose second batch is longer by pad bytes, so that the third begins elsewhere in its sector.
func write(t *testing.T, key *journaltest.Key, pad int) *written {
	t.Helper()
	dir := inMemory(t)
	w := &written{log: journaltest.New(t, key, nil)}
	for i, entries := range [][][]byte{
		nil,
		{w.log.Verdict(journal.Verdict{AgentID: "a", Decision: journal.Block, Layer: "broker", Operation: "open-read", Target: "/" + strings.Repeat("x", pad), Count: 1})},
		slices.Repeat([][]byte{w.log.Verdict(verdict("a", 7))}, 9),
	} {
		s := open(t, dir)
		put(t, s, wire(w.log, w.log.Append(entries...)))
		s.Close()
		info, err := os.Stat(onlyFile(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		w.ends[i], w.sizes[i] = int(info.Size()), w.log.Tree.Size()
	}
	w.name = filepath.Base(onlyFile(t, dir))
	var err error
	if w.whole, err = os.ReadFile(onlyFile(t, dir)); err != nil {
		t.Fatal(err)
	}
	return w
}

// put lays a file down as the only one of a journal.
func (w *written) put(t *testing.T, dir string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, w.name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestLostSectors is the state after a power failure while the last batch was written over zeros: any of its sectors may be zeros still.
// It was promised to nobody: it is set aside and said, wherever in a sector it begins and ends.
func TestLostSectors(t *testing.T) {
	key := journaltest.NewKey(t)
	begins := map[int]bool{0: false, 1: false, 8: false, 300: false, 487: false, 488: false, 489: false, 500: false, 511: false}
	ends := map[int]bool{0: false, 1: false, 2: false, 4: false, 5: false, 7: false, 8: false, 9: false}
	for pad := range 2 * sector {
		w := write(t, key, pad)
		begin, end := w.ends[1], w.ends[2]
		if !cover(begins, begin%sector) && !cover(ends, end%sector) {
			continue
		}
		dir := inMemory(t)
		first, last := begin/sector, (end-1)/sector
		for lost := range 1 << (last - first + 1) {
			for _, ahead := range []int{0, 3, 5000} {
				torn := append(bytes.Clone(w.whole), make([]byte, ahead)...)
				for s := first; s <= last; s++ {
					if lost>>(s-first)&1 == 1 {
						clear(torn[max(begin, s*sector):min(end, (s+1)*sector)])
					}
				}
				w.put(t, dir, torn)
				s, err := audit.OpenReadOnly(dir)
				if err != nil {
					t.Fatalf("begins at byte %d of a sector, sectors %b lost, %d zeros ahead: %v", begin%sector, lost, ahead, err)
				}
				size, remains := w.sizes[1], len(bytes.TrimRight(torn, "\x00"))-begin
				if lost == 0 {
					size, remains = w.sizes[2], 0
				}
				recovered := int64(0)
				for _, r := range s.Recovered() {
					recovered += r.Bytes
				}
				if s.Size(w.log.Epoch) != size || recovered != int64(remains) {
					t.Fatalf("begins at byte %d of a sector, sectors %b lost, %d zeros ahead: %d entries, want %d; %d bytes reported, want %d",
						begin%sector, lost, ahead, s.Size(w.log.Epoch), size, recovered, remains)
				}
			}
		}
	}
	for place, wanted := range map[string]map[int]bool{"begins": begins, "ends": ends} {
		for at, done := range wanted {
			if !done {
				t.Errorf("no journal was made whose last frame %s at byte %d of a sector", place, at)
			}
		}
	}
}

// cover notes that a place was seen, and says whether it was wanted and is new.
func cover(wanted map[int]bool, at int) bool {
	done, is := wanted[at]
	if is {
		wanted[at] = true
	}
	return is && !done
}

// TestAlteredAmongZeros: zeros ahead make nothing pass for torn that was altered.
func TestAlteredAmongZeros(t *testing.T) {
	w := write(t, journaltest.NewKey(t), 1100)
	const ahead = 20000
	for _, c := range []struct {
		name  string
		alter func(b []byte)
		entry uint64
	}{
		{"a word behind zeros", func(b []byte) { copy(b[(w.ends[2]/sector+9)*sector+200:], "garbage") }, w.sizes[2]},
		{"a byte far behind", func(b []byte) { b[len(b)-1] = 1 }, w.sizes[2]},
		{"an old frame behind zeros", func(b []byte) { copy(b[w.ends[2]+sector:], b[w.ends[1]:w.ends[2]]) }, w.sizes[2]},
		{"zeros for a frame in the middle", func(b []byte) { clear(b[w.ends[0]:w.ends[1]]) }, w.sizes[0]},
		{"zeros for the header of one in the middle", func(b []byte) { clear(b[w.ends[0]:][:24]) }, w.sizes[0]},
		{"a sector of zeros in one in the middle", func(b []byte) { clear(b[w.ends[0]/sector*sector+sector:][:sector]) }, w.sizes[0]},
		{"a byte of zeros in the last frame", func(b []byte) { b[w.ends[2]-13] = 0 }, w.sizes[1]},
		{"a byte of zeros in the last header", func(b []byte) { b[w.ends[1]] = 0 }, w.sizes[1]},
		{"another bit in the last header", func(b []byte) { b[w.ends[1]+20] ^= 1 }, w.sizes[1]},
		{"another bit in the last end", func(b []byte) { b[w.ends[2]-1] ^= 1 }, w.sizes[1]},
	} {
		dir := inMemory(t)
		altered := append(bytes.Clone(w.whole), make([]byte, ahead)...)
		c.alter(altered)
		if bytes.Equal(altered[:len(w.whole)], w.whole) && allZero(altered[len(w.whole):]) {
			t.Fatalf("%s: nothing was altered", c.name)
		}
		w.put(t, dir, altered)
		for opened, open := range map[string]func(string) (*audit.Store, error){"a reader": audit.OpenReadOnly, "a writer": audit.Open} {
			_, err := open(dir)
			var refused *audit.AlteredError
			if !errors.As(err, &refused) || refused.Entry != c.entry {
				t.Errorf("%s, for %s: %v, want entry %d", c.name, opened, err, c.entry)
			}
		}
	}
}

// TestZerosAhead: a journal that is written has zeros behind it, which no reader minds; a crash leaves them, the end of the writer or of
// the epoch does not.
func TestZerosAhead(t *testing.T) {
	dir, crashed := t.TempDir(), t.TempDir()
	s := open(t, dir)
	l := journaltest.New(t, journaltest.NewKey(t), nil)
	var after []byte // the file when the writer is killed
	for i := range 30 {
		fill(t, s, l, 20)
		reader, err := audit.OpenReadOnly(dir)
		if err != nil || len(reader.Recovered()) != 0 || reader.Size(l.Epoch) != l.Tree.Size() {
			t.Fatalf("batch %d: %v", i, err)
		}
		if after, err = os.ReadFile(onlyFile(t, dir)); err != nil {
			t.Fatal(err)
		}
	}
	frames := bytes.TrimRight(after, "\x00")
	if len(after) == len(frames) {
		t.Fatal("there are no zeros ahead")
	}
	path := onlyFile(t, dir)
	s.Close()
	if closed, _ := os.ReadFile(path); !bytes.Equal(closed, frames) {
		t.Errorf("%d bytes after the end of the writer, want %d", len(closed), len(frames))
	}

	if err := os.WriteFile(filepath.Join(crashed, filepath.Base(path)), after, 0o600); err != nil {
		t.Fatal(err)
	}
	again := open(t, crashed)
	if len(again.Recovered()) != 0 || again.Size(l.Epoch) != l.Tree.Size() {
		t.Fatalf("%+v, %d entries, want %d", again.Recovered(), again.Size(l.Epoch), l.Tree.Size())
	}
	next := journaltest.NewAfter(t, l.Signer, predecessor(t, again))
	fill(t, again, next, 20)
	fill(t, again, next, 20)
	last := journaltest.NewAfter(t, l.Signer, predecessor(t, again))
	fill(t, again, last, 1)
	again.Close()
	for i, want := range []bool{true, false, false} {
		files, _ := filepath.Glob(filepath.Join(crashed, fmt.Sprintf("%06d-*.journal", i)))
		content, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := content[len(content)-1] == 0; got != want {
			t.Errorf("epoch %d ends in zeros: %v, want %v", i, got, want)
		}
	}
	if s := open(t, crashed); len(s.Recovered()) != 0 || s.Size(last.Epoch) != 2 || len(s.Epochs()) != 3 {
		t.Errorf("%+v, epochs %v", s.Recovered(), s.Epochs())
	}
}
