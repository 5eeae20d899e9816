package audit

import (
	"bytes"
	"testing"

	"github.com/raypher/raypher/journal"
)

// Reseal rewrites a file with entries changed and all checksums right.
func Reseal(t *testing.T, raw []byte, change func(entries [][]byte)) []byte {
	t.Helper()
	id, err := parseFileHeader(raw[:fileHeaderSize])
	if err != nil {
		t.Fatal(err)
	}
	out := fileHeader(id)
	scan := &frames{file: bytes.NewReader(raw), offset: int64(fileHeaderSize), end: int64(len(raw))}
	for scan.offset < scan.end {
		f, err := scan.next()
		if err != nil {
			t.Fatal(err)
		}
		change(f.entries)
		if out, err = appendFrame(out, f.first, f.entries, f.signedHead); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// FuzzFrames: no file may crash the reader, and a frame that it takes has exactly one encoding.
func FuzzFrames(f *testing.F) {
	sound, err := appendFrame(fileHeader(journal.EpochID{1}), 0, [][]byte{[]byte("entry"), []byte("another")}, []byte("head"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sound)
	f.Add(sound[:len(sound)-3])
	f.Add(append(bytes.Clone(sound), make([]byte, 40)...))
	f.Fuzz(func(t *testing.T, data []byte) {
		scan := &frames{file: bytes.NewReader(data), offset: int64(fileHeaderSize), end: int64(len(data))}
		if len(data) < fileHeaderSize {
			return
		}
		parseFileHeader(data[:fileHeaderSize])
		at := scan.offset
		for {
			fr, err := scan.next()
			if err != nil {
				return
			}
			again, err := appendFrame(nil, fr.first, fr.entries, fr.signedHead)
			if err != nil || !bytes.Equal(again, data[at:fr.next]) {
				t.Fatalf("frame at %d is read as another: %v", at, err)
			}
			at = fr.next
		}
	})
}
