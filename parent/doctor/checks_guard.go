package doctor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
)

const needsRoot = "not tried, this needs root"

func checkCgroup2(f *Findings) Check {
	c := Check{Name: "cgroup2", Status: OK, Found: f.Cgroup2}
	switch {
	case f.Cgroup2 == "":
		c.Status, c.Found = Fail, "not mounted"
		c.Consequence, c.Fix = "agents are told apart by their cgroup, so none is started", "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified (make the folder first), or boot with systemd.unified_cgroup_hierarchy=1"
	case !f.MakeCgroup.Tried:
		c.Found += "; " + needsRoot
	case f.MakeCgroup.Err != nil:
		c.Status, c.Found = Fail, f.Cgroup2+": "+f.MakeCgroup.Err.Error()
		c.Consequence, c.Fix = "no cgroup can be made for an agent, so none is started", "run raypherd where the host's cgroup2 is mounted for writing"
	}
	return c
}

// checkController looks for a controller in the cgroup2 hierarchy, and in the old one, where it cannot be used together with it.
func checkController(controller, limit string) func(*Findings) Check {
	return func(f *Findings) Check {
		c := Check{Name: controller + " controller", Status: OK, Found: "in cgroup2"}
		v1, old := f.CgroupV1[controller]
		switch {
		case slices.Contains(f.Controllers, controller):
		case old && !f.ReadOnlyV1[controller]:
			c.Status, c.Found = Info, "in the old hierarchy at "+v1
			c.Consequence = fmt.Sprintf("resources.%s is set there", limit)
			c.Fix = "boot with systemd.unified_cgroup_hierarchy=1"
		case old:
			c.Status, c.Found = Warn, "in the old hierarchy at "+v1+", which is mounted read-only"
			c.Consequence, c.Fix = notHeld(limit), "run raypherd where "+v1+" is mounted for writing"
		default:
			c.Status, c.Found = Warn, "missing"
			c.Consequence, c.Fix = notHeld(limit), fmt.Sprintf("boot with cgroup_enable=%s on the kernel command line", controller)
		}
		return c
	}
}

// notHeld says what a limit of a whole agent comes to without its controller. There is nothing in its place: the limits of single
// processes (RLIMIT_AS, RLIMIT_NPROC) bound mappings instead of memory, and a user instead of an agent.
func notHeld(limit string) string {
	text := fmt.Sprintf("resources.%s of a policy cannot be held for the whole agent, and that of a namespace is counted at launches alone", limit)
	if limit == "max_processes" {
		text += ", as max_fds of a namespace is"
	}
	return text
}

func checkCgroupControls(f *Findings) Check {
	c := Check{Name: "cgroup.freeze and cgroup.kill", Status: OK, Found: "both"}
	switch {
	case !f.MakeCgroup.works():
		c.Status, c.Found = Info, "not looked at: no cgroup could be made"
	case !f.CgroupFreeze && !f.CgroupKill:
		c.Status, c.Found = Fail, "neither"
	case !f.CgroupFreeze:
		c.Status, c.Found = Fail, "no cgroup.freeze"
	case !f.CgroupKill:
		c.Status, c.Found = Fail, "no cgroup.kill"
	}
	if c.Status == Fail {
		c.Consequence, c.Fix = "an agent could not be stopped at the expiry of its visa or ended as a whole", "kernel 5.14 or later"
	}
	return c
}

// refused turns the error of a probe into what was found, its consequence left to the caller.
func refused(p Probed) (found, fix string) {
	switch {
	case errors.Is(p.Err, syscall.EPERM):
		return "refused (EPERM)", "run as root outside of containers; where a hypervisor or lockdown forbids it, use another host"
	default:
		return p.Err.Error(), "kernel 6.1 or later with CONFIG_CGROUP_BPF=y"
	}
}

func checkCgroupPrograms(f *Findings) Check {
	c := Check{Name: "cgroup programs", Status: OK}
	var works, fails []string
	for _, h := range f.CgroupHooks {
		switch {
		case h.works():
			works = append(works, h.Hook)
		case h.Tried:
			found, fix := refused(h.Probed)
			fails = append(fails, h.Hook+": "+found)
			c.Fix = fix
		}
	}
	switch {
	case len(fails) > 0:
		c.Status, c.Found = Fail, strings.Join(fails, "; ")
		c.Consequence = "the network guard cannot be set up, so no agent is started"
	case len(works) == 0 && f.privileged():
		c.Status, c.Found = Info, "not tried: no cgroup could be made"
	case len(works) == 0:
		c.Status, c.Found = Info, needsRoot
	default:
		c.Found = "load and attach: " + strings.Join(works, ", ")
	}
	return c
}

func checkConnectUnix(f *Findings) Check {
	c := Check{Name: "cgroup/connect_unix", Status: OK, Found: "loads and attaches"}
	switch {
	case !f.ConnectUnix.Tried:
		c.Status, c.Found = Info, needsRoot
	case f.ConnectUnix.Err != nil:
		found, _ := refused(f.ConnectUnix)
		c.Status, c.Found = Warn, found
		c.Consequence, c.Fix = "which unix sockets an agent may connect to is held without a second layer in the kernel", "kernel 6.7 or later"
	}
	return c
}

func checkTCX(f *Findings) Check {
	c := Check{Name: "tcx", Status: OK, Found: "attaches (tried in a network namespace of its own)"}
	switch {
	case !f.TCX.Tried:
		c.Status, c.Found = Info, needsRoot
	case f.TCX.Err != nil:
		found, _ := refused(f.TCX)
		c.Status, c.Found = Info, "not available: "+found
		c.Consequence, c.Fix = "nothing for this version, whose network guard sits on cgroups", "kernel 6.6 or later"
	}
	return c
}

func checkXDP(f *Findings) Check {
	mode := map[bool]string{true: "native (in the driver)", false: "generic (behind the driver)"}
	c := Check{Name: "XDP", Status: OK, Found: mode[f.XDPNative] + " at the wires of isolated agents"}
	switch {
	case !f.XDP.Tried:
		c.Status, c.Found = Info, needsRoot
		return c
	case f.XDP.Err != nil:
		found, _ := refused(f.XDP)
		c.Status, c.Found = Info, "not available: "+found
		c.Consequence, c.Fix = "agents with network.isolate are not started, and raypherd --xdp ends with an error", "a kernel with CONFIG_VETH and XDP, outside of containers"
		return c
	case !f.XDPNative:
		c.Status, c.Consequence = Info, "the same is dropped, later and at a higher cost"
	}
	for _, at := range f.XDPAt {
		c.Found += "; a program at " + at.Interface + ": " + mode[at.Native]
	}
	return c
}

func checkRingBuffer(f *Findings) Check {
	c := Check{Name: "BPF ring buffer", Status: OK, Found: "can be made"}
	switch {
	case !f.RingBuffer.Tried:
		c.Status, c.Found = Info, needsRoot
	case f.RingBuffer.Err != nil:
		c.Status, c.Found, c.Fix = Fail, f.RingBuffer.Err.Error(), Explain(fmt.Errorf("map: %w", f.RingBuffer.Err))
		c.Consequence = "what the kernel refuses could not be reported"
	}
	return c
}

func checkMemlock(f *Findings) Check {
	c := Check{Name: "RLIMIT_MEMLOCK", Status: OK, Found: fmt.Sprintf("%d KiB", f.Memlock>>10)}
	if f.Memlock == ^uint64(0) {
		c.Found = "unlimited"
	}
	if major, minor, ok := version(f.Kernel); ok && (major < 5 || major == 5 && minor < 11) {
		c.Status, c.Consequence, c.Fix = Warn, "this kernel charges programs and tables to it", "ulimit -l unlimited"
		return c
	}
	c.Consequence = "no part in it: since 5.11 programs and tables are charged to the memory cgroup"
	return c
}

func mounted(name, point string, missing Check) Check {
	if point != "" {
		return Check{Name: name, Status: OK, Found: point}
	}
	missing.Name, missing.Found = name, "not mounted"
	return missing
}

func checkBPFFS(f *Findings) Check {
	return mounted("bpffs", f.BPFFS, Check{
		Status:      Info,
		Consequence: "raypherd mounts it at its start, so that the guard outlives it",
		Fix:         NotMounted("bpf", nil).Fix,
	})
}

func checkTracefs(f *Findings) Check {
	return mounted("tracefs", f.Tracefs, Check{
		Status:      Info,
		Consequence: "nothing that decides needs it; tracepoints and uprobes, which only observe, cannot be attached without it",
		Fix:         NotMounted("tracefs", nil).Fix,
	})
}

func checkDebugfs(f *Findings) Check {
	return mounted("debugfs", f.Debugfs, Check{
		Status:      Info,
		Consequence: "nothing that decides needs it; the kernel's own debugging files are not readable",
		Fix:         NotMounted("debugfs", nil).Fix,
	})
}
