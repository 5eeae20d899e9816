package doctor

import (
	"time"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// Probed is the outcome of trying something.
type Probed struct {
	Tried bool // false: this user may not try it
	Err   error
}

func (p Probed) works() bool { return p.Tried && p.Err == nil }

// HookProbe is one kind of program and whether it could be loaded and attached.
type HookProbe struct {
	Hook string // as the kernel's documentation calls it: cgroup/connect4
	Probed
}

// Findings is what was found on a host, without any judgement. Tests make up their own.
type Findings struct {
	Kernel        string // uname -r
	Arch          string // GOARCH
	UID           int    // effective
	Capabilities  uint64 // effective, bits as in linux/capability.h
	UserNamespace bool   // not the initial one
	Container     string // what kind of container this is, empty: none seen

	BTF        Probed
	LSMs       []string // active security modules in order, nil: unknown
	BPFLSM     Probed   // an lsm program loaded and attached
	BPFLSMRuns bool     // and was called

	Landlock    int // ABI version, 0: not there
	LandlockErr error

	Notification Probed // SECCOMP_RET_USER_NOTIF
	WaitKillable Probed // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	Yama         int    // kernel.yama.ptrace_scope, or relay.NoYama

	Cgroup2       string            // mount point, empty: not mounted
	Controllers   []string          // of the cgroup2 hierarchy
	CgroupV1      map[string]string // controller -> mount point in the old hierarchy
	ReadOnlyV1    map[string]bool   // of these, mounted read-only
	MakeCgroup    Probed            // a cgroup could be made and removed
	CgroupFreeze  bool              // cgroup.freeze is there
	CgroupKill    bool              // cgroup.kill is there
	CgroupHooks   []HookProbe       // attached to a cgroup of our own
	ConnectUnix   Probed
	TCX           Probed
	XDP           Probed  // at a veth, as the wires of isolated agents
	XDPNative     bool    // in its driver
	XDPAt         []XDPAt // where programs sit now
	RingBuffer    Probed
	Memlock       uint64 // RLIMIT_MEMLOCK in bytes, ^0: unlimited
	BPFFS         string // mount points, empty: not mounted
	Tracefs       string
	Debugfs       string
	IPv6          bool
	EntropyReady  bool
	EntropyDevice string // /sys/class/misc/hw_random/rng_current

	Clock Clock

	StateDir  string // where the daemon keeps its state, or would
	FreeBytes uint64
	FreeErr   error

	Group          string // whose members run agents
	HasGroup       bool
	InGroup        bool // this process is a member
	HasEnclaveUser bool

	Daemon  Daemon
	Devices []string // of trusted hardware: /dev/nsm, /dev/tpmrm0
	TPM     *TPM     // nil: not looked at
}

// Clock is what is known about the host's time.
type Clock struct {
	Synchronised bool
	MaxError     time.Duration // the kernel's own bound
	Err          error
	Now          time.Time
	Newest       time.Time // the newest time stamp of files that were written before now
	NewestFile   string
}

// Daemon is what the operator socket answered.
type Daemon struct {
	Socket string
	Named  bool                  // RAYPHER_RUN_DIR names it: no other takes its place
	Status *parentv1.StatusReply // nil: no answer
	Err    error
	Fleet  *parentv1.OperatorFleetStatus // nil: no answer, as of an earlier release
}

// Bits of linux/capability.h.
const (
	capSysPtrace = 19
	capSysAdmin  = 21
	capNetAdmin  = 12
	capBPF       = 39
	capPerfmon   = 38
)

func (f *Findings) has(capability int) bool { return f.Capabilities&(1<<capability) != 0 }

// privileged says whether the probes that load programs could be tried.
func (f *Findings) privileged() bool {
	return f.UID == 0 && (f.has(capBPF) || f.has(capSysAdmin))
}
