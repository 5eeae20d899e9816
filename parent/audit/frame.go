package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/raypher/raypher/journal"
)

// The file format. Numbers are little endian, checksums CRC-32C.
//
//	file    "raypher journal\x01" | epoch (16) | checksum of both (4), then frames
//	frame   "RJF1" | payload length (4) | first index (8) | count of entries (4) | checksum of these (4)
//	        payload | checksum of the payload (4) | "RJFE"
//	payload count times { length (4) | checksum (4) | entry }, then the signed head up to the end
//
// Behind the last frame may lie zeros, which mean nothing: they are written ahead of the frames that will replace them.
const (
	fileMagic      = "raypher journal\x01"
	frameMagic     = "RJF1"
	frameEnd       = "RJFE"
	fileHeaderSize = len(fileMagic) + 16 + 4
	headerSize     = 24
	trailerSize    = 8
	entryHeader    = 8

	// maxPayload bounds the payload of one frame, in bytes, far above what one gRPC message carries.
	maxPayload = 64 << 20
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func fileHeader(epoch journal.EpochID) []byte {
	b := append([]byte(fileMagic), epoch[:]...)
	return binary.LittleEndian.AppendUint32(b, checksum(b))
}

// parseFileHeader reads the first fileHeaderSize bytes of a file.
func parseFileHeader(b []byte) (journal.EpochID, error) {
	body := b[:fileHeaderSize-4]
	if binary.LittleEndian.Uint32(b[fileHeaderSize-4:]) != checksum(body) || string(body[:len(fileMagic)]) != fileMagic {
		return journal.EpochID{}, errors.New("its header is not what was written")
	}
	return journal.EpochID(body[len(fileMagic):]), nil
}

// frame is one group commit as it lies in the file.
type frame struct {
	offset     int64
	first      uint64
	entries    [][]byte
	signedHead []byte
	next       int64 // offset behind it
}

// appendFrame appends the encoded frame to buf.
func appendFrame(buf []byte, first uint64, entries [][]byte, signedHead []byte) ([]byte, error) {
	length := len(signedHead)
	for _, e := range entries {
		length += entryHeader + len(e)
	}
	if length > maxPayload {
		return nil, fmt.Errorf("a batch of %d bytes, the limit is %d", length, maxPayload)
	}
	start := len(buf)
	buf = append(buf, frameMagic...)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(length))
	buf = binary.LittleEndian.AppendUint64(buf, first)
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(entries)))
	buf = binary.LittleEndian.AppendUint32(buf, checksum(buf[start:]))
	payload := len(buf)
	for _, e := range entries {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(len(e)))
		buf = binary.LittleEndian.AppendUint32(buf, checksum(e))
		buf = append(buf, e...)
	}
	buf = append(buf, signedHead...)
	buf = binary.LittleEndian.AppendUint32(buf, checksum(buf[payload:]))
	return append(buf, frameEnd...), nil
}

// errTorn says that the file ends in a frame that was never completely written.
var errTorn = errors.New("torn end")

// brokenFrame says which entry is not what was written.
type brokenFrame struct {
	entry  uint64
	reason string
}

func (b *brokenFrame) Error() string { return fmt.Sprintf("entry %d: %s", b.entry, b.reason) }

// frames reads one frame after the other from off up to end. It trusts nothing: a length is used only after its checksum.
type frames struct {
	file   io.ReaderAt
	offset int64
	end    int64  // of the file, or of what is committed
	index  uint64 // of the next entry
}

// next returns the next frame, io.EOF behind the last, errTorn or a *brokenFrame.
func (r *frames) next() (*frame, error) {
	if left := r.end - r.offset; left < headerSize {
		if onlyZeros(r.file, r.offset, r.end) {
			return nil, io.EOF
		}
		return nil, errTorn
	}
	var header [headerSize]byte
	if err := r.read(header[:], r.offset); err != nil {
		return nil, err
	}
	if !soundHeader(header[:]) {
		switch {
		case onlyZeros(r.file, r.offset, r.end):
			return nil, io.EOF // they were written ahead
		case onlyZeros(r.file, r.offset+headerSize, r.end), r.lostHeader():
			return nil, errTorn
		}
		return nil, &brokenFrame{r.index, "the header of its frame was altered"}
	}
	length := int64(binary.LittleEndian.Uint32(header[4:]))
	f := &frame{offset: r.offset, first: binary.LittleEndian.Uint64(header[8:]), next: r.offset + headerSize + length + trailerSize}
	if length > maxPayload || f.first != r.index {
		return nil, &brokenFrame{r.index, fmt.Sprintf("its frame says entry %d and %d bytes", f.first, length)}
	}
	if f.next > r.end {
		return nil, errTorn
	}
	body := make([]byte, length+trailerSize)
	if err := r.read(body, r.offset+headerSize); err != nil {
		return nil, err
	}
	payload, trailer := body[:length], body[length:]
	broken := f.split(payload, binary.LittleEndian.Uint32(header[16:]))
	if broken == nil && (binary.LittleEndian.Uint32(trailer) != checksum(payload) || string(trailer[4:]) != frameEnd) {
		broken = &brokenFrame{f.first, "the tree head or the end of its frame was altered"}
	}
	if broken != nil {
		if onlyZeros(r.file, f.next-1, r.end) || holed(body, r.offset+headerSize) && onlyZeros(r.file, f.next, r.end) {
			return nil, errTorn
		}
		return nil, broken
	}
	r.offset, r.index = f.next, f.first+uint64(len(f.entries))
	return f, nil
}

// split finds the entries and the head in a payload and checks each entry's own checksum.
func (f *frame) split(payload []byte, count uint32) *brokenFrame {
	for i := range uint64(count) {
		if len(payload) < entryHeader {
			return &brokenFrame{f.first + i, "it is missing from its frame"}
		}
		length, sum := binary.LittleEndian.Uint32(payload), binary.LittleEndian.Uint32(payload[4:])
		payload = payload[entryHeader:]
		if uint64(length) > uint64(len(payload)) || checksum(payload[:length]) != sum {
			return &brokenFrame{f.first + i, "it was altered (checksum)"}
		}
		f.entries = append(f.entries, payload[:length:length])
		payload = payload[length:]
	}
	f.signedHead = payload
	return nil
}

func (r *frames) read(b []byte, at int64) error {
	_, err := r.file.ReadAt(b, at)
	if errors.Is(err, io.EOF) {
		return errTorn // shorter than a moment ago: only a reader beside a writer that recovers sees this
	}
	return err
}
