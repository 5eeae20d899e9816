package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/raypher/raypher/attest"
)

// Bounds and numbers of the crypto-agile log (TCG PC Client Platform Firmware Profile, 10.2 and 10.4).
const (
	MaxEventLogSize = 4 << 20
	maxEvents       = 65536
	maxLogBanks     = 16
	evNoAction      = 3
	algSHA256       = 0x000b
	specSignature   = "Spec ID Event03\x00"
	startupLocality = "StartupLocality\x00"
)

// replay extends what the log says and compares it with the quoted values. Every PCR from 0 to 7 that is quoted must agree:
// the firmware writes those. Others are compared when the log mentions them, because boot loaders may use them without it.
func replay(log []byte, pcrs []PCR) error {
	replayed, mentioned, err := replayLog(log)
	if err != nil {
		return attest.Refuse(CheckEventLog, "%w", err)
	}
	const firmwarePCRs = 8
	for _, p := range pcrs {
		if p.Index >= firmwarePCRs && !mentioned[p.Index] {
			continue
		}
		if replayed[p.Index] != p.Value {
			return attest.Refuse(CheckEventLog, "its replay gives another PCR %d than the quote: the log was changed, or is not complete", p.Index)
		}
	}
	return nil
}

func replayLog(log []byte) (pcrs [PCRCount][32]byte, mentioned [PCRCount]bool, err error) {
	if len(log) > MaxEventLogSize {
		return pcrs, mentioned, fmt.Errorf("%d bytes, at most %d", len(log), MaxEventLogSize)
	}
	r := &logReader{rest: log}
	sizes, err := r.header()
	if err != nil {
		return pcrs, mentioned, err
	}
	for i := uint64(17); i <= 22; i++ { // PCRs of the dynamic root of trust begin with ones (PC Client Profile, table of PCRs)
		pcrs[i] = [32]byte(bytes.Repeat([]byte{0xff}, PCRSize))
	}
	for n := 0; len(r.rest) > 0; n++ {
		if n >= maxEvents {
			return pcrs, mentioned, fmt.Errorf("more than %d events", maxEvents)
		}
		index, kind, digest, event, err := r.event(sizes)
		if err != nil {
			return pcrs, mentioned, fmt.Errorf("event %d: %w", n+1, err)
		}
		if kind == evNoAction { // says something and extends nothing
			if index == 0 && !mentioned[0] && len(event) == len(startupLocality)+1 && string(event[:len(startupLocality)]) == startupLocality {
				pcrs[0][PCRSize-1] = event[len(startupLocality)]
			}
			continue
		}
		if index >= PCRCount {
			return pcrs, mentioned, fmt.Errorf("event %d: PCR %d", n+1, index)
		}
		pcrs[index] = sha256.Sum256(append(pcrs[index][:], digest[:]...))
		mentioned[index] = true
	}
	return pcrs, mentioned, nil
}

// logReader takes little-endian numbers and byte strings from the front.
type logReader struct{ rest []byte }

var errShort = errors.New("cut off")

func (r *logReader) take(n uint64) ([]byte, error) {
	if n > uint64(len(r.rest)) {
		return nil, errShort
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out, nil
}

func (r *logReader) u32() (uint32, error) {
	b, err := r.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (r *logReader) u16() (uint16, error) {
	b, err := r.take(2)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint16(b), nil
}

// header reads the first event, in the old format, which lists the banks and their digest sizes.
func (r *logReader) header() (map[uint16]uint16, error) {
	head, err := r.take(4 + 4 + 20 + 4)
	if err != nil {
		return nil, err
	}
	body, err := r.take(uint64(binary.LittleEndian.Uint32(head[28:])))
	if err != nil {
		return nil, err
	}
	b := &logReader{rest: body}
	signature, err := b.take(uint64(len(specSignature)))
	if err != nil || string(signature) != specSignature || binary.LittleEndian.Uint32(head[4:]) != evNoAction {
		return nil, errors.New("not in the crypto-agile format (SHA-1 only?)")
	}
	if _, err := b.take(8); err != nil { // platform class, version, size of UINTN
		return nil, err
	}
	count, err := b.u32()
	if err != nil || count == 0 || count > maxLogBanks {
		return nil, errors.New("a header without banks, or with too many")
	}
	sizes := make(map[uint16]uint16, count)
	for range count {
		algorithm, err := b.u16()
		if err != nil {
			return nil, err
		}
		if sizes[algorithm], err = b.u16(); err != nil {
			return nil, err
		}
	}
	if sizes[algSHA256] != PCRSize {
		return nil, errors.New("without the SHA-256 bank")
	}
	return sizes, nil
}

// event reads one TCG_PCR_EVENT2.
func (r *logReader) event(sizes map[uint16]uint16) (index, kind uint32, digest [32]byte, event []byte, err error) {
	if index, err = r.u32(); err != nil {
		return
	}
	if kind, err = r.u32(); err != nil {
		return
	}
	count, err := r.u32()
	if err != nil {
		return
	}
	found := false
	for range min(count, maxLogBanks+1) {
		var algorithm uint16
		if algorithm, err = r.u16(); err != nil {
			return
		}
		size, known := sizes[algorithm]
		if !known {
			err = fmt.Errorf("digest of bank %#x, which the header does not list", algorithm)
			return
		}
		var value []byte
		if value, err = r.take(uint64(size)); err != nil {
			return
		}
		if algorithm == algSHA256 {
			digest, found = [32]byte(value), true
		}
	}
	if count > maxLogBanks || !found {
		err = errors.New("without one digest of the SHA-256 bank")
		return
	}
	size, err := r.u32()
	if err != nil {
		return
	}
	event, err = r.take(uint64(size))
	return
}
