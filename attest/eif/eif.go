// Package eif reads, measures, writes and signs Enclave Image Format files, version 4: what AWS Nitro Enclaves boot. It is for
// whoever has to know which PCR values an image will have, without Docker, root or an enclave at hand.
//
// An image is a header and its sections, without gaps: kernel, command line, metadata, one or more ramdisks, and perhaps a
// signature. Measured are the contents of kernel, command line and ramdisks; the header, the metadata and the CRC are not.
//
//	PCR0  kernel, command line, all ramdisks
//	PCR1  kernel, command line, the first ramdisk: what boots
//	PCR2  the other ramdisks: the application
//	PCR8  the certificate of the signature, where there is one
//
// Sources: src/defs/mod.rs, src/utils/mod.rs and src/defs/eif_hasher.rs of aws-nitro-enclaves-image-format. Where that reader is
// lenient this one is strict: what it accepts has one meaning. Everything here is fit for hostile input, and nothing here reads
// the clock, the network or other files: the same input makes the same bytes.
package eif

import (
	"github.com/raypher/raypher/attest"
)

// Bounds.
const (
	// MaxSize is the largest image, in bytes.
	MaxSize = 1 << 30
	// MaxCommandLine is the longest command line, in bytes: the kernel's COMMAND_LINE_SIZE less its NUL (2048 on x86 and arm64).
	MaxCommandLine = 2047
	// MaxMetadata is the longest metadata section, in bytes. That of nitro-cli has one or two KiB.
	MaxMetadata = 64 << 10
	// MaxSignature is the longest signature section, in bytes: a certificate of 4 KiB, each byte of it as a CBOR number, and the rest.
	MaxSignature = 16 << 10
)

// The layout, big-endian (EifHeader and EifSectionHeader in src/defs/mod.rs).
const (
	magic             = ".eif"
	version           = 4
	maxSections       = 32
	headerSize        = 548
	crcOffset         = headerSize - 4
	sectionHeaderSize = 12

	flagARM64 = 1 // EIF_HDR_ARCH_ARM64; cleared: x86_64
)

// Checks of Parse, in the order in which they run.
const (
	CheckSize      attest.Check = "size"      // of the file
	CheckHeader    attest.Check = "header"    // magic, version, flags, reserved fields, number of sections
	CheckSections  attest.Check = "sections"  // offsets, sizes, types and order
	CheckCRC       attest.Check = "crc"       // of all bytes but its own
	CheckContents  attest.Check = "contents"  // kernel and command line
	CheckMetadata  attest.Check = "metadata"  // JSON
	CheckSignature attest.Check = "signature" // its form, its certificate, and that it signs this image's PCR0
)

// Architecture of the kernel in an image.
type Architecture string

// The architectures that the format knows.
const (
	AMD64 Architecture = "x86_64"
	ARM64 Architecture = "aarch64"
)

// SectionType is the kind of a section.
type SectionType uint16

// The section types (EifSectionType in src/defs/mod.rs).
const (
	Kernel      SectionType = 1
	CommandLine SectionType = 2
	Ramdisk     SectionType = 3
	Signature   SectionType = 4
	Metadata    SectionType = 5
)

// String is the type's name, in words.
func (t SectionType) String() string {
	switch t {
	case Kernel:
		return "kernel"
	case CommandLine:
		return "command line"
	case Ramdisk:
		return "ramdisk"
	case Signature:
		return "signature"
	case Metadata:
		return "metadata"
	}
	return "unknown"
}

// Section is one section of an image.
type Section struct {
	Type   SectionType
	Offset uint64 // of its header in the image, in bytes
	Data   []byte // its contents; points into the image
}

// Image is an image that passed every check.
type Image struct {
	Architecture Architecture
	Memory       uint64 // default memory in bytes; not measured
	CPUs         uint64 // default number of CPUs; not measured
	CRC          uint32
	Sections     []Section // in the order of the file
	Metadata     Description
	Signature    *Signer // nil: not signed
	Measurements Measurements
}

// Ramdisks are the contents of the ramdisks, in order; a loader puts them one after the other.
func (i *Image) Ramdisks() [][]byte {
	var all [][]byte
	for _, s := range i.Sections {
		if s.Type == Ramdisk {
			all = append(all, s.Data)
		}
	}
	return all
}

// Kernel is the kernel image.
func (i *Image) Kernel() []byte { return i.Sections[0].Data }

// CommandLine is the kernel's command line.
func (i *Image) CommandLine() string { return string(i.Sections[1].Data) }
