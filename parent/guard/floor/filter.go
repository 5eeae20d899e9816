package floor

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// Filter says what a seccomp filter does beside the base refusals.
type Filter struct {
	Permit *policy.Policy
	// AllConnects notifies every connect. Otherwise those whose address is as long as an IPv4 or IPv6 one pass: the network
	// guard's programs decide them, and refuse any unix address that has such a length.
	AllConnects bool
	// Observed notifies the making of unix sockets too, which is Landlock's to decide: for mode audit, where Landlock is not there.
	Observed bool
	// Static does not notify what Landlock decides alone (Plan.Static).
	Static bool
	// Signals notifies every signal: Landlock does not keep them inside here.
	Signals bool
	// FilesHeld: programs of BPF LSM hold files and signals. Calls on files are notified only where the permit may ask a person.
	FilesHeld bool
}

// SignalsHeld reports whether Landlock keeps signals inside the agent (ABI 6, Linux 6.12).
func SignalsHeld() bool {
	abi, err := ABI()
	return err == nil && abi >= scopesABI
}

// TruncationHeld reports whether Landlock keeps files that are only granted for reading from being cut (ABI 3, Linux 6.2).
func TruncationHeld() bool {
	abi, err := ABI()
	return err == nil && abi >= truncateABI
}

// x32Bit marks the x32 numbers of amd64 (__X32_SYSCALL_BIT, arch/x86/include/uapi/asm/unistd.h).
const x32Bit = 0x40000000

// Lengths of struct sockaddr_in and sockaddr_in6.
const (
	SizeInet4 = 16
	SizeInet6 = 28
)

// auditArch are the AUDIT_ARCH_* values (include/uapi/linux/audit.h).
var auditArch = map[string]uint32{"amd64": 0xc000003e, "arm64": 0xc00000b7}

// lenient reports whether a permit refuses nothing.
func lenient(p *policy.Policy) bool { return p.Mode == policy.Audit || p.Mode == policy.Permissive }

// assemble builds the filter for an architecture as GOARCH names it.
//
// A number that no rule names is allowed without looking at arguments, so that the kernel caches that answer and such a call
// costs almost nothing (kernel/seccomp.c, seccomp_cache_prepare).
func (f Filter) assemble(arch string) ([]bpf.RawInstruction, error) {
	token, known := auditArch[arch]
	if !known {
		return nil, fmt.Errorf("seccomp filter: architecture %s is not supported", arch)
	}
	foreign, x32 := uint32(retKill), uint32(retErrno|uint32(unix.ENOSYS))
	if lenient(f.Permit) {
		foreign, x32 = retNotify, retNotify
	}
	program := fragment{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: token, SkipTrue: 1},
		bpf.RetConstant{Val: foreign},
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
	}
	if arch == "amd64" {
		program = append(program, bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: x32Bit, SkipTrue: 1}, bpf.RetConstant{Val: x32})
	}
	rules := f.rules()
	for _, name := range f.order(rules) {
		number, exists := policy.SyscallNumber(arch, name)
		if !exists {
			continue // this architecture never had the call
		}
		body := append(rules[name], bpf.RetConstant{Val: retAllow})
		program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(number), SkipTrue: uint8(len(body))})
		program = append(program, body...)
	}
	// What comes after the newest call that is known could be anything.
	unknown := uint32(retErrno | uint32(unix.ENOSYS))
	if lenient(f.Permit) {
		unknown = retNotify
	}
	program = append(program,
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(policy.LastSyscall(arch)), SkipTrue: 1},
		bpf.RetConstant{Val: retAllow}, bpf.RetConstant{Val: unknown})
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assemble seccomp filter: %w", err)
	}
	return raw, nil
}

// rules is what is done with each call that is not simply allowed. Later rules are wider than earlier ones and replace them.
func (f Filter) rules() map[string]fragment {
	rules := map[string]fragment{}
	for _, r := range refusals {
		if !r.Lifted(f.Permit) {
			rules[r.Name] = f.refuse(r)
		}
	}
	maps.Copy(rules, ofOthers(retNotify))
	switch {
	case f.FilesHeld: // what the programs refuse they tell
	case f.Signals:
		for _, name := range SignalCalls {
			rules[name] = ret(retNotify)
		}
	default:
		maps.Copy(rules, toldSignals(retNotify))
	}
	files := f.files()
	if files || f.Permit.Filesystem == nil && !f.FilesHeld {
		maps.Copy(rules, settingID(retNotify))
	}
	rules["connect"] = f.connects()
	if f.Observed && f.Permit.Filesystem != nil {
		rules["bind"] = ret(retNotify)
	}
	// A process that makes itself undumpable could not be read by its warden any more. Programs do without.
	rules["prctl"] = when(0, anyBits, unix.PR_SET_DUMPABLE, when(1, anyBits, 0, ret(retErrno|uint32(unix.EPERM))))
	if f.Permit.Filesystem != nil {
		rules[MapCall] = executableMappings(retNotify)
		if files {
			rules["memfd_create"] = ifNoBit(1, MemfdNoExec, ret(retNotify))
		}
		for _, name := range FileCalls {
			if files && !(f.Static && slices.Contains(landlockCalls, name)) {
				rules[name] = ret(retNotify)
			}
		}
		for _, name := range attributeReads {
			if !lenient(f.Permit) {
				rules[name] = ret(retErrno | uint32(unix.EOPNOTSUPP))
			}
		}
	}
	for name := range f.Permit.Syscalls {
		switch f.Permit.SyscallAction(name) {
		case policy.SyscallDeny:
			if !f.refusedAlways(name) {
				rules[name] = ret(retNotify)
			}
		case policy.SyscallLog:
			if !f.refusedAlways(name) {
				rules[name] = chain(f.kernelAnswers(name, rules[name]), ret(retNotify))
			}
		}
	}
	return rules
}

// kernelAnswers is the rule of a call to which the kernel itself gives an error. Logging the rest of it lifts none of that.
func (f Filter) kernelAnswers(name string, rule fragment) fragment {
	if name == "prctl" || slices.Contains(attributeReads, name) {
		return rule
	}
	return nil
}

// files reports whether calls on files are notified.
func (f Filter) files() bool {
	fs := f.Permit.Filesystem
	return fs != nil && (!f.FilesHeld || len(fs.RequireApproval) > 0)
}

// refusedAlways reports whether the base filter already refuses a call without being notified of it.
func (f Filter) refusedAlways(name string) bool {
	return slices.ContainsFunc(refusals, func(r Refusal) bool {
		return r.Name == name && r.Quiet && r.when == nil && !lenient(f.Permit)
	})
}

func (f Filter) refuse(r Refusal) fragment {
	answer := uint32(retNotify) // the warden refuses, and says so
	if r.Quiet {
		answer = retErrno | uint32(r.Errno)
		if lenient(f.Permit) {
			answer = retAllow
		}
	}
	if r.when == nil {
		return ret(answer)
	}
	return r.when(answer)
}

func (f Filter) connects() fragment {
	if f.AllConnects || f.Observed {
		return ret(retNotify)
	}
	return unless(2, SizeInet4, unless(2, SizeInet6, ret(retNotify)))
}

// order puts the calls first that are frequent and mostly pass.
func (f Filter) order(rules map[string]fragment) []string {
	frequent := []string{"openat", "open", "ioctl", MapCall, "connect", "socket", "setsockopt", "clone", "prctl", "prlimit64"}
	rest := make([]string, 0, len(rules))
	for name := range rules {
		if !slices.Contains(frequent, name) {
			rest = append(rest, name)
		}
	}
	slices.Sort(rest)
	return append(slices.DeleteFunc(frequent, func(name string) bool { return rules[name] == nil }), rest...)
}

// Flags of seccomp(2) (include/uapi/linux/seccomp.h).
const (
	flagNewListener      = 1 << 3
	flagWaitKillableRecv = 1 << 5 // without it a signal restarts a call that the warden has already done
)

// Program is a filter that can be installed.
type Program []bpf.RawInstruction

// Assemble makes the filter's program for this machine.
func (f Filter) Assemble() (Program, error) { return f.assemble(runtime.GOARCH) }

// Install puts the calling thread under the filter and returns the descriptor of its notifications, close-on-exec. From here
// on every notified call of this thread waits until someone serves that descriptor. no_new_privs must be set.
func (p Program) Install() (listener int, err error) {
	program := struct {
		length uint16
		filter *bpf.RawInstruction
	}{uint16(len(p)), &p[0]}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flagNewListener|flagWaitKillableRecv,
		uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(p)
	if errno != 0 {
		return -1, fmt.Errorf("install seccomp filter: %w", errno)
	}
	return int(fd), nil
}

// NeedsAllConnects reports whether an address of a unix socket that may be connected to can be as long as one of IPv4 or IPv6,
// or a person is asked about internet addresses, so that connects must be told apart by the warden. sockets are further paths that may be connected to.
func NeedsAllConnects(permit *policy.Policy, sockets ...string) bool {
	if permit.Network != nil && len(permit.Network.RequireApproval) > 0 && !lenient(permit) {
		return true
	}
	if permit.Network != nil {
		for _, pattern := range permit.Network.Unix {
			if _, rest := splitPattern(pattern); rest != "" {
				return true
			}
			sockets = append(sockets, pattern)
		}
	}
	return slices.ContainsFunc(sockets, func(path string) bool {
		size := 2 + len(path) // sun_family; the zero byte at the end may be left out
		return size == SizeInet4 || size+1 == SizeInet4 || size == SizeInet6 || size+1 == SizeInet6
	})
}
