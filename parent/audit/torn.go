package audit

import (
	"bytes"
	"encoding/binary"
	"io"
	"iter"
)

// A batch is written over zeros, and nobody is promised anything of it before it was synced. A machine that loses its power
// meanwhile leaves each sector of it as it was, zeros, or as it should be, in any combination. Such a frame is torn; it is
// always the last one. What else is not as it was written was altered: one wrong bit never looks like a lost sector.

// sectorSize is what disks write as a whole: 512 bytes or a multiple of them.
const sectorSize = 512

// maxTorn is more than a frame with what one gRPC message carries (4 MiB), in bytes.
const maxTorn = 8 << 20

// holed says whether a sector within what follows the header of the last frame reads as zeros. body lies at offset at of the file.
func holed(body []byte, at int64) bool {
	for s := sectorBehind(at - 1); s+sectorSize <= at+int64(len(body)); s += sectorSize {
		if allZero(body[s-at : s-at+sectorSize]) {
			return true
		}
	}
	return false
}

// sectorBehind is where the next sector begins behind the byte at an offset.
func sectorBehind(at int64) int64 { return at/sectorSize*sectorSize + sectorSize }

// lostHeader says whether what begins here is the last frame, without the sectors that held its header or a part of it. What
// remains of it are whole sectors, and its end if that is there; a frame that is complete behind them would mean that this one was
// complete too.
func (r *frames) lostHeader() bool {
	second := sectorBehind(r.offset)
	firstLost := onlyZeros(r.file, r.offset, min(second, r.end))
	if !firstLost && (second >= r.offset+headerSize || !onlyZeros(r.file, second, min(second+sectorSize, r.end))) {
		return false
	}
	to := written(r.file, r.offset, r.end)
	if to-r.offset > maxTorn {
		return false
	}
	rest := make([]byte, to-r.offset)
	if _, err := r.file.ReadAt(rest, r.offset); err != nil {
		return false
	}
	if firstLost {
		begin := r.offset + int64(len(rest)-len(bytes.TrimLeft(rest, "\x00")))
		if begin%sectorSize > mostZeros {
			return false
		}
	}
	inLast := to - (sectorBehind(to-1) - sectorSize) // the sector before may be lost, with the beginning of frameEnd
	end := frameEnd[max(0, int64(len(frameEnd))-inLast):]
	if !bytes.HasSuffix(rest, []byte(end)) && sectorBehind(to-1)-to > mostZeros {
		return false
	}
	return !holdsHeader(rest)
}

// mostZeros bounds the zeros that a sector with a part of a frame may begin or end with, in bytes: a hash or a nonce that is zero.
const mostZeros = 64

// holdsHeader says whether the header of a frame lies anywhere in b.
func holdsHeader(b []byte) bool {
	for {
		at := bytes.Index(b, []byte(frameMagic))
		if at < 0 || len(b)-at < headerSize {
			return false
		}
		if b = b[at:]; soundHeader(b) {
			return true
		}
		b = b[len(frameMagic):]
	}
}

// soundHeader checks the magic and the checksum of the header of a frame.
func soundHeader(b []byte) bool {
	return string(b[:4]) == frameMagic && binary.LittleEndian.Uint32(b[headerSize-4:]) == checksum(b[:headerSize-4])
}

func allZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }

// onlyZeros says whether the file reads as zeros from at to end.
func onlyZeros(file io.ReaderAt, at, end int64) bool {
	for part, err := range parts(file, at, end) {
		if err != nil || !allZero(part) {
			return false
		}
	}
	return true
}

// written is where the zeros begin that the file ends with; at if there is nothing else. What cannot be read counts as written.
func written(file io.ReaderAt, at, end int64) int64 {
	last := at
	for part, err := range parts(file, at, end) {
		if err != nil {
			return end
		}
		if n := len(bytes.TrimRight(part, "\x00")); n > 0 {
			last = at + int64(n)
		}
		at += int64(len(part))
	}
	return last
}

// parts yields what lies between at and end, piece by piece; a piece is valid until the next. It ends after an error.
func parts(file io.ReaderAt, at, end int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		buf := make([]byte, min(64<<10, max(0, end-at)))
		for at < end {
			n, err := file.ReadAt(buf[:min(int64(len(buf)), end-at)], at)
			if n > 0 {
				err = nil
			}
			if !yield(buf[:n], err) || err != nil {
				return
			}
			at += int64(n)
		}
	}
}
