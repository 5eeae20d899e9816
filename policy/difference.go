package policy

import (
	"fmt"
	"maps"
)

// Difference lists what a grants and b does not, each item with an example where there is one; nothing means that b grants all of
// it. Unlike Included, which asks whether a may stand below b, it counts for itself what b denies or asks a person about, and a
// section that is absent for what it means: files that are not governed, a network that is closed. Paths are compared as languages,
// and what is too intricate to compare is listed. Both policies should be expanded.
func Difference(a, b *Policy) []Beyond {
	var all []Beyond
	if ma, mb := withDefault(a.Mode, Enforce), withDefault(b.Mode, Enforce); modeRank(ma) > modeRank(mb) {
		all = append(all, Beyond{"mode", string(ma), "the other has " + string(mb)})
	}
	if b.OnViolation == Kill && a.OnViolation != Kill {
		all = append(all, Beyond{"on_violation", string(withDefault(a.OnViolation, Block)), "the other has kill"})
	}
	all = append(all, filesDifference(a.Filesystem, b.Filesystem)...)
	na, nb := a.Network, b.Network
	if na == nil {
		na = &Network{}
	}
	if nb != nil && nb.Isolate && !na.Isolate {
		all = append(all, Beyond{"network.isolate", "false", "the other has true"})
	}
	_, beyond := narrowNetwork(nb, na)
	for _, one := range beyond {
		one.Reason = "the other does not grant it"
		all = append(all, one)
	}
	all = append(all, syscallsDifference(a.Syscalls, b.Syscalls)...)
	return append(all, limitsDifference(a.Resources, b.Resources)...)
}

// filesDifference compares two filesystem sections.
func filesDifference(a, b *Filesystem) []Beyond {
	switch {
	case b == nil:
		return nil
	case a == nil:
		return []Beyond{{"filesystem", "(no section)", "files are not governed"}}
	}
	both := newAutomaton()
	for l := range listCount {
		for _, text := range a.patterns(l) {
			both.add(text, l.bit()<<innerShift)
		}
		for _, text := range b.patterns(l) {
			both.add(text, l.bit())
		}
	}
	var all []Beyond
	for l := range listCount {
		if l == listDeny {
			continue
		}
		for _, text := range a.patterns(l) {
			wider := func(m mask) bool {
				for _, access := range []Access{Read, Write, Exec} {
					if access&wantedAccess(l) != 0 && (m>>innerShift&maskLists).verdict(access) > (m&maskLists).verdict(access) {
						return true
					}
				}
				return false
			}
			example, found, ok := both.search(text, wider, nil)
			item := Beyond{"filesystem." + l.String(), text, "the other does not grant it"}
			switch {
			case !ok:
				item.Reason = tooIntricate
			case !found:
				continue
			case example != text:
				item.Reason += ", for example " + example
			}
			all = append(all, item)
		}
	}
	for _, path := range sortedKeys(b.Hashes) {
		if a.Hashes[path] != b.Hashes[path] {
			all = append(all, Beyond{"filesystem.exec", path, "the other wants it to have the hash " + b.Hashes[path]})
		}
	}
	return all
}

func syscallsDifference(a, b map[string]SyscallAction) []Beyond {
	var all []Beyond
	rank := func(all map[string]SyscallAction, name string) (int, string) {
		if action, ok := all[name]; ok {
			return syscallRank(action), string(action)
		}
		if RefusedUnlessAllowed(name) {
			return syscallRank(SyscallDeny), "nothing on it, which refuses it"
		}
		return syscallRank(SyscallAllow), "nothing on it"
	}
	names := maps.Clone(a)
	if names == nil {
		names = map[string]SyscallAction{}
	}
	maps.Copy(names, b)
	for _, name := range sortedKeys(names) {
		mine, _ := rank(a, name)
		if others, words := rank(b, name); mine > others {
			all = append(all, Beyond{"syscalls", name, "the other has " + words})
		}
	}
	return all
}

func limitsDifference(a, b *Resources) []Beyond {
	var all []Beyond
	if b == nil {
		return nil
	}
	if a == nil {
		a = &Resources{}
	}
	for _, limit := range []struct {
		key  string
		a, b *uint64
	}{{"max_fds", a.MaxFDs, b.MaxFDs}, {"max_memory_mb", a.MaxMemoryMB, b.MaxMemoryMB}, {"max_processes", a.MaxProcesses, b.MaxProcesses}} {
		switch {
		case limit.b == nil || limit.a != nil && *limit.a <= *limit.b:
		case limit.a == nil:
			all = append(all, Beyond{"resources." + limit.key, "(no limit)", fmt.Sprintf("the other has %d", *limit.b)})
		default:
			all = append(all, Beyond{"resources." + limit.key, fmt.Sprint(*limit.a), fmt.Sprintf("the other has %d", *limit.b)})
		}
	}
	return all
}
