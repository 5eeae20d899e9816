package events

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
)

// maxSpool bounds the spool file, in bytes: about 300,000 verdicts.
const maxSpool = 64 << 20

// maxFrame bounds one verdict in the spool; the journal's own bound is lower.
const maxFrame = 16 << 10

var errSpoolFull = errors.New("the spool is full")

// spool is a file of verdicts that the enclave has not taken yet, oldest first. Each is framed by its length and CRC-32C
// (both 4 bytes, little endian). It is emptied from the front in memory and truncated once nothing is left.
type spool struct {
	mu    sync.Mutex
	file  *os.File
	front int64 // where the first that is not recorded begins
	end   int64
	n     uint64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openSpool opens or makes the file. A torn last frame, which a kill in the middle of a write leaves, is cut off.
func openSpool(path string) (*spool, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the spool of verdicts: %w", err)
	}
	s := &spool{file: file}
	for {
		_, size, err := s.frame(s.end)
		if err != nil {
			break
		}
		s.end += size
		s.n++
	}
	if err := file.Truncate(s.end); err != nil {
		file.Close()
		return nil, fmt.Errorf("opening the spool of verdicts: %w", err)
	}
	return s, nil
}

// frame reads the frame at an offset and returns how long it is in the file.
func (s *spool) frame(offset int64) (payload []byte, size int64, err error) {
	var head [8]byte
	if _, err := s.file.ReadAt(head[:], offset); err != nil {
		return nil, 0, err
	}
	length := binary.LittleEndian.Uint32(head[:4])
	if length > maxFrame {
		return nil, 0, fmt.Errorf("spool: a frame of %d bytes at offset %d", length, offset)
	}
	payload = make([]byte, length)
	if _, err := s.file.ReadAt(payload, offset+8); err != nil {
		return nil, 0, err
	}
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return nil, 0, fmt.Errorf("spool: checksum at offset %d", offset)
	}
	return payload, 8 + int64(length), nil
}

func (s *spool) count() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

// append takes all of them or none. They are not synced: a crash of the machine ends the agents too.
func (s *spool) append(verdicts [][]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var frames []byte
	for _, v := range verdicts {
		if len(v) > maxFrame {
			return fmt.Errorf("spool: a verdict of %d bytes", len(v))
		}
		frames = binary.LittleEndian.AppendUint32(frames, uint32(len(v)))
		frames = binary.LittleEndian.AppendUint32(frames, crc32.Checksum(v, castagnoli))
		frames = append(frames, v...)
	}
	if s.end+int64(len(frames)) > maxSpool {
		return errSpoolFull
	}
	if _, err := s.file.WriteAt(frames, s.end); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	s.end += int64(len(frames))
	s.n += uint64(len(verdicts))
	return nil
}

// peek returns up to limit verdicts from the front.
func (s *spool) peek(limit int) ([][]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out [][]byte
	for at := s.front; at < s.end && len(out) < limit; {
		payload, size, err := s.frame(at)
		if err == io.EOF || err != nil && len(out) > 0 {
			break
		}
		if err != nil {
			return nil, err
		}
		out = append(out, payload)
		at += size
	}
	return out, nil
}

// drop removes n from the front.
func (s *spool) drop(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; n > 0 && s.n > 0; n-- {
		_, size, err := s.frame(s.front)
		if err != nil {
			s.n = 0
			break
		}
		s.front += size
		s.n--
	}
	if s.n == 0 {
		// A failure leaves recorded verdicts in the file: they would be recorded again, not lost.
		_ = s.file.Truncate(0)
		s.front, s.end = 0, 0
	}
}

func (s *spool) close() error { return s.file.Close() }
