package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"time"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// healthy are the findings on a host that lacks nothing: root, no daemon.
func healthy() *Findings {
	now := time.Unix(1_800_000_000, 0)
	works := Probed{Tried: true}
	f := &Findings{
		Kernel: "6.18.0", Arch: "amd64", UID: 0, Capabilities: ^uint64(0),
		BTF: works, LSMs: []string{"capability", "landlock", "bpf"}, BPFLSM: works, BPFLSMRuns: true, Landlock: 7,
		Notification: works, WaitKillable: works, Yama: -1,
		Cgroup2: "/sys/fs/cgroup", Controllers: []string{"cpu", "memory", "pids"}, MakeCgroup: works, CgroupFreeze: true, CgroupKill: true,
		ConnectUnix: works, TCX: works, XDP: works, XDPNative: true, RingBuffer: works, Memlock: 8 << 20,
		BPFFS: "/sys/fs/bpf", Tracefs: "/sys/kernel/tracing", Debugfs: "/sys/kernel/debug", IPv6: true, EntropyReady: true,
		Clock:    Clock{Synchronised: true, MaxError: 3 * time.Millisecond, Now: now, Newest: now.Add(-time.Hour), NewestFile: "/usr/bin/raypher"},
		StateDir: "/var/lib/raypher", FreeBytes: 20 << 30,
		Group: "raypher", HasGroup: true, InGroup: true, HasEnclaveUser: true,
		Daemon: Daemon{Socket: "/run/raypher/raypherd.sock", Err: fs.ErrNotExist},
	}
	for _, h := range cgroupHooks {
		f.CgroupHooks = append(f.CgroupHooks, HookProbe{h.hook, works})
	}
	return f
}

// plainUser are the findings of a user without privileges on the same host, with a daemon.
func plainUser(f *Findings) {
	f.UID, f.Capabilities = 1000, 0
	f.BPFLSM, f.BPFLSMRuns, f.MakeCgroup, f.ConnectUnix, f.TCX, f.RingBuffer = Probed{}, false, Probed{}, Probed{}, Probed{}, Probed{}
	f.XDP, f.XDPNative = Probed{}, false
	for i := range f.CgroupHooks {
		f.CgroupHooks[i].Probed = Probed{}
	}
	running(f)
}

func running(f *Findings) {
	f.Daemon.Err = nil
	f.Daemon.Status = &parentv1.StatusReply{Version: "1.0", Tier: "software", Backend: "broker", EnclaveReachable: true, Agents: 1}
}

func failing(err error) Probed { return Probed{true, err} }

func TestInterpret(t *testing.T) {
	tests := []struct {
		name   string
		change func(f *Findings)
		check  string // the line that this is about
		status Status
		says   []string // in that line
		canRun bool
	}{
		{"healthy", func(f *Findings) {}, "kernel", OK, []string{"Linux 6.18.0 on amd64"}, true},
		{"old kernel", func(f *Findings) { f.Kernel = "5.10.0-32-amd64" }, "kernel", Fail, []string{"refuses kernels before 6.1", "upgrade"}, false},
		{"oldest kernel", func(f *Findings) { f.Kernel = "6.1.0-30-amd64" }, "kernel", OK, nil, true},
		{"kernel with two digits", func(f *Findings) { f.Kernel = "6.12.3" }, "kernel", OK, nil, true},
		{"kernel without number", func(f *Findings) { f.Kernel = "custom" }, "kernel", Warn, []string{"cannot be read"}, true},
		{"other architecture", func(f *Findings) { f.Arch = "riscv64" }, "kernel", Fail, []string{"amd64 and arm64"}, false},

		{"root in a container", func(f *Findings) { f.Capabilities &^= 1<<capBPF | 1<<capNetAdmin }, "privileges", Fail, []string{"root without CAP_BPF, CAP_NET_ADMIN", "outside of the container"}, false},
		{"plain user", plainUser, "privileges", Info, []string{"uid 1000", "could not be looked at", "sudo"}, true},
		{"plain user: programs", plainUser, "cgroup programs", Info, []string{"needs root"}, true},
		{"plain user: ring buffer", plainUser, "BPF ring buffer", Info, []string{"needs root"}, true},
		{"plain user: LSM", plainUser, "BPF LSM", Info, []string{"needs root", "capability, landlock, bpf"}, true},
		{"user namespace", func(f *Findings) { f.UserNamespace, f.Container = true, "podman" }, "container", Warn, []string{"user namespace (podman)", "on the host"}, true},
		{"container", func(f *Findings) { f.Container = "docker" }, "container", Info, []string{"docker"}, true},

		{"no BTF", func(f *Findings) { f.BTF.Err = fs.ErrNotExist }, "BTF", Fail, []string{"no BTF", "CONFIG_DEBUG_INFO_BTF"}, false},
		{"BPF LSM runs", func(f *Findings) {}, "BPF LSM", OK, []string{"is called", "--backend auto has such programs decide"}, true},
		{"BPF LSM listed but refused", func(f *Findings) { f.BPFLSM.Err = syscall.EPERM }, "BPF LSM", Info, []string{"listed but refused", "broker"}, true},
		{"BPF LSM refused", func(f *Findings) { f.BPFLSM.Err, f.LSMs = syscall.EPERM, nil }, "BPF LSM", Info, []string{"refused (EPERM)", "broker"}, true},
		{"BPF LSM loaded, not called", func(f *Findings) { f.BPFLSMRuns = false }, "BPF LSM", Info, []string{"never called", "lsm="}, true},
		{"BPF LSM unknown", func(f *Findings) { f.BPFLSM.Err = syscall.EINVAL }, "BPF LSM", Info, []string{"not available"}, true},

		{"no Landlock", func(f *Findings) { f.Landlock, f.LandlockErr = 0, syscall.ENOSYS }, "Landlock", Fail, []string{"no floor", "CONFIG_SECURITY_LANDLOCK"}, false},
		{"Landlock switched off", func(f *Findings) { f.Landlock, f.LandlockErr = 0, syscall.EOPNOTSUPP }, "Landlock", Fail, []string{"not enabled at boot", "lsm="}, false},
		{"Landlock of Debian 12", func(f *Findings) { f.Landlock = 2 }, "Landlock", Warn, []string{"ABI 2", "truncation", "TCP ports", "signals"}, true},
		{"Landlock ABI 6", func(f *Findings) { f.Landlock = 6 }, "Landlock", OK, []string{"audit log"}, true},
		{"no notification", func(f *Findings) { f.Notification.Err = syscall.EOPNOTSUPP }, "seccomp notification", Fail, []string{"CONFIG_SECCOMP_FILTER"}, false},
		{"no killable wait", func(f *Findings) { f.WaitKillable.Err = syscall.EINVAL }, "seccomp notification", Fail, []string{"5.19"}, false},
		{"Yama", func(f *Findings) { f.Yama = 1 }, "Yama", OK, []string{"raypherd looks at agents' calls"}, true},
		{"Yama for root alone", func(f *Findings) { f.Yama = 2 }, "Yama", OK, []string{"raypherd looks at agents' calls"}, true},
		{"Yama for good", func(f *Findings) { f.Yama = 3 }, "Yama", Fail, []string{"reboot"}, false},

		{"no cgroup2", func(f *Findings) { f.Cgroup2 = "" }, "cgroup2", Fail, []string{"not mounted", "mount -t cgroup2"}, false},
		{"cgroup2 read-only", func(f *Findings) { f.MakeCgroup.Err = syscall.EROFS }, "cgroup2", Fail, []string{"read-only", "for writing"}, false},
		{"memory in the old hierarchy", func(f *Findings) {
			f.Controllers, f.CgroupV1 = nil, map[string]string{"memory": "/sys/fs/cgroup/memory"}
		}, "memory controller", Info, []string{"/sys/fs/cgroup/memory", "max_memory_mb is set there"}, true},
		{"memory in an old hierarchy that is read-only", func(f *Findings) {
			f.Controllers, f.CgroupV1, f.ReadOnlyV1 = nil, map[string]string{"memory": "/sys/fs/cgroup/memory"}, map[string]bool{"memory": true}
		}, "memory controller", Warn, []string{"/sys/fs/cgroup/memory", "read-only", "a namespace is counted at launches alone"}, true},
		{"no pids controller", func(f *Findings) { f.Controllers = []string{"memory"} }, "pids controller", Warn, []string{"max_processes", "max_fds of a namespace", "cgroup_enable=pids"}, true},
		{"no cgroup.kill", func(f *Findings) { f.CgroupKill = false }, "cgroup.freeze and cgroup.kill", Fail, []string{"no cgroup.kill", "5.14"}, false},
		{"one hook refused", func(f *Findings) { f.CgroupHooks[2].Err = fmt.Errorf("load: %w", syscall.EPERM) }, "cgroup programs", Fail, []string{"cgroup/sendmsg4: refused (EPERM)"}, false},
		{"no connect_unix", func(f *Findings) { f.ConnectUnix.Err = syscall.EINVAL }, "cgroup/connect_unix", Warn, []string{"6.7"}, true},
		{"no tcx", func(f *Findings) { f.TCX.Err = syscall.EINVAL }, "tcx", Info, []string{"nothing for this version"}, true},
		{"XDP in drivers", func(f *Findings) { f.XDPAt = []XDPAt{{"eth0", true}} }, "XDP", OK, []string{"native (in the driver) at the wires", "eth0: native"}, true},
		{"XDP behind drivers", func(f *Findings) { f.XDPNative, f.XDPAt = false, []XDPAt{{"eth0", false}} }, "XDP", Info, []string{"generic (behind the driver) at the wires", "eth0: generic"}, true},
		{"no XDP", func(f *Findings) { f.XDP.Err, f.XDPNative = syscall.EOPNOTSUPP, false }, "XDP", Info, []string{"network.isolate", "--xdp"}, true},
		{"no ring buffer", func(f *Findings) { f.RingBuffer.Err = syscall.EPERM }, "BPF ring buffer", Fail, []string{"EPERM", "could not be reported"}, false},
		{"MEMLOCK on an old kernel", func(f *Findings) { f.Kernel = "5.4.0" }, "RLIMIT_MEMLOCK", Warn, []string{"ulimit -l unlimited"}, false},

		{"no bpffs", func(f *Findings) { f.BPFFS = "" }, "bpffs", Info, []string{"raypherd mounts it", "mount -t bpf bpf /sys/fs/bpf"}, true},
		{"no tracefs", func(f *Findings) { f.Tracefs = "" }, "tracefs", Info, []string{"mount -t tracefs tracefs /sys/kernel/tracing"}, true},
		{"no debugfs", func(f *Findings) { f.Debugfs = "" }, "debugfs", Info, []string{"mount -t debugfs debugfs /sys/kernel/debug"}, true},

		{"clock not synchronised", func(f *Findings) { f.Clock.Synchronised = false }, "clock", Warn, []string{"not synchronised", "timedatectl"}, true},
		{"clock inexact", func(f *Findings) { f.Clock.MaxError = 16 * time.Second }, "clock", Warn, []string{"16s", "visas"}, true},
		{"clock behind", func(f *Findings) { f.Clock.Newest = f.Clock.Now.Add(time.Hour) }, "clock skew", Warn, []string{"/usr/bin/raypher", "1h0m0s", "behind"}, true},
		{"no entropy", func(f *Findings) { f.EntropyReady = false }, "random numbers", Fail, []string{"virtio-rng"}, false},
		{"disk nearly full", func(f *Findings) { f.FreeBytes = 500 << 20 }, "disk", Warn, []string{"500 MiB", "journal"}, true},
		{"disk full", func(f *Findings) { f.FreeBytes = 1 << 20 }, "disk", Fail, []string{"1 MiB", "free space"}, false},
		{"no IPv6", func(f *Findings) { f.IPv6 = false }, "IPv6", Info, []string{"covers it then too"}, true},

		{"no group", func(f *Findings) { f.HasGroup = false }, "group raypher", Info, []string{"groupadd"}, true},
		{"another group", func(f *Findings) { plainUser(f); f.InGroup, f.Group = false, "ops" }, "group ops", Warn, []string{"usermod -aG ops"}, true},
		{"not in the group", func(f *Findings) { plainUser(f); f.InGroup = false }, "group raypher", Warn, []string{"usermod -aG raypher"}, true},
		{"no enclave user", func(f *Findings) { f.HasEnclaveUser = false }, "user raypher-enclave", Info, []string{"useradd"}, true},
		{"root without daemon", func(f *Findings) {}, "raypherd", Info, []string{"private pair"}, true},
		{"the daemon that RAYPHER_RUN_DIR names does not run", func(f *Findings) { f.Daemon.Named = true }, "raypherd", Fail, []string{"not running at /run/raypher/raypherd.sock", "nothing is run", "RAYPHER_RUN_DIR"}, false},
		{"user without daemon", func(f *Findings) { plainUser(f); f.Daemon = Daemon{Err: syscall.ECONNREFUSED} }, "raypherd", Fail, []string{"not running", "systemctl"}, false},
		{"user refused by a raypherd of root alone", func(f *Findings) { plainUser(f); f.HasGroup, f.Daemon = false, Daemon{Err: syscall.EACCES} }, "raypherd", Fail, []string{"groupadd", "restart raypherd", "usermod"}, false},
		{"user refused by the socket", func(f *Findings) { plainUser(f); f.Daemon = Daemon{Err: syscall.EACCES} }, "raypherd", Fail, []string{"usermod"}, false},
		{"user refused by the daemon", func(f *Findings) {
			plainUser(f)
			f.Daemon = Daemon{Err: status.Error(codes.PermissionDenied, "no")}
		}, "raypherd", Fail, []string{"usermod"}, false},
		{"daemon hangs", func(f *Findings) { f.Daemon.Err = status.Error(codes.DeadlineExceeded, "late") }, "raypherd", Fail, []string{"no answer", "journalctl"}, false},
		{"daemon", running, "raypherd", OK, []string{"version 1.0", "1 agent"}, true},
		{"daemon and enclave", running, "enclave", OK, []string{"tier software, reachable", "unless they allow software"}, true},
		{"enclave away", func(f *Findings) { running(f); f.Daemon.Status.EnclaveReachable = false }, "enclave", Fail, []string{"not reachable", "no new visa"}, false},
		{"trusted hardware", func(f *Findings) { f.Devices = []string{"/dev/nsm", "/dev/tpmrm0"} }, "enclave", Info, []string{"/dev/nsm and /dev/tpmrm0 present"}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := healthy()
			tt.change(f)
			r := Interpret(f)
			if r.CanRun != tt.canRun {
				t.Errorf("can run: %v, want %v", r.CanRun, tt.canRun)
			}
			for _, c := range r.Checks {
				if c.Name != tt.check {
					continue
				}
				if c.Status != tt.status {
					t.Errorf("status %s, want %s: %+v", c.Status, tt.status, c)
				}
				for _, s := range tt.says {
					if text := c.Found + "\n" + c.Consequence + "\n" + c.Fix; !strings.Contains(text, s) {
						t.Errorf("does not say %q:\n%s", s, text)
					}
				}
				return
			}
			t.Errorf("no check is called %q", tt.check)
		})
	}
}

// Whatever is not fine says what follows, and whatever fails says how to mend it.
func TestEveryFindingHasConsequenceAndFix(t *testing.T) {
	nothing := &Findings{Kernel: "4.19.0", Arch: "riscv64", Yama: 2, LandlockErr: syscall.ENOSYS, UserNamespace: true,
		BTF: failing(fs.ErrNotExist), BPFLSM: failing(syscall.EPERM), Notification: failing(syscall.EINVAL), RingBuffer: failing(syscall.EPERM), TCX: failing(syscall.EINVAL), ConnectUnix: failing(syscall.EINVAL),
		Daemon: Daemon{Err: errors.New("odd")}}
	for _, c := range Interpret(nothing).Checks {
		if (c.Status == Fail || c.Status == Warn) && (c.Consequence == "" || c.Fix == "" || c.Found == "") {
			t.Errorf("incomplete: %+v", c)
		}
	}
}

func TestBackendAndTierAreTheDaemonsWord(t *testing.T) {
	f := healthy()
	if r := Interpret(f); r.Backend != "lsm" || r.Tier != "software" || !r.Complete {
		t.Errorf("without daemon: %+v", r)
	}
	running(f)
	f.Daemon.Status.Tier, f.Daemon.Status.Backend = "nitro", "lsm"
	if r := Interpret(f); r.Backend != "lsm" || r.Tier != "nitro" {
		t.Errorf("with daemon: %+v", r)
	}
	plainUser(f)
	if r := Interpret(f); r.Complete {
		t.Error("a plain user's report claims to be complete")
	}
}

func TestPrint(t *testing.T) {
	r := &Report{Backend: "broker", Tier: "software", Checks: []Check{
		{Name: "kernel", Status: OK, Found: "Linux 6.18"},
		{Name: "BTF", Status: Fail, Found: "no BTF", Consequence: "no programs", Fix: "another kernel"},
		{Name: "tracefs", Status: Info, Found: "not mounted", Fix: "mount it"},
	}}
	var b bytes.Buffer
	if err := r.Print(&b, false); err != nil {
		t.Fatal(err)
	}
	want := `ok    kernel   Linux 6.18
fail  BTF      no BTF
               no programs
               fix: another kernel
info  tracefs  not mounted
               optional: mount it

backend  broker
tier     software
Not everything could be looked at: sudo raypher doctor looks at the rest.
The guard cannot run here: BTF.
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	r.CanRun, r.Complete = true, true
	if err := r.Print(&b, true); err != nil {
		t.Fatal(err)
	}
	if text := b.String(); !strings.Contains(text, "\x1b[31mfail\x1b[0m") || !strings.Contains(text, "The guard can run here.") {
		t.Errorf("got %q", text)
	}
}

// A host of a fleet says how it stands with its controller; another one has no line about it.
func TestController(t *testing.T) {
	at := func(h int) int64 { return time.Date(2026, 11, 23, h, 0, 0, 0, time.UTC).Unix() }
	for _, c := range []struct {
		name   string
		fleet  *parentv1.OperatorFleetStatus
		status Status
		want   []string
	}{
		{"an earlier raypherd", nil, "", nil},
		{"none is configured", &parentv1.OperatorFleetStatus{}, "", nil},
		{"well", &parentv1.OperatorFleetStatus{Controller: "c:1", Result: "x", ResultExpiresUnix: at(4)}, OK, []string{"c:1, attested until 2026-11-23T04:00:00Z"}},
		{"not attested yet", &parentv1.OperatorFleetStatus{Controller: "c:1"}, Warn, []string{"not attested", "no secrets"}},
		{"away", &parentv1.OperatorFleetStatus{Controller: "c:1", Result: "x", ResultExpiresUnix: at(4), Error: "no\nanswer", PoliciesUntilUnix: at(9)}, Warn,
			[]string{"attested until", "not reached: no answer", "policies until 2026-11-23T09:00:00Z", "controller_key"}},
		{"away for raypherd", &parentv1.OperatorFleetStatus{Controller: "c:1", Result: "x", PoliciesError: "refused"}, Warn, []string{"not reached: refused"}},
	} {
		checks := checkFleet(&Findings{Daemon: Daemon{Fleet: c.fleet}})
		if c.want == nil {
			if len(checks) != 0 {
				t.Errorf("%s: %+v", c.name, checks)
			}
			continue
		}
		text := fmt.Sprint(checks)
		for _, want := range c.want {
			if len(checks) != 1 || checks[0].Status != c.status || !strings.Contains(text, want) {
				t.Errorf("%s: %s, want %q", c.name, text, want)
			}
		}
	}
}
