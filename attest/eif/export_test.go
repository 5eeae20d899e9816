package eif

import "encoding/binary"

// Reseal gives an altered image the CRC of its bytes, so that a test reaches the checks behind it.
func Reseal(raw []byte) []byte {
	binary.BigEndian.PutUint32(raw[crcOffset:], checksum(raw))
	return raw
}

// Assemble makes an image of any sections, in any order.
func Assemble(sections ...Section) []byte {
	raw, err := assemble(&Image{Architecture: AMD64, Memory: DefaultMemory, CPUs: DefaultCPUs, Sections: sections})
	if err != nil {
		panic(err)
	}
	return raw
}

// Limits for tests.
const (
	HeaderSize = headerSize
	Unlimited  = maxSections
)
