// Package tally counts the system calls of agents, all of them together, by name. It refuses nothing and no guard rests on it: raypherd loads
// it where an operator wants the figures (--count-calls), and where nobody does, nothing of it is in the kernel.
//
// raypherd is the only caller. All methods of Tally may be called concurrently.
package tally

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"

	"github.com/cilium/ebpf/link"

	"github.com/raypher/raypher/bpf"
	"github.com/raypher/raypher/policy"
)

// Tally is the program that counts, attached.
type Tally struct {
	objects bpf.TallyObjects
	link    link.Link
	names   map[uint32]string
}

// Load begins to count the calls of processes in cgroups of a level of the hierarchy, the root being 0, below the one whose id is given.
func Load(level uint32, above uint64) (*Tally, error) {
	if level == 0 {
		return nil, errors.New("counting system calls: the root of the hierarchy lies below nothing")
	}
	spec, err := bpf.LoadTally()
	if err != nil {
		return nil, fmt.Errorf("counting system calls: reading the built-in program: %w", err)
	}
	for name, value := range map[string]any{bpf.TallyVarAgentLevel: level, bpf.TallyVarParentId: above} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("counting system calls: setting %s: %w", name, err)
		}
	}
	t := &Tally{names: map[uint32]string{}}
	if err := spec.LoadAndAssign(&t.objects, nil); err != nil {
		return nil, fmt.Errorf("counting system calls: loading: %w: run as root with CAP_BPF and CAP_PERFMON", err)
	}
	if t.link, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: "sys_enter", Program: t.objects.OnCall}); err != nil {
		return nil, errors.Join(fmt.Errorf("counting system calls: attaching to sys_enter: %w: the kernel needs CONFIG_FTRACE_SYSCALLS", err), t.objects.Close())
	}
	for _, name := range policy.Syscalls() {
		if number, ok := policy.SyscallNumber(runtime.GOARCH, name); ok {
			t.names[uint32(number)] = name
		}
	}
	return t, nil
}

// Counts are the calls that agents made since Load, by name; those of newer kernels than this program knows by number.
func (t *Tally) Counts() (map[string]uint64, error) {
	all := map[string]uint64{}
	var number uint32
	var each []uint64 // of each CPU
	it := t.objects.Calls.Iterate()
	for it.Next(&number, &each) {
		var sum uint64
		for _, n := range each {
			sum += n
		}
		if sum == 0 {
			continue
		}
		name, known := t.names[number]
		if !known {
			name = strconv.FormatUint(uint64(number), 10)
		}
		all[name] = sum
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("counting system calls: reading: %w", err)
	}
	return all, nil
}

// Close ends the counting; nothing of it stays in the kernel.
func (t *Tally) Close() error { return errors.Join(t.link.Close(), t.objects.Close()) }
