package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Beyond is one item of an inner policy that the outer one does not grant.
type Beyond struct {
	Section string `json:"section"` // the key in the policy, for example "filesystem.read"
	Item    string `json:"item"`    // as the inner policy writes it
	Reason  string `json:"reason"`
}

func (b Beyond) String() string { return fmt.Sprintf("%s: %s: %s", b.Section, b.Item, b.Reason) }

// Excess is the error of Narrow: the inner policy asks for more than the outer one grants. Nothing is cut silently.
type Excess struct{ Items []Beyond }

// Error names the first items; Items has them all.
func (e *Excess) Error() string {
	lines := make([]string, 0, maxErrorLines+1)
	for i, item := range e.Items {
		if i == maxErrorLines {
			lines = append(lines, fmt.Sprintf("and %d more", len(e.Items)-i))
			break
		}
		lines = append(lines, item.String())
	}
	return fmt.Sprintf("policy asks for more than is granted above it (%d): %s", len(e.Items), strings.Join(lines, "; "))
}

// Included lists what inner asks beyond outer; nothing means that inner, once the deny and require_approval lists of outer
// are carried down into it as Narrow does, grants no access that outer does not grant, and grants none without asking where
// outer asks. A section that inner lacks is inherited and therefore within. A pattern whose paths are all denied by outer is
// beyond: it asks for exactly what is refused.
//
// Paths are compared as languages, not as text: what two outer rules grant together is granted. Where patterns are too
// intricate to compare within the search budget, the item is beyond and says so. Both policies should be expanded; a ~ that
// is left is compared as a folder of its own that only ~ and /** name.
func Included(inner, outer *Policy) []Beyond {
	_, beyond := narrow(outer, inner)
	return beyond
}

// Narrow returns inner within outer, or an *Excess error that lists each item beyond. For each access of each path the result
// gives the stricter of the two verdicts. Sections and limits that inner lacks are inherited, deny rules and strict system
// call actions of outer are carried down, a mode that is empty is inherited, and on_violation is kill when either says so.
func Narrow(outer, inner *Policy) (*Policy, error) {
	narrowed, beyond := narrow(outer, inner)
	if len(beyond) > 0 {
		return nil, &Excess{Items: beyond}
	}
	return narrowed, nil
}

// modeRank orders the modes by what they let pass. An unknown mode is wider than all.
func modeRank(m Mode) int {
	if i := slices.Index([]Mode{Enforce, Audit, Permissive}, m); i >= 0 {
		return i
	}
	return 3
}

func narrow(outer, inner *Policy) (*Policy, []Beyond) {
	result := &Policy{Namespace: inner.Namespace, Mode: inner.Mode, OnViolation: inner.OnViolation}
	var beyond []Beyond

	switch {
	case isDefaultNamespace(inner.Namespace):
		result.Namespace = withDefault(outer.Namespace, DefaultNamespace)
	case !isDefaultNamespace(outer.Namespace) && outer.Namespace != inner.Namespace:
		beyond = append(beyond, Beyond{"namespace", inner.Namespace, "the policy above is for " + outer.Namespace})
	}
	outerMode := withDefault(outer.Mode, Enforce)
	result.Mode = withDefault(result.Mode, outerMode)
	if modeRank(result.Mode) > modeRank(outerMode) {
		beyond = append(beyond, Beyond{"mode", string(inner.Mode), "the policy above has " + string(outerMode)})
	}
	result.OnViolation = withDefault(result.OnViolation, withDefault(outer.OnViolation, Block))
	if outer.OnViolation == Kill {
		result.OnViolation = Kill
	}

	var more []Beyond
	result.Approval, more = narrowApproval(outer, inner)
	beyond = append(beyond, more...)
	result.Syscalls, more = narrowSyscalls(outer.Syscalls, inner.Syscalls)
	beyond = append(beyond, more...)
	result.Filesystem, more = narrowFilesystem(outer.Filesystem, inner.Filesystem)
	beyond = append(beyond, more...)
	result.Network, more = narrowNetwork(outer.Network, inner.Network)
	beyond = append(beyond, more...)
	result.Resources, more = narrowResources(outer.Resources, inner.Resources)
	return result, append(beyond, more...)
}

func isDefaultNamespace(name string) bool { return name == "" || name == DefaultNamespace }

// syscallRank orders the actions by what they let pass.
func syscallRank(a SyscallAction) int {
	return slices.Index([]SyscallAction{SyscallDeny, SyscallLog, SyscallAllow}, a)
}

// narrowSyscalls keeps the stricter action for each name. A name that inner does not list is inherited; one that outer does
// not list is as the base filter has it. Where silence refuses (RefusedUnlessAllowed), silence is not overruled from either
// side.
func narrowSyscalls(outer, inner map[string]SyscallAction) (map[string]SyscallAction, []Beyond) {
	if len(outer)+len(inner) == 0 {
		return nil, nil
	}
	var beyond []Beyond
	result := make(map[string]SyscallAction, len(outer)+len(inner))
	for name, action := range outer {
		if action == SyscallDeny || !RefusedUnlessAllowed(name) {
			result[name] = action
		}
	}
	for _, name := range sortedKeys(inner) {
		action := inner[name]
		above, ok := outer[name]
		switch {
		case ok && syscallRank(action) > syscallRank(above):
			beyond = append(beyond, Beyond{"syscalls", name + ": " + string(action), "the policy above has " + string(above)})
		case !ok && action != SyscallDeny && RefusedUnlessAllowed(name):
			beyond = append(beyond, Beyond{"syscalls", name + ": " + string(action), "the policy above does not allow it by name"})
		}
		result[name] = action
	}
	return result, beyond
}

func narrowResources(outer, inner *Resources) (*Resources, []Beyond) {
	switch {
	case inner == nil:
		return outer, nil
	case outer == nil:
		return inner, nil
	}
	result := &Resources{}
	var beyond []Beyond
	for _, limit := range []struct {
		key           string
		above, wanted *uint64
		into          **uint64
	}{
		{"max_fds", outer.MaxFDs, inner.MaxFDs, &result.MaxFDs},
		{"max_memory_mb", outer.MaxMemoryMB, inner.MaxMemoryMB, &result.MaxMemoryMB},
		{"max_processes", outer.MaxProcesses, inner.MaxProcesses, &result.MaxProcesses},
	} {
		*limit.into = limit.wanted
		switch {
		case limit.wanted == nil:
			*limit.into = limit.above
		case limit.above != nil && *limit.wanted > *limit.above:
			beyond = append(beyond, Beyond{"resources." + limit.key, fmt.Sprint(*limit.wanted), fmt.Sprintf("the policy above has %d", *limit.above)})
		}
	}
	return result, beyond
}
