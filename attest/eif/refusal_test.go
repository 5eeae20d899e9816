package eif_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/eif"
)

// Places in the header.
const (
	offsets = 28
	sizes   = offsets + 8*32
)

func put16(at int, v uint16) func([]byte) []byte {
	return func(raw []byte) []byte { binary.BigEndian.PutUint16(raw[at:], v); return raw }
}

func put64(at int, v uint64) func([]byte) []byte {
	return func(raw []byte) []byte { binary.BigEndian.PutUint64(raw[at:], v); return raw }
}

// TestRefusals: one change to a good image, and the check that refuses it. The CRC is made anew after each change, except where
// it is what the case is about.
func TestRefusals(t *testing.T) {
	good := ok(eif.Build(contents()))(t)
	image := ok(eif.Parse(good))(t)
	at := func(section int) int { return int(image.Sections[section].Offset) }
	for _, c := range []struct {
		name  string
		alter func(raw []byte) []byte
		want  attest.Check
	}{
		{"nothing", func([]byte) []byte { return nil }, eif.CheckSize},
		{"less than a header", func(raw []byte) []byte { return raw[:eif.HeaderSize-1] }, eif.CheckSize},
		{"another magic", func(raw []byte) []byte { raw[0] = 'x'; return raw }, eif.CheckHeader},
		{"version 3", put16(4, 3), eif.CheckHeader},
		{"version 5", put16(4, 5), eif.CheckHeader},
		{"unknown flags", put16(6, 2), eif.CheckHeader},
		{"a reserved field", put16(24, 1), eif.CheckHeader},
		{"the unused field", put16(540, 1), eif.CheckHeader},
		{"more sections than there is room for", put16(26, 33), eif.CheckHeader},
		{"65535 sections", put16(26, math.MaxUint16), eif.CheckHeader},
		{"no sections", put16(26, 0), eif.CheckSections},
		{"fewer sections than are described", put16(26, 5), eif.CheckSections},
		{"more sections than are described", put16(26, 7), eif.CheckSections},
		{"an offset of a section that is not counted", put64(offsets+8*6, 1), eif.CheckSections},
		{"a size of a section that is not counted", put64(sizes+8*31, 1), eif.CheckSections},
		{"a size beyond the end", put64(sizes, uint64(len(good))), eif.CheckSections},
		{"a size that overflows", put64(sizes+8, math.MaxUint64), eif.CheckSections},
		{"a size that overflows with its offset", put64(sizes+8, math.MaxUint64-uint64(at(1))+1), eif.CheckSections},
		{"a size that overflows, in both headers", func(raw []byte) []byte {
			size := math.MaxUint64 - uint64(at(3)+12) + 1 // so that the section would end at 0
			return put64(at(3)+4, size)(put64(sizes+8*3, size)(raw))
		}, eif.CheckSections},
		{"an offset beyond the end", put64(offsets+8, math.MaxUint64), eif.CheckSections},
		{"an offset inside the section before", put64(offsets+8, uint64(at(1)-1)), eif.CheckSections},
		{"a gap", put64(offsets+8, uint64(at(1)+1)), eif.CheckSections},
		{"two sections at one place", put64(offsets+8, uint64(at(0))), eif.CheckSections},
		{"an offset inside the header", put64(offsets, 0), eif.CheckSections},
		{"a section whose own header says less", put64(at(0)+4, 1023), eif.CheckSections},
		{"a section whose own header says more", put64(at(0)+4, 1<<63), eif.CheckSections},
		{"flags of a section", put16(at(0)+2, 1), eif.CheckSections},
		{"type 0", put16(at(3), 0), eif.CheckSections},
		{"type 6", put16(at(3), 6), eif.CheckSections},
		{"an empty section", put64(sizes+8, 0), eif.CheckSections},
		{"the last byte is missing", func(raw []byte) []byte { return raw[:len(raw)-1] }, eif.CheckSections},
		{"one byte more", func(raw []byte) []byte { return append(raw, 0) }, eif.CheckSections},
		{"cut in a section's header", func(raw []byte) []byte { return raw[:at(5)+4] }, eif.CheckSections},
	} {
		t.Run(c.name, func(t *testing.T) {
			raw := c.alter(bytes.Clone(good))
			if len(raw) >= eif.HeaderSize {
				eif.Reseal(raw)
			}
			refused(t, raw, c.want)
		})
	}
	// Each damaged byte is found, whatever it belongs to.
	for n := range good {
		raw := bytes.Clone(good)
		raw[n] ^= 0x40
		if _, err := eif.Parse(raw); err == nil {
			t.Fatalf("byte %d altered: accepted", n)
		}
	}
}

// TestSectionRefusals: sections of the right form in the wrong number, order or size.
func TestSectionRefusals(t *testing.T) {
	kernel := eif.Section{Type: eif.Kernel, Data: bzImage()}
	line := eif.Section{Type: eif.CommandLine, Data: []byte("a")}
	metadata := ok(eif.Parse(ok(eif.Build(contents()))(t)))(t).Sections[2]
	disk := eif.Section{Type: eif.Ramdisk, Data: []byte("r")}
	of := func(s eif.Section, data string) eif.Section { return eif.Section{Type: s.Type, Data: []byte(data)} }
	if _, err := eif.Parse(eif.Assemble(kernel, line, metadata, disk)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		sections []eif.Section
		want     attest.Check
	}{
		{"no kernel", []eif.Section{line, metadata, disk}, eif.CheckSections},
		{"two kernels", []eif.Section{kernel, kernel, line, metadata, disk}, eif.CheckSections},
		{"a second kernel at the end", []eif.Section{kernel, line, metadata, disk, kernel}, eif.CheckSections},
		{"no command line", []eif.Section{kernel, metadata, disk}, eif.CheckSections},
		{"two command lines", []eif.Section{kernel, line, line, metadata, disk}, eif.CheckSections},
		{"no metadata", []eif.Section{kernel, line, disk}, eif.CheckSections},
		{"metadata twice", []eif.Section{kernel, line, metadata, metadata, disk}, eif.CheckSections},
		{"metadata after the ramdisks", []eif.Section{kernel, line, disk, metadata}, eif.CheckSections},
		{"no ramdisk", []eif.Section{kernel, line, metadata}, eif.CheckSections},
		{"a signature before the ramdisks", []eif.Section{kernel, line, metadata, of(eif.Section{Type: eif.Signature}, "s"), disk}, eif.CheckSections},
		{"a long command line", []eif.Section{kernel, of(line, strings.Repeat("a", eif.MaxCommandLine+1)), metadata, disk}, eif.CheckSections},
		{"long metadata", []eif.Section{kernel, line, of(metadata, strings.Repeat(" ", eif.MaxMetadata+1)), disk}, eif.CheckSections},
		{"a long signature", []eif.Section{kernel, line, metadata, disk, of(eif.Section{Type: eif.Signature}, strings.Repeat("s", eif.MaxSignature+1))}, eif.CheckSections},
		{"a kernel that is none", []eif.Section{of(kernel, "\x7fELF"), line, metadata, disk}, eif.CheckContents},
		{"a line end in the command line", []eif.Section{kernel, of(line, "a\n"), metadata, disk}, eif.CheckContents},
		{"a NUL in the command line", []eif.Section{kernel, of(line, "a\x00b"), metadata, disk}, eif.CheckContents},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, eif.Assemble(c.sections...), c.want) })
	}
}

func TestMetadataRefusals(t *testing.T) {
	good := string(ok(eif.Parse(ok(eif.Build(contents()))(t)))(t).Sections[2].Data)
	replace := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	with := func(metadata string) []byte {
		return eif.Assemble(eif.Section{Type: eif.Kernel, Data: bzImage()}, eif.Section{Type: eif.CommandLine, Data: []byte("a")},
			eif.Section{Type: eif.Metadata, Data: []byte(metadata)}, eif.Section{Type: eif.Ramdisk, Data: []byte("r")})
	}
	for _, fine := range []string{good, replace(`"DockerInfo":null`, `"DockerInfo":{"Id":"sha256:0"},"New":1`)} {
		if _, err := eif.Parse(with(fine)); err != nil {
			t.Errorf("%s: %v", fine, err)
		}
	}
	for name, bad := range map[string]string{
		"not JSON":               "{",
		"an array":               "[]",
		"null":                   "null",
		"two values":             good + "{}",
		"not UTF-8":              replace("raypher", "\xff"),
		"a name twice":           replace(`"DockerInfo":null`, `"DockerInfo":null,"DockerInfo":1`),
		"a name twice, deeper":   replace(`"BuildTool":`, `"BuildTime":"x","BuildTool":`),
		"a missing field":        replace(`"DockerInfo":null,`, ""),
		"a name in other case":   replace(`"ImageName"`, `"imagename"`),
		"a number for a text":    replace(`"v1"`, "1"),
		"too deep":               replace(`"DockerInfo":null`, `"DockerInfo":`+strings.Repeat("[", 20)+strings.Repeat("]", 20)),
		"deep without an ending": replace(`"DockerInfo":null`, `"DockerInfo":`+strings.Repeat("[", 30000)),
	} {
		t.Run(name, func(t *testing.T) { refused(t, with(bad), eif.CheckMetadata) })
	}
}
