package floor

import (
	"encoding/binary"

	"golang.org/x/net/bpf"
)

// Answers of a filter (include/uapi/linux/seccomp.h).
const (
	retKill   = 0x80000000 // SECCOMP_RET_KILL_PROCESS
	retErrno  = 0x00050000 // SECCOMP_RET_ERRNO, the number in the low half
	retNotify = 0x7fc00000 // SECCOMP_RET_USER_NOTIF
	retAllow  = 0x7fff0000 // SECCOMP_RET_ALLOW
)

// Offsets in struct seccomp_data. Both architectures are little endian: the low half of an argument comes first.
const (
	offsetNumber    = 0
	offsetArch      = 4
	offsetArguments = 16
)

// anyBits compares the whole low half of an argument. The kernel takes all arguments that are compared here as 32-bit values.
const anyBits = 0xffffffff

// fragment is a piece of a filter that returns an answer or falls through to what follows it. Fragments stay far below the 255
// instructions that a conditional jump can skip.
type fragment []bpf.Instruction

// on is what a fragment answers to a call with these arguments, retAllow where it falls through. It is for calls that are notified
// also where the fragment says nothing of them. A fragment that cannot be run refuses.
func (f fragment) on(args [6]uint64) uint32 {
	vm, err := bpf.NewVM(append(f[:len(f):len(f)], bpf.RetConstant{Val: retAllow}))
	if err != nil {
		return retNotify
	}
	data := make([]byte, offsetArguments+8*len(args)) // as a network writes words: the virtual machine is made for packets
	for i, arg := range args {
		binary.BigEndian.PutUint32(data[offsetArguments+8*i:], uint32(arg))
		binary.BigEndian.PutUint32(data[offsetArguments+8*i+4:], uint32(arg>>32))
	}
	answer, err := vm.Run(data)
	if err != nil {
		return retNotify
	}
	return uint32(answer)
}

func ret(answer uint32) fragment { return fragment{bpf.RetConstant{Val: answer}} }

func chain(parts ...fragment) fragment {
	var all fragment
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

func loadLow(argument int) bpf.Instruction {
	return bpf.LoadAbsolute{Off: uint32(offsetArguments + 8*argument), Size: 4}
}

func loadHigh(argument int) bpf.Instruction {
	return bpf.LoadAbsolute{Off: uint32(offsetArguments + 8*argument + 4), Size: 4}
}

// when runs then if the masked argument has the value.
func when(argument int, mask, value uint32, then fragment) fragment {
	f := fragment{loadLow(argument)}
	if mask != anyBits {
		f = append(f, bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: mask})
	}
	f = append(f, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: uint8(len(then))})
	return append(f, then...)
}

// ifBetween runs then if low <= argument <= high.
func ifBetween(argument int, low, high uint32, then fragment) fragment {
	return append(fragment{
		loadLow(argument),
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: low, SkipTrue: uint8(len(then) + 1)},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: high, SkipTrue: uint8(len(then))},
	}, then...)
}

// unless runs then if the argument has another value.
func unless(argument int, value uint32, then fragment) fragment {
	return append(fragment{loadLow(argument), bpf.JumpIf{Cond: bpf.JumpEqual, Val: value, SkipTrue: uint8(len(then))}}, then...)
}

// ifAnyBit runs then if one of the bits is set in the argument.
func ifAnyBit(argument int, bits uint32, then fragment) fragment {
	return append(fragment{loadLow(argument), bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: bits, SkipTrue: uint8(len(then))}}, then...)
}

// ifNoBit runs then if none of the bits is set in the argument.
func ifNoBit(argument int, bits uint32, then fragment) fragment {
	return append(fragment{loadLow(argument), bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: bits, SkipTrue: uint8(len(then))}}, then...)
}

// ifNotNull runs then if any of the argument's 64 bits is set.
func ifNotNull(argument int, then fragment) fragment {
	f := fragment{
		loadLow(argument), bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 2},
		loadHigh(argument), bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: uint8(len(then))},
	}
	return append(f, then...)
}
