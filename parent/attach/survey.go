package attach

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/policy"
)

// undoing are the capabilities that programs of BPF LSM refuse to agents (bpf/lsmguard/tasks.bpf.h). With one of them a program that
// these do not hold can leave its cgroup, or take the guard's programs away.
const undoing = 1<<unix.CAP_SYS_MODULE | 1<<unix.CAP_SYS_PTRACE | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SYS_RAWIO |
	1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_BPF

// A Place is the cgroup that is looked at.
type Place struct {
	PIDs              []int
	Threads, Children int  // of these processes, that are in other cgroups
	OwnsAbove         bool // a user other than root may move processes out of it
	Files             bool // programs of BPF LSM will hold it
	Network           *policy.Network
}

// counted is what processes have in common that nothing takes from them.
type counted struct {
	descriptors, sockets, mapped int
	unfiltered, gaining          int
	capabilities                 uint64
	netns, mntns, roots          map[string]int
	unreadable                   int
}

// Uncovered lists in words what nothing will hold of the processes in a place, from what they have now. It promises no more than it
// looked at: a process may change in the meantime.
func (p Place) Uncovered() []string {
	c := counted{netns: map[string]int{}, mntns: map[string]int{}, roots: map[string]int{}}
	for _, pid := range p.PIDs {
		c.look(pid)
	}
	var all []string
	say := func(when bool, format string, args ...any) {
		if when {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	n := len(p.PIDs)
	say(!p.Files, "files, programs, unix sockets, signals and other processes: only the network is held")
	say(c.descriptors > 0, "%d descriptors of files, folders and devices that are open already: they are read and written on", c.descriptors)
	say(c.mapped > 0, "%d mappings of files for execution that are there already: their code runs on, also where no rule grants it", c.mapped)
	say(c.sockets > 0, "%d sockets that are open already: connections that are not granted end with their next packet, but a socket that was made in another cgroup (handed over, or by socket activation) stays that cgroup's", c.sockets)
	say(c.unfiltered > 0, "%d of %d processes have no seccomp filter: calls by number (System V IPC, message queues, personality, 32-bit calls, syslog, kcmp) go on", c.unfiltered, n)
	say(true, "no Landlock floor: nothing bounds a race with a rule but the rule itself, and its scopes (signals, abstract unix sockets) are not there")
	say(c.gaining > 0, "%d of %d processes may gain rights by set-user-id programs (no_new_privs is not set)", c.gaining, n)
	say(c.capabilities != 0 && p.Files, "capabilities are kept: %s; those that could undo the guard are refused when they are used", names(c.capabilities))
	say(c.capabilities != 0 && !p.Files, "capabilities are kept: %s", names(c.capabilities))
	say(!p.Files && c.capabilities&undoing != 0, "with these a process can leave the cgroup, or take the guard's programs away: nothing keeps it")
	say(p.OwnsAbove && !p.Files, "its user owns the cgroup above: processes can be moved out of it without root, and are held no more")
	say(p.OwnsAbove && p.Files, "its user owns the cgroup above: programs of that user outside of it can move processes out of it, which are held no more")
	say(p.Threads > 0, "%d threads are in another cgroup", p.Threads)
	say(p.Children > 0, "%d children have left to another cgroup, and so may others have whose parent ended", p.Children)
	say(others(c.netns, "net") > 0, "%d processes are in another network namespace than raypherd: their names are not resolved by its forwarder, so that rules on names grant nothing there", others(c.netns, "net"))
	say(p.Files && (others(c.mntns, "mnt") > 0 || len(c.roots) > 1 || len(c.roots) == 1 && c.roots["/"] == 0), "%d processes are in another mount namespace or root: rules are held against paths as these processes see them", max(others(c.mntns, "mnt"), n-c.roots["/"]))
	say(!p.Files && p.Network != nil && len(p.Network.Unix) > 0, "network.unix: unix sockets are not held")
	say(c.unreadable > 0, "%d processes ended while they were looked at, or could not be", c.unreadable)
	return all
}

// look adds what one process has. One that ended meanwhile has nothing.
func (c *counted) look(pid int) {
	proc := "/proc/" + strconv.Itoa(pid)
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		c.unreadable++
		return
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch {
		case key == "Seccomp" && value != "2":
			c.unfiltered++
		case key == "NoNewPrivs" && value == "0":
			c.gaining++
		case key == "CapPrm":
			if held, err := strconv.ParseUint(value, 16, 64); err == nil {
				c.capabilities |= held
			}
		}
	}
	c.lookAtDescriptors(proc)
	maps, _ := os.ReadFile(proc + "/maps")
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); len(f) >= 6 && strings.Contains(f[1], "x") && strings.HasPrefix(f[5], "/") {
			c.mapped++
		}
	}
	for kind, seen := range map[string]map[string]int{"net": c.netns, "mnt": c.mntns} {
		if ns, err := os.Readlink(proc + "/ns/" + kind); err == nil {
			seen[ns]++
		}
	}
	if root, err := os.Readlink(proc + "/root"); err == nil {
		c.roots[root]++
	}
}

func (c *counted) lookAtDescriptors(proc string) {
	entries, err := os.ReadDir(proc + "/fd")
	if err != nil {
		c.unreadable++
		return
	}
	for _, e := range entries {
		switch target, err := os.Readlink(filepath.Join(proc, "fd", e.Name())); {
		case err != nil:
		case strings.HasPrefix(target, "socket:"):
			c.sockets++
		case strings.HasPrefix(target, "/") && target != "/dev/null":
			c.descriptors++
		}
	}
}

// others counts the processes whose namespace is not this one's.
func others(seen map[string]int, kind string) (n int) {
	own, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		return 0
	}
	for ns, count := range seen {
		if ns != own {
			n += count
		}
	}
	return n
}

// names are those of capabilities, without their prefix; all that there are is said as such.
func names(held uint64) string {
	const full = 40 // root's, on kernels that have about 41
	known := map[int]string{
		unix.CAP_CHOWN: "chown", unix.CAP_DAC_OVERRIDE: "dac_override", unix.CAP_DAC_READ_SEARCH: "dac_read_search", unix.CAP_FOWNER: "fowner",
		unix.CAP_KILL: "kill", unix.CAP_SETGID: "setgid", unix.CAP_SETUID: "setuid", unix.CAP_NET_BIND_SERVICE: "net_bind_service",
		unix.CAP_NET_ADMIN: "net_admin", unix.CAP_NET_RAW: "net_raw", unix.CAP_SYS_MODULE: "sys_module", unix.CAP_SYS_RAWIO: "sys_rawio",
		unix.CAP_SYS_CHROOT: "sys_chroot", unix.CAP_SYS_PTRACE: "sys_ptrace", unix.CAP_SYS_ADMIN: "sys_admin", unix.CAP_SYS_NICE: "sys_nice",
		unix.CAP_SYS_RESOURCE: "sys_resource", unix.CAP_MKNOD: "mknod", unix.CAP_BPF: "bpf", unix.CAP_PERFMON: "perfmon",
	}
	var all []string
	for bit := range 64 {
		if held>>bit&1 == 0 {
			continue
		}
		name, ok := known[bit]
		if !ok {
			name = "number " + strconv.Itoa(bit)
		}
		all = append(all, name)
	}
	if len(all) >= full {
		return "all of them"
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}
