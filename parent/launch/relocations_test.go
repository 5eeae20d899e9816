package launch

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// relocated is a shared object of which nothing is mapped for execution: the loader writes its code, as relocations, into anonymous
// memory that the header wants to be executable, and calls it. It ends the process with status 42.
func relocated(t *testing.T) string {
	t.Helper()
	machine := map[string]struct {
		number             elf.Machine
		absolute, relative uint64
		code               []byte
	}{
		"amd64": { // mov edi, 42; mov eax, 231 (exit_group); syscall
			elf.EM_X86_64, uint64(elf.R_X86_64_64), uint64(elf.R_X86_64_RELATIVE),
			[]byte{0xbf, 42, 0, 0, 0, 0xb8, 231, 0, 0, 0, 0x0f, 0x05, 0x90, 0x90, 0x90, 0x90},
		},
		"arm64": { // mov w0, 42; mov w8, 94 (exit_group); svc 0; nop
			elf.EM_AARCH64, uint64(elf.R_AARCH64_ABS64), uint64(elf.R_AARCH64_RELATIVE),
			[]byte{0x40, 5, 0x80, 0x52, 0xc8, 0x0b, 0x80, 0x52, 1, 0, 0, 0xd4, 0x1f, 0x20, 3, 0xd5},
		},
	}[runtime.GOARCH]
	const (
		symbols  = 64 + 3*56      // after the header and three of segments
		hash     = symbols + 2*24 // the symbol of relocations is absolute, 0
		names    = hash + 24
		reloc    = names + 8
		code     = 0x100000
		pageSize = 0x10000
	)
	var relocations []elf.Rela64
	for at := 0; at < len(machine.code); at += 8 {
		word := int64(binary.LittleEndian.Uint64(machine.code[at:]))
		relocations = append(relocations, elf.Rela64{Off: code + uint64(at), Info: 1<<32 | machine.absolute, Addend: word})
	}
	size := uint64(24 * (len(relocations) + 1))
	start := reloc + size // DT_INIT_ARRAY
	relocations = append(relocations, elf.Rela64{Off: start, Info: machine.relative, Addend: code})
	dynamic := []elf.Dyn64{
		{Tag: int64(elf.DT_HASH), Val: hash}, {Tag: int64(elf.DT_STRTAB), Val: names}, {Tag: int64(elf.DT_SYMTAB), Val: symbols},
		{Tag: int64(elf.DT_STRSZ), Val: 1}, {Tag: int64(elf.DT_SYMENT), Val: 24},
		{Tag: int64(elf.DT_RELA), Val: reloc}, {Tag: int64(elf.DT_RELASZ), Val: size}, {Tag: int64(elf.DT_RELAENT), Val: 24},
		{Tag: int64(elf.DT_INIT_ARRAY), Val: start}, {Tag: int64(elf.DT_INIT_ARRAYSZ), Val: 8}, {Tag: int64(elf.DT_NULL)},
	}
	dynamicSize := uint64(16 * len(dynamic))
	end := start + 8 + dynamicSize
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_DYN), Machine: uint16(machine.number), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 3,
	}
	segments := []elf.Prog64{
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Filesz: end, Memsz: end, Align: pageSize},
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W | elf.PF_X), Vaddr: code, Paddr: code, Memsz: pageSize, Align: pageSize},
		{Type: uint32(elf.PT_DYNAMIC), Flags: uint32(elf.PF_R | elf.PF_W), Off: start + 8, Vaddr: start + 8, Filesz: dynamicSize, Memsz: dynamicSize, Align: 8},
	}
	absolute := []elf.Sym64{{}, {Shndx: uint16(elf.SHN_ABS)}}
	var file bytes.Buffer
	for _, part := range []any{header, segments, absolute, []uint32{1, 2, 0, 0, 0, 0}, uint64(0), relocations, uint64(0), dynamic} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return file.String()
}

// TestRelocatedCode: a library of the agent's own is not loaded either where its code is what the loader makes of its data.
func TestRelocatedCode(t *testing.T) {
	loader, granted := loaderOf(t, "/usr/bin/true"), realPath(t, "/usr/bin/true")
	library := relocated(t)
	asUsers(t, func(t *testing.T, uid int) {
		a := newAgent(t, uid, `
mode: enforce
filesystem:
  read: [LIBRARIES, SELF, FOLDER/**]
  write: [FOLDER/w/**]
  exec: [SELF, `+loader+`, `+granted+`]
`)
		for _, name := range []string{"w/lib.so", "r/lib.so", "w/program"} {
			a.write(name, library)
		}
		// Outside of the guard, and where it is not the agent's to write, it is a library like another.
		free := exec.Command(granted)
		free.Env = []string{"LD_PRELOAD=" + filepath.Join(a.folder, "w/lib.so")}
		if err := free.Run(); free.ProcessState.ExitCode() != 42 {
			t.Skipf("this loader does not load it: %v", err)
		}
		a.probeTable([]conformance{
			{"not its own to write", action{"preload", "FOLDER/r/lib.so", granted}, "exit 42", ""},
			{"its own", action{"preload", "FOLDER/w/lib.so", granted}, "EACCES", "map-exec w/lib.so"},
			{"the loader itself", action{"exec", loader, "FOLDER/w/program"}, "exit 127", "map-exec w/program"},
		})
	})
}
