// Package image makes the two ramdisks of an enclave image of ours. `raypher eif build` calls it; what it lays out, package pid1
// finds when the image boots.
//
// The first ramdisk is what belongs to the kernel: folders, devices, modules. PCR1 measures it with the kernel. The second one is
// what belongs to Raypher: the static program and its arguments. PCR2 measures it alone, so whoever has the program can
// compute PCR2 without kernel and modules.
package image

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/enclave/pid1"
)

// Module is a kernel module.
type Module struct {
	Name    string // of its file, for whoever reads an error on the console
	Content []byte // an ELF object; compressed ones are refused
}

// maxModules is how many modules the names of two digits order.
const maxModules = 100

// Boot makes the first ramdisk. The modules are loaded in this order.
func Boot(modules []Module) ([]byte, error) {
	entries := []eif.Entry{
		{Path: "dev", Mode: eif.ModeDirectory | 0o755},
		// Kernels open it for their first process, before anybody mounts anything (init/main.c, console_on_rootfs).
		{Path: "dev/console", Mode: eif.ModeCharDevice | 0o600, Major: 5, Minor: 1},
		{Path: "dev/null", Mode: eif.ModeCharDevice | 0o666, Major: 1, Minor: 3},
		{Path: "proc", Mode: eif.ModeDirectory | 0o555},
		{Path: "sys", Mode: eif.ModeDirectory | 0o555},
	}
	if len(modules) > maxModules {
		return nil, fmt.Errorf("%d modules, at most %d are put in order", len(modules), maxModules)
	}
	if len(modules) > 0 {
		entries = append(entries, eif.Entry{Path: inRamdisk(pid1.Modules), Mode: eif.ModeDirectory | 0o755})
	}
	for n, m := range modules {
		object, err := elf.NewFile(bytes.NewReader(m.Content))
		if err != nil || object.Type != elf.ET_REL {
			return nil, fmt.Errorf("%s: not a kernel module: if it is compressed, unpack it first", m.Name)
		}
		name := fmt.Sprintf("%s/%02d-%s", inRamdisk(pid1.Modules), n, filepath.Base(m.Name))
		entries = append(entries, eif.Entry{Path: name, Mode: eif.ModeRegular | 0o644, Content: m.Content})
	}
	return eif.MakeRamdisk(entries)
}

// Application makes the second ramdisk: the program, which must be static, and what it is started with.
func Application(program []byte, start pid1.Start) ([]byte, error) {
	if err := static(program); err != nil {
		return nil, err
	}
	orders, err := start.Encode()
	if err != nil {
		return nil, err
	}
	return eif.MakeRamdisk([]eif.Entry{
		{Path: inRamdisk(pid1.Init), Mode: eif.ModeRegular | 0o755, Content: program},
		{Path: inRamdisk(pid1.Orders), Mode: eif.ModeRegular | 0o644, Content: orders},
	})
}

func inRamdisk(path string) string { return strings.TrimPrefix(path, "/") }

// static refuses programs that would need another file to run.
func static(program []byte) error {
	object, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return fmt.Errorf("not a program: %w", err)
	}
	if object.Type != elf.ET_EXEC && object.Type != elf.ET_DYN {
		return errors.New("not a program but another kind of ELF file")
	}
	for _, part := range object.Progs {
		if part.Type == elf.PT_INTERP {
			return errors.New("not a static program, and nothing else is in the image: build it with CGO_ENABLED=0, as make enclave does")
		}
	}
	return nil
}
