package policy

import (
	"maps"
	"slices"
)

//go:generate go run ./internal/gensyscalls

// refusedUnlessAllowed are the calls that the base filter refuses and that a policy can open by naming them: System V IPC and
// message queues reach other programs of the host by number or name, past every rule on files; setsockopt joins multicast
// groups, and the host then says so on the network, with the group's address in it. Other options of it are never refused.
var refusedUnlessAllowed = []string{
	"mq_open", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop", "setsockopt",
	"shmat", "shmctl", "shmget",
}

// RefusedUnlessAllowed reports whether the base filter refuses a call, or some uses of it, only where the policy does not say
// allow or log. For such a call a policy that is silent is the stricter one.
func RefusedUnlessAllowed(name string) bool { return slices.Contains(refusedUnlessAllowed, name) }

// SyscallAction is the action for a system call; SyscallAllow when the policy does not name it. Allow lifts nothing that the
// base filter refuses, but for those calls of which RefusedUnlessAllowed is true.
func (p *Policy) SyscallAction(name string) SyscallAction {
	if action, ok := p.Syscalls[name]; ok {
		return action
	}
	return SyscallAllow
}

// Syscalls returns the names of all known system calls of both architectures, sorted.
func Syscalls() []string { return sortedKeys(syscallTable) }

// SyscallNumber is the number of a system call on an architecture, named as GOARCH names it: "amd64" or "arm64". A call may
// exist on one and not on the other: open is not on arm64.
func SyscallNumber(arch, name string) (number int, ok bool) {
	pair, ok := syscallTable[name]
	if !ok {
		return 0, false
	}
	switch arch {
	case "amd64":
		number = int(pair[0])
	case "arm64":
		number = int(pair[1])
	default:
		return 0, false
	}
	return number, number >= 0
}

// LastSyscall is the highest number that is known on an architecture: newer kernels may have calls with higher ones. It is -1 for
// an architecture that is not known.
func LastSyscall(arch string) int {
	last := -1
	for name := range syscallTable {
		if number, ok := SyscallNumber(arch, name); ok {
			last = max(last, number)
		}
	}
	return last
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
