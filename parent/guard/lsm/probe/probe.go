// Package probe finds out whether this kernel calls programs of BPF LSM. Package lsm asks before it holds anything by them, and
// `raypher doctor`.
package probe

import (
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// Try attaches a program that counts its calls to file_open and refuses nothing, opens a file, and says whether the program was
// called: neither the version nor the list of security modules tells. Without bpf in that list (lsm= on the kernel's command line,
// CONFIG_LSM) programs load and attach, and are never called. err is what loading or attaching said. It needs root. types keeps the
// kernel's types for the next load; nil: they are read for this one.
func Try(types *btf.Cache) (called bool, err error) {
	counter, err := ebpf.NewMap(&ebpf.MapSpec{Name: "raypher_probe", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return false, err
	}
	defer counter.Close()
	const name = "probe"
	c, err := ebpf.NewCollectionWithOptions(&ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{name: {
		Name:       "raypher_probe",
		Type:       ebpf.LSM,
		AttachType: ebpf.AttachLSMMac,
		AttachTo:   "file_open",
		License:    "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMapValue(asm.R1, counter.FD(), 0),
			asm.Mov.Imm(asm.R2, 1),
			asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	}}}, ebpf.CollectionOptions{Cache: types})
	if err != nil {
		return false, err
	}
	defer c.Close()
	l, err := link.AttachLSM(link.LSMOptions{Program: c.Programs[name]})
	if err != nil {
		return false, err
	}
	defer l.Close()
	file, err := os.Open(os.DevNull)
	if err != nil {
		return false, err
	}
	file.Close()
	var count uint64
	if err := counter.Lookup(uint32(0), &count); err != nil {
		return false, err
	}
	return count > 0, nil
}
