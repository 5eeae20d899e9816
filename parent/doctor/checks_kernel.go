package doctor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/raypher/raypher/parent/relay"
)

// The oldest kernel that the guard supports: Debian 12's.
const minMajor, minMinor = 6, 1

// version reads major and minor from the output of uname -r.
func version(release string) (major, minor int, ok bool) {
	n, err := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return major, minor, err == nil && n == 2
}

func checkKernel(f *Findings) Check {
	c := Check{Name: "kernel", Status: OK, Found: fmt.Sprintf("Linux %s on %s", f.Kernel, f.Arch)}
	major, minor, ok := version(f.Kernel)
	switch {
	case !ok:
		c.Status, c.Consequence = Warn, "the version cannot be read from this name; the checks below say what the kernel can do"
	case major < minMajor || major == minMajor && minor < minMinor:
		c.Status = Fail
		c.Consequence = fmt.Sprintf("the guard refuses kernels before %d.%d", minMajor, minMinor)
		c.Fix = "upgrade the kernel; on Debian 11: apt-get install linux-image-amd64 from bullseye-backports, or upgrade to Debian 12"
	case f.Arch != "amd64" && f.Arch != "arm64":
		c.Status, c.Consequence, c.Fix = Fail, "the system call tables are for amd64 and arm64 only", "use a host of one of these"
	}
	return c
}

func checkPrivileges(f *Findings) Check {
	c := Check{Name: "privileges", Status: OK, Found: fmt.Sprintf("uid %d", f.UID)}
	if f.UID != 0 {
		c.Status, c.Consequence, c.Fix = Info, "what needs root to be tried could not be looked at", "sudo raypher doctor looks at everything"
		return c
	}
	var missing []string
	for _, needed := range []struct {
		bit  int
		name string
	}{{capBPF, "CAP_BPF"}, {capNetAdmin, "CAP_NET_ADMIN"}, {capPerfmon, "CAP_PERFMON"}, {capSysAdmin, "CAP_SYS_ADMIN"}, {capSysPtrace, "CAP_SYS_PTRACE"}} {
		if !f.has(needed.bit) {
			missing = append(missing, needed.name)
		}
	}
	if len(missing) > 0 {
		c.Status, c.Found = Fail, "root without "+strings.Join(missing, ", ")
		c.Consequence, c.Fix = "raypherd cannot load its programs or look after agents", "run it outside of the container, or give it these capabilities"
		return c
	}
	c.Found = "root with the capabilities that raypherd needs"
	return c
}

func checkContainer(f *Findings) Check {
	c := Check{Name: "container", Status: OK, Found: "none seen"}
	switch {
	case f.UserNamespace:
		c.Status, c.Found = Warn, "inside a user namespace"+suffix(f.Container)
		c.Consequence, c.Fix = "root here is not root of the host: programs are refused (EPERM)", "run raypherd on the host"
	case f.Container != "":
		c.Status, c.Found = Info, f.Container
		c.Consequence = "agents of this container can be governed only if it sees the host's cgroup2 and has its capabilities; the checks below tried it"
	}
	return c
}

func suffix(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

func checkBTF(f *Findings) Check {
	if f.BTF.Err == nil {
		return Check{Name: "BTF", Status: OK, Found: "/sys/kernel/btf/vmlinux"}
	}
	return Check{Name: "BTF", Status: Fail, Found: "no BTF: " + f.BTF.Err.Error(), Consequence: noBTF.Problem, Fix: noBTF.Fix}
}

// checkBPFLSM tells the cases apart that a list of security modules hides: named and refused, taken and never called.
func checkBPFLSM(f *Findings) Check {
	c := Check{Name: "BPF LSM", Status: Info, Consequence: "files and programs are decided by the broker (Landlock, seccomp, warden)"}
	listed := slices.Contains(f.LSMs, "bpf")
	switch {
	case !f.BPFLSM.Tried:
		c.Found = "not tried, this needs root"
		if f.LSMs != nil {
			c.Found += "; active modules: " + strings.Join(f.LSMs, ", ")
		}
	case f.BPFLSM.Err == nil && f.BPFLSMRuns:
		c.Status, c.Found = OK, "an lsm program loads, attaches and is called"
		c.Consequence = "raypherd --backend auto has such programs decide about files and programs"
	case f.BPFLSM.Err == nil:
		c.Found, c.Fix = "an lsm program loads but is never called", "add bpf to lsm= on the kernel command line"
	case errors.Is(f.BPFLSM.Err, syscall.EPERM) && listed:
		c.Found = "listed but refused: the kernel names bpf among its modules and answers EPERM to every lsm program"
	case errors.Is(f.BPFLSM.Err, syscall.EPERM):
		c.Found = "refused (EPERM): this kernel, or what it runs under, takes no lsm program"
	default:
		c.Found = "not available: " + f.BPFLSM.Err.Error()
	}
	return c
}

// landlockABI says what each version of the ABI added (Documentation/userspace-api/landlock.rst), and what its absence means.
var landlockABI = []struct {
	abi     int
	without string
}{
	{2, "renaming and linking between folders is always refused by the floor"},
	{3, "truncation is not held by the floor, only by the broker"},
	{4, "TCP ports are held by the eBPF programs alone"},
	{5, "ioctl on devices is not held by the floor"},
	{6, "abstract unix sockets and signals to outsiders are not held by the floor"},
	{7, "the kernel's audit log does not show what the floor refused"},
}

func checkLandlock(f *Findings) Check {
	c := Check{Name: "Landlock", Status: OK, Found: fmt.Sprintf("ABI %d", f.Landlock)}
	if f.Landlock < 1 {
		c.Status, c.Found = Fail, "not available"
		if f.LandlockErr != nil {
			c.Found += ": " + f.LandlockErr.Error()
		}
		c.Consequence, c.Fix = "there is no floor under the broker, so no agent is started", "add landlock to lsm= on the kernel command line (CONFIG_SECURITY_LANDLOCK=y)"
		if errors.Is(f.LandlockErr, syscall.EOPNOTSUPP) {
			c.Found = "built in but not enabled at boot"
		}
		return c
	}
	var without []string
	for _, v := range landlockABI {
		if f.Landlock < v.abi {
			without = append(without, v.without)
		}
	}
	c.Consequence = strings.Join(without, "; ")
	switch {
	case f.Landlock < 3:
		c.Status, c.Fix = Warn, "kernel 6.2 or later has ABI 3, 6.15 has ABI 7"
	case len(without) > 0:
		c.Fix = "kernel 6.15 or later has ABI 7"
	}
	return c
}

func checkNotification(f *Findings) Check {
	c := Check{Name: "seccomp notification", Status: OK, Found: "SECCOMP_RET_USER_NOTIF with WAIT_KILLABLE_RECV"}
	const consequence = "the broker cannot decide about file accesses, so no agent is started"
	switch {
	case f.Notification.Err != nil:
		c.Status, c.Found, c.Consequence, c.Fix = Fail, "not available: "+f.Notification.Err.Error(), consequence, "boot a kernel with CONFIG_SECCOMP_FILTER=y, and run outside of what filters the seccomp system call"
	case f.WaitKillable.Err != nil:
		c.Status, c.Found, c.Consequence, c.Fix = Fail, "no WAIT_KILLABLE_RECV: "+f.WaitKillable.Err.Error(), "a signal could make a brokered call happen twice, so no agent is started", "kernel 5.19 or later"
	}
	return c
}

func checkYama(f *Findings) Check {
	c := Check{Name: "Yama", Status: OK, Found: fmt.Sprintf("kernel.yama.ptrace_scope is %d", f.Yama)}
	switch {
	case f.Yama == relay.NoYama:
		c.Found = "not active"
	case f.Yama >= relay.ScopeNobody:
		// security/yama/yama_lsm.c: with 3 nobody may read another process (process_vm_readv, pidfd_getfd, /proc/pid/mem), root included.
		c.Status = Fail
		c.Consequence = "nobody may look at what an agent asks for, not even root, so no agent is started"
		c.Fix = "take kernel.yama.ptrace_scope=3 out of /etc/sysctl.d and reboot: it cannot be lowered while the host runs"
	case f.Yama > relay.ScopeClassic:
		c.Consequence = "raypherd looks at agents' calls for their wardens; while it is away, what new processes of an agent ask for is refused"
	}
	return c
}
