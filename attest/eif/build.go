package eif

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The defaults of the format's own builder (EifBuilder in src/utils/mod.rs). Whoever starts an enclave says how much it gets.
const (
	DefaultMemory = 1 << 30 // bytes
	DefaultCPUs   = 2
)

// Contents are the parts of a new image.
type Contents struct {
	Kernel      []byte // a bzImage, or an Image on arm64
	CommandLine string
	Ramdisks    [][]byte // the first one is measured as what boots, the others as the application
	Name        string   // of the image
	Version     string   // of the image
	// Time stands in the metadata. It is the caller's, so that the same contents make the same bytes.
	Time           time.Time
	Tool           string // the program that builds
	ToolVersion    string
	KernelVersion  string // empty: what the kernel says of itself
	CustomMetadata []byte // JSON; nil: none
}

// unknown is what the format's own builder says where it does not know.
const unknown = "Unknown"

// Build makes an image. What it makes passes Parse.
func Build(c Contents) ([]byte, error) {
	k, err := identify(c.Kernel)
	if err != nil {
		return nil, err
	}
	if err := checkCommandLine(c.CommandLine); err != nil {
		return nil, err
	}
	for n := 1; n < len(c.Ramdisks); n++ {
		if misplaced(len(c.Ramdisks[n-1]), c.Ramdisks[n]) {
			return nil, fmt.Errorf("ramdisk %d has %d bytes, and the next one is a plain archive, which the kernel finds at multiples of four only: pad it with zeros", n-1, len(c.Ramdisks[n-1]))
		}
	}
	if c.KernelVersion == "" {
		c.KernelVersion = k.version
	}
	metadata, err := c.describe().encode()
	if err != nil {
		return nil, err
	}
	sections := []Section{{Type: Kernel, Data: c.Kernel}, {Type: CommandLine, Data: []byte(c.CommandLine)}, {Type: Metadata, Data: metadata}}
	for _, r := range c.Ramdisks {
		sections = append(sections, Section{Type: Ramdisk, Data: r})
	}
	image, err := assemble(&Image{Architecture: k.architecture, Memory: DefaultMemory, CPUs: DefaultCPUs, Sections: sections})
	if err != nil {
		return nil, err
	}
	if _, err := Parse(image); err != nil {
		return nil, fmt.Errorf("these parts make no image: %w", err)
	}
	return image, nil
}

func (c Contents) describe() Description {
	orUnknown := func(text string) string {
		if text == "" {
			return unknown
		}
		return text
	}
	return Description{
		Name: orUnknown(c.Name), Version: orUnknown(c.Version), CustomMetadata: c.CustomMetadata,
		Build: BuildInfo{
			BuildTime: c.Time.UTC().Format(time.RFC3339), BuildTool: orUnknown(c.Tool), BuildToolVersion: orUnknown(c.ToolVersion),
			OperatingSystem: "Linux", KernelVersion: orUnknown(c.KernelVersion),
		},
	}
}

// assemble writes header and sections.
func assemble(i *Image) ([]byte, error) {
	if len(i.Sections) > maxSections {
		return nil, fmt.Errorf("%d sections, the format has room for %d", len(i.Sections), maxSections)
	}
	size := headerSize
	for _, s := range i.Sections {
		if size += sectionHeaderSize + len(s.Data); size > MaxSize {
			return nil, fmt.Errorf("the image would have more than %d bytes", MaxSize)
		}
	}
	image := make([]byte, 0, size)
	image = append(image, magic...)
	image = binary.BigEndian.AppendUint16(image, version)
	flags := uint16(0)
	if i.Architecture == ARM64 {
		flags = flagARM64
	}
	image = binary.BigEndian.AppendUint16(image, flags)
	image = binary.BigEndian.AppendUint64(image, i.Memory)
	image = binary.BigEndian.AppendUint64(image, i.CPUs)
	image = binary.BigEndian.AppendUint16(image, 0)
	image = binary.BigEndian.AppendUint16(image, uint16(len(i.Sections)))
	offsets, sizes := make([]byte, 8*maxSections), make([]byte, 8*maxSections)
	at := uint64(headerSize)
	for n, s := range i.Sections {
		binary.BigEndian.PutUint64(offsets[8*n:], at)
		binary.BigEndian.PutUint64(sizes[8*n:], uint64(len(s.Data)))
		at += sectionHeaderSize + uint64(len(s.Data))
	}
	image = append(append(image, offsets...), sizes...)
	image = append(image, make([]byte, 8)...) // unused, and the CRC
	if len(image) != headerSize {
		return nil, errors.New("the header has another size than the format's")
	}
	for _, s := range i.Sections {
		image = appendSection(image, s)
	}
	binary.BigEndian.PutUint32(image[crcOffset:], checksum(image))
	return image, nil
}
