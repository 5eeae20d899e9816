package eif

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"

	"github.com/raypher/raypher/attest"
)

// header is EifHeader without its tables of sections.
type header struct {
	flags        uint16
	memory, cpus uint64
	sections     int
	crc          uint32
}

// Parse takes an image apart and checks all of it. The result points into raw. Errors are *attest.Refusal.
func Parse(raw []byte) (*Image, error) {
	switch {
	case len(raw) < headerSize:
		return nil, attest.Refuse(CheckSize, "%d bytes are less than the header of an image has", len(raw))
	case len(raw) > MaxSize:
		return nil, attest.Refuse(CheckSize, "more than %d bytes", MaxSize)
	}
	h, err := parseHeader(raw)
	if err != nil {
		return nil, err
	}
	image := &Image{Architecture: AMD64, Memory: h.memory, CPUs: h.cpus, CRC: h.crc}
	if h.flags&flagARM64 != 0 {
		image.Architecture = ARM64
	}
	if image.Sections, err = parseSections(raw, h.sections); err != nil {
		return nil, err
	}
	if crc := checksum(raw); crc != h.crc {
		return nil, attest.Refuse(CheckCRC, "the bytes have %08x, the header says %08x: the file is damaged", crc, h.crc)
	}
	return image, image.open()
}

// open looks into the sections.
func (i *Image) open() error {
	kernel, err := identify(i.Kernel())
	if err != nil {
		return attest.Refuse(CheckContents, "%w", err)
	}
	if kernel.architecture != i.Architecture {
		return attest.Refuse(CheckContents, "the kernel is for %s, the header says %s", kernel.architecture, i.Architecture)
	}
	if err := checkCommandLine(i.CommandLine()); err != nil {
		return attest.Refuse(CheckContents, "%w", err)
	}
	if i.Metadata, err = parseMetadata(i.Sections[2].Data); err != nil {
		return attest.Refuse(CheckMetadata, "%w", err)
	}
	i.Measurements = measure(i.Sections)
	last := i.Sections[len(i.Sections)-1]
	if last.Type != Signature {
		return nil
	}
	if i.Signature, err = parseSignature(last.Data, i.Measurements.PCR0); err != nil {
		return attest.Refuse(CheckSignature, "%w", err)
	}
	certificate := extend(i.Signature.Certificate.Raw)
	i.Measurements.PCR8 = &certificate
	return nil
}

func parseHeader(raw []byte) (header, error) {
	if string(raw[:4]) != magic {
		return header{}, attest.Refuse(CheckHeader, "it does not begin with %q: this is no enclave image", magic)
	}
	if v := binary.BigEndian.Uint16(raw[4:]); v != version {
		return header{}, attest.Refuse(CheckHeader, "version %d: only version %d is known here", v, version)
	}
	h := header{
		flags:    binary.BigEndian.Uint16(raw[6:]),
		memory:   binary.BigEndian.Uint64(raw[8:]),
		cpus:     binary.BigEndian.Uint64(raw[16:]),
		sections: int(binary.BigEndian.Uint16(raw[26:])),
		crc:      binary.BigEndian.Uint32(raw[crcOffset:]),
	}
	switch {
	case h.flags&^flagARM64 != 0:
		return header{}, attest.Refuse(CheckHeader, "unknown flags %#x", h.flags)
	case binary.BigEndian.Uint16(raw[24:]) != 0 || binary.BigEndian.Uint32(raw[crcOffset-4:]) != 0:
		return header{}, attest.Refuse(CheckHeader, "a reserved field is not zero")
	case h.sections > maxSections:
		return header{}, attest.Refuse(CheckHeader, "%d sections, the format has room for %d", h.sections, maxSections)
	}
	return h, nil
}

// tableEntry is what the header says of the section of an index: where it begins and how long its contents are, in bytes.
func tableEntry(raw []byte, index int) (offset, size uint64) {
	const offsets, sizes = 28, 28 + 8*maxSections
	return binary.BigEndian.Uint64(raw[offsets+8*index:]), binary.BigEndian.Uint64(raw[sizes+8*index:])
}

// following says what may come after a section of each type; 0 stands for the header.
var following = map[SectionType][]SectionType{
	0:           {Kernel},
	Kernel:      {CommandLine},
	CommandLine: {Metadata},
	Metadata:    {Ramdisk},
	Ramdisk:     {Ramdisk, Signature},
	Signature:   nil,
}

// limits of the contents, in bytes; what is not here is bounded by the image.
var limits = map[SectionType]uint64{CommandLine: MaxCommandLine, Metadata: MaxMetadata, Signature: MaxSignature}

// parseSections demands sections that follow each other without gap or overlap from the header to the end of the image.
func parseSections(raw []byte, count int) ([]Section, error) {
	var sections []Section
	var before SectionType
	end := uint64(headerSize)
	for index := range maxSections {
		offset, size := tableEntry(raw, index)
		if index >= count {
			if offset != 0 || size != 0 {
				return nil, attest.Refuse(CheckSections, "the header describes section %d and counts %d", index, count)
			}
			continue
		}
		section, err := parseSection(raw, offset, size, end)
		if err != nil {
			return nil, attest.Refuse(CheckSections, "section %d: %w", index, err)
		}
		if !slices.Contains(following[before], section.Type) {
			return nil, attest.Refuse(CheckSections, "section %d: %s (type %d) after %s: the order is kernel, command line, metadata, ramdisks, signature",
				index, section.Type, uint16(section.Type), precedent(before))
		}
		sections = append(sections, section)
		before = section.Type
		end = offset + sectionHeaderSize + size
	}
	if before != Ramdisk && before != Signature {
		return nil, attest.Refuse(CheckSections, "the image ends after %s: it has no ramdisk", precedent(before))
	}
	if end != uint64(len(raw)) {
		return nil, attest.Refuse(CheckSections, "%d bytes after the last section", uint64(len(raw))-end)
	}
	return sections, nil
}

func precedent(t SectionType) string {
	if t == 0 {
		return "the header"
	}
	return t.String()
}

// checksum is the CRC of everything but its own field (CRC-32 of IEEE 802.3).
func checksum(raw []byte) uint32 {
	crc := crc32.ChecksumIEEE(raw[:crcOffset])
	return crc32.Update(crc, crc32.IEEETable, raw[headerSize:])
}

// cpioMagic begins each entry of a ramdisk that is not compressed (newc).
var cpioMagic = []byte("070701")

// misplaced reports a ramdisk that the kernel would not find behind one of that size: it looks for archives at multiples of
// four bytes (init/initramfs.c, unpack_to_rootfs), and loaders put ramdisks one after the other.
func misplaced(before int, ramdisk []byte) bool {
	return before%4 != 0 && bytes.HasPrefix(ramdisk, cpioMagic)
}
