package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/raypher/raypher/parent/relay"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// Places says where Look finds the daemon and its state. An empty field is not looked at.
type Places struct {
	Socket      string // raypherd's unix socket with the Operator service
	Named       bool   // RAYPHER_RUN_DIR names it
	State       string // state folder of the daemon
	Journal     string // the folder below it whose time stamps are looked at
	Group       string // whose members run agents
	EnclaveUser string
	TPM         string // device, or a simulator's socket; empty: DefaultTPM
}

// Look finds out about this host. What it makes on the way (programs, a cgroup, a network namespace) is gone when it returns. ctx
// bounds the question to raypherd only; everything else is local.
func Look(ctx context.Context, at Places) *Findings {
	f := &Findings{Arch: runtime.GOARCH, UID: os.Geteuid(), StateDir: at.State, CgroupV1: map[string]string{}, ReadOnlyV1: map[string]bool{}}
	f.lookAtKernel()
	f.lookAtConfinement()
	f.lookAtSeccomp()
	f.lookAtMounts()
	f.lookAtHost()
	f.lookAtClock(at.Journal)
	f.lookAtAccounts(at)
	f.lookAtDaemon(ctx, at.Socket)
	f.Daemon.Named = at.Named
	f.lookAtPrograms()
	f.lookAtTPM(at.TPM)
	return f
}

// moduleNames are the ids of linux/lsm.h.
var moduleNames = map[uint64]string{
	100: "capability", 101: "selinux", 102: "smack", 103: "tomoyo", 104: "apparmor", 105: "yama", 106: "loadpin", 107: "safesetid",
	108: "lockdown", 109: "bpf", 110: "landlock", 111: "ima", 112: "evm", 113: "ipe",
}

// activeModules lists the security modules, from securityfs or, since it is often not mounted, from lsm_list_modules (6.8).
func activeModules() []string {
	if text, err := os.ReadFile("/sys/kernel/security/lsm"); err == nil {
		return strings.Split(strings.TrimSpace(string(text)), ",")
	}
	var ids [64]uint64
	size := uint32(unsafe.Sizeof(ids))
	n, _, errno := unix.Syscall(unix.SYS_LSM_LIST_MODULES, uintptr(unsafe.Pointer(&ids)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || n > uintptr(len(ids)) {
		return nil
	}
	var modules []string
	for _, id := range ids[:n] {
		name, known := moduleNames[id]
		if !known {
			name = fmt.Sprintf("module %d", id)
		}
		modules = append(modules, name)
	}
	return modules
}

func (f *Findings) lookAtKernel() {
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		f.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	f.BTF = Probed{true, err}
	f.LSMs = activeModules()
	// landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) returns the ABI (landlock.rst).
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno == 0 {
		f.Landlock = int(abi)
	} else {
		f.LandlockErr = errno
	}
	f.Yama = relay.Scope()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err == nil {
		f.Memlock = limit.Cur
	}
}

// lookAtConfinement reads what this process may do, and whether it sits in a container.
func (f *Findings) lookAtConfinement() {
	if text, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
				f.Capabilities, _ = strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			}
		}
	}
	// The initial user namespace maps every number to itself (user_namespaces(7)).
	if text, err := os.ReadFile("/proc/self/uid_map"); err == nil {
		f.UserNamespace = !slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
	}
	for file, kind := range map[string]string{"/.dockerenv": "docker", "/run/.containerenv": "podman"} {
		if _, err := os.Stat(file); err == nil {
			f.Container = kind + ", by " + file
		}
	}
	if text, err := os.ReadFile("/run/systemd/container"); err == nil { // written by systemd from $container of pid 1
		f.Container = strings.TrimSpace(string(text))
	}
}

// lookAtSeccomp asks without installing anything: an unknown flag is EINVAL, a known one with no filter behind it EFAULT
// (kernel/seccomp.c, seccomp_set_mode_filter).
func (f *Findings) lookAtSeccomp() {
	action := uint32(unix.SECCOMP_RET_USER_NOTIF)
	f.Notification = Probed{Tried: true}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action))); errno != 0 {
		f.Notification.Err = errno
	}
	f.WaitKillable = Probed{Tried: true}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, 0); errno != unix.EFAULT {
		f.WaitKillable.Err = fmt.Errorf("seccomp: %w", errno)
	}
}

// mount is one line of /proc/self/mounts.
type mount struct{ point, kind, options string }

func readMounts() ([]mount, error) {
	file, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var mounts []mount
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`) // as fs/proc_namespace.c mangles
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) >= 4 {
			mounts = append(mounts, mount{unescape.Replace(fields[1]), fields[2], fields[3]})
		}
	}
	return mounts, nil
}

func (f *Findings) lookAtMounts() {
	mounts, err := readMounts()
	if err != nil {
		return
	}
	points := map[string]*string{"cgroup2": &f.Cgroup2, "bpf": &f.BPFFS, "tracefs": &f.Tracefs, "debugfs": &f.Debugfs}
	for _, m := range mounts {
		if point, ok := points[m.kind]; ok && *point == "" {
			*point = m.point
		}
		if m.kind == "cgroup" {
			var s unix.Statfs_t
			readOnly := unix.Statfs(m.point, &s) == nil && s.Flags&unix.ST_RDONLY != 0
			for _, option := range strings.Split(m.options, ",") {
				f.CgroupV1[option], f.ReadOnlyV1[option] = m.point, readOnly
			}
		}
	}
	if text, err := os.ReadFile(filepath.Join(f.Cgroup2, "cgroup.controllers")); f.Cgroup2 != "" && err == nil {
		f.Controllers = strings.Fields(string(text))
	}
}

func (f *Findings) lookAtHost() {
	if text, err := os.ReadFile("/proc/net/if_inet6"); err == nil {
		f.IPv6 = len(text) > 0
	}
	var one [1]byte
	_, err := unix.Getrandom(one[:], unix.GRND_NONBLOCK)
	f.EntropyReady = err == nil
	if text, err := os.ReadFile("/sys/class/misc/hw_random/rng_current"); err == nil {
		f.EntropyDevice = strings.TrimSpace(string(text))
	}
	for _, device := range []string{"/dev/nsm", "/dev/tpmrm0"} {
		if _, err := os.Stat(device); err == nil {
			f.Devices = append(f.Devices, device)
		}
	}
	if f.StateDir == "" {
		f.FreeErr = errors.New("no state folder named")
		return
	}
	// The state folder need not be there yet: its file system is that of the nearest folder that is.
	dir := f.StateDir
	var s unix.Statfs_t
	for f.FreeErr = unix.Statfs(dir, &s); errors.Is(f.FreeErr, unix.ENOENT) && dir != "/"; f.FreeErr = unix.Statfs(dir, &s) {
		dir = filepath.Dir(dir)
	}
	f.FreeBytes = s.Bavail * uint64(s.Bsize)
}

func (f *Findings) lookAtClock(journal string) {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	f.Clock.Now = time.Now()
	f.Clock.Err = err
	// adjtimex(2): state TIME_ERROR (5) and STA_UNSYNC say that nothing disciplines the clock.
	f.Clock.Synchronised = err == nil && state != unix.TIME_ERROR && t.Status&unix.STA_UNSYNC == 0
	f.Clock.MaxError = time.Duration(t.Maxerror) * time.Microsecond
	note := func(file string, info fs.FileInfo, err error) {
		if err == nil && info.ModTime().After(f.Clock.Newest) {
			f.Clock.Newest, f.Clock.NewestFile = info.ModTime(), file
		}
	}
	if self, err := os.Executable(); err == nil {
		info, err := os.Stat(self)
		note(self, info, err)
	}
	if journal == "" {
		return
	}
	entries, err := os.ReadDir(journal)
	if err != nil {
		return // a plain user may not look at it
	}
	for _, e := range entries {
		info, err := e.Info()
		note(filepath.Join(journal, e.Name()), info, err)
	}
}

func (f *Findings) lookAtAccounts(at Places) {
	f.Group = at.Group
	if g, err := user.LookupGroup(at.Group); err == nil {
		f.HasGroup = true
		gid, _ := strconv.Atoi(g.Gid)
		groups, _ := os.Getgroups()
		f.InGroup = slices.Contains(groups, gid) || os.Getegid() == gid
	}
	_, err := user.Lookup(at.EnclaveUser)
	f.HasEnclaveUser = err == nil
}

// answerTimeout bounds the question to raypherd.
const answerTimeout = 2 * time.Second

func (f *Findings) lookAtDaemon(ctx context.Context, socket string) {
	f.Daemon.Socket = socket
	if socket == "" {
		return
	}
	// The plain dial first: its error says why, where gRPC only says unavailable.
	plain, err := net.DialTimeout("unix", socket, answerTimeout)
	if err != nil {
		f.Daemon.Err = err
		return
	}
	plain.Close()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		f.Daemon.Err = err
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	operator := parentv1.NewOperatorClient(conn)
	if f.Daemon.Status, f.Daemon.Err = operator.Status(ctx, &parentv1.StatusRequest{}); f.Daemon.Err == nil {
		if fleet, err := operator.DescribeFleet(ctx, &parentv1.OperatorDescribeFleetRequest{}); err == nil {
			f.Daemon.Fleet = fleet
		}
	}
}
