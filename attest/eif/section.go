package eif

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// parseSection reads the section that the header puts at offset; it must begin at end, where the one before it ends.
func parseSection(raw []byte, offset, size, end uint64) (Section, error) {
	length := uint64(len(raw))
	switch {
	case offset != end:
		return Section{}, fmt.Errorf("begins at %d, but the one before it ends at %d", offset, end)
	case length-end < sectionHeaderSize:
		return Section{}, errors.New("the image ends inside its header")
	case size > length-end-sectionHeaderSize: // compared so that no size can overflow
		return Section{}, fmt.Errorf("%d bytes are more than the image has left", size)
	case size == 0:
		return Section{}, errors.New("it is empty")
	}
	head := raw[offset : offset+sectionHeaderSize]
	section := Section{Type: SectionType(binary.BigEndian.Uint16(head)), Offset: offset}
	if _, known := following[section.Type]; !known || section.Type == 0 {
		return Section{}, fmt.Errorf("unknown type %d", uint16(section.Type))
	}
	if flags := binary.BigEndian.Uint16(head[2:]); flags != 0 {
		return Section{}, fmt.Errorf("unknown flags %#x", flags)
	}
	if own := binary.BigEndian.Uint64(head[4:]); own != size {
		return Section{}, fmt.Errorf("its own header says %d bytes, that of the image %d", own, size)
	}
	if limit, bounded := limits[section.Type]; bounded && size > limit {
		return Section{}, fmt.Errorf("%s of %d bytes, the limit is %d", section.Type, size, limit)
	}
	section.Data = raw[offset+sectionHeaderSize : offset+sectionHeaderSize+size]
	return section, nil
}

// appendSection is the opposite of parseSection.
func appendSection(image []byte, s Section) []byte {
	image = binary.BigEndian.AppendUint16(image, uint16(s.Type))
	image = binary.BigEndian.AppendUint16(image, 0)
	image = binary.BigEndian.AppendUint64(image, uint64(len(s.Data)))
	return append(image, s.Data...)
}
