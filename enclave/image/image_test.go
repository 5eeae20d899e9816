package image_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/raypher/raypher/enclave/image"
	"github.com/raypher/raypher/enclave/pid1"
)

func ok[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// object is an ELF file of a type, with one program header of a type.
func object(kind elf.Type, part elf.ProgType) []byte {
	var out bytes.Buffer
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}
	binary.Write(&out, binary.LittleEndian, elf.Header64{
		Ident: ident, Type: uint16(kind), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	})
	binary.Write(&out, binary.LittleEndian, elf.Prog64{Type: uint32(part)})
	return out.Bytes()
}

var start = pid1.Start{HeartbeatCID: pid1.NitroParent, Arguments: []string{"--signer", "nitro"}}

// The ramdisks are the same for the same inputs, and each holds what is measured with it and nothing else.
func TestRamdisks(t *testing.T) {
	module := image.Module{Name: "/some/where/nsm.ko", Content: object(elf.ET_REL, elf.PT_NULL)}
	program := object(elf.ET_EXEC, elf.PT_LOAD)
	bootdisk, application := ok(image.Boot([]image.Module{module}))(t), ok(image.Application(program, start))(t)
	if !bytes.Equal(bootdisk, ok(image.Boot([]image.Module{module}))(t)) || !bytes.Equal(application, ok(image.Application(program, start))(t)) {
		t.Error("two builds differ")
	}
	for _, c := range []struct {
		disk []byte
		want []string
	}{
		{bootdisk, []string{"dev", "dev/console", "dev/null", "modules", "modules/00-nsm.ko", "proc", "sys"}},
		{application, []string{"init", "start.json"}},
	} {
		if got := names(t, c.disk); strings.Join(got, " ") != strings.Join(c.want, " ") {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// names lists an archive of package eif.
func names(t *testing.T, archive []byte) []string {
	t.Helper()
	field := func(at, n int) int {
		var v int
		for _, c := range archive[at+6+8*n : at+14+8*n] {
			v = v<<4 | strings.IndexByte("0123456789abcdef", c)
		}
		return v
	}
	var all []string
	for at := 0; ; {
		size, length := field(at, 6), field(at, 11)
		name := string(archive[at+110 : at+110+length-1])
		if name == "TRAILER!!!" {
			return all
		}
		all = append(all, name)
		at = (at+110+length+3)&^3 + (size+3)&^3
	}
}

func TestRefusals(t *testing.T) {
	good := object(elf.ET_EXEC, elf.PT_LOAD)
	for name, err := range map[string]error{
		"a program that needs another file":  second(image.Application(object(elf.ET_DYN, elf.PT_INTERP), start)),
		"a kernel module as the program":     second(image.Application(object(elf.ET_REL, elf.PT_NULL), start)),
		"a script as the program":            second(image.Application([]byte("#!/bin/sh"), start)),
		"no arguments":                       second(image.Application(good, pid1.Start{})),
		"an argument with a NUL":             second(image.Application(good, pid1.Start{Arguments: []string{"a\x00b"}})),
		"arguments without an end":           second(image.Application(good, pid1.Start{Arguments: []string{strings.Repeat("a", 1<<20)}})),
		"a compressed module":                second(image.Boot([]image.Module{{Name: "nsm.ko.xz", Content: []byte("\xfd7zXZ\x00")}})),
		"a program as a module":              second(image.Boot([]image.Module{{Name: "nsm.ko", Content: good}})),
		"more modules than are put in order": second(image.Boot(slices.Repeat([]image.Module{{Name: "nsm.ko", Content: object(elf.ET_REL, elf.PT_NULL)}}, 101))),
	} {
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }
