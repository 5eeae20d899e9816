package doctor

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/guard/lsm/probe"
)

// cgroupHooks are the attach points of the network guard. Every program here allows what it sees.
var cgroupHooks = []struct {
	hook   string
	kind   ebpf.ProgramType
	attach ebpf.AttachType
}{
	{"cgroup/connect4", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect},
	{"cgroup/connect6", ebpf.CGroupSockAddr, ebpf.AttachCGroupInet6Connect},
	{"cgroup/sendmsg4", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Sendmsg},
	{"cgroup/sendmsg6", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP6Sendmsg},
	{"cgroup/recvmsg4", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP4Recvmsg},
	{"cgroup/recvmsg6", ebpf.CGroupSockAddr, ebpf.AttachCGroupUDP6Recvmsg},
	{"cgroup/sock_create", ebpf.CGroupSock, ebpf.AttachCGroupInetSockCreate},
	{"cgroup_skb/ingress", ebpf.CGroupSKB, ebpf.AttachCGroupInetIngress},
	{"cgroup_skb/egress", ebpf.CGroupSKB, ebpf.AttachCGroupInetEgress},
}

// returns is a program that does nothing but return value.
func returns(kind ebpf.ProgramType, attach ebpf.AttachType, value int32) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name:         "raypher_doctor",
		Type:         kind,
		AttachType:   attach,
		License:      "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, value), asm.Return()},
	}
}

// lookAtPrograms tries everything that needs privileges. A kernel's word on what it has is not enough: some name a feature
// and refuse it, and some load a program and fail to attach it.
func (f *Findings) lookAtPrograms() {
	f.CgroupHooks = make([]HookProbe, 0, len(cgroupHooks))
	if !f.privileged() {
		for _, h := range cgroupHooks {
			f.CgroupHooks = append(f.CgroupHooks, HookProbe{Hook: h.hook})
		}
		return
	}
	f.RingBuffer = Probed{true, tryRingBuffer()}
	called, err := probe.Try(nil)
	f.BPFLSM, f.BPFLSMRuns = Probed{true, err}, called
	f.TCX = Probed{true, tryTCX()}
	f.lookAtXDP()
	f.lookAtCgroups()
}

func tryRingBuffer() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "raypher_doctor", Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
	if err != nil {
		return err
	}
	return m.Close()
}

// tryTCX attaches to the loopback interface of a network namespace of its own, which is gone with its last thread.
func tryTCX() error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := inNewNetwork(attachTCX)
		if back {
			runtime.UnlockOSThread()
		} // else the thread stays locked, so that it ends with this goroutine and carries nothing else
		result <- err
	}()
	return <-result
}

// inNewNetwork calls do in a new network namespace of this thread and says whether the thread is back in its own.
func inNewNetwork(do func() error) (back bool, err error) {
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return true, err
	}
	defer own.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return true, fmt.Errorf("make a network namespace: %w", err)
	}
	err = do()
	return unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil, err
}

func attachTCX() error {
	program, err := ebpf.NewProgram(returns(ebpf.SchedCLS, ebpf.AttachTCXEgress, -1)) // TCX_NEXT
	if err != nil {
		return err
	}
	defer program.Close()
	const loopback = 1 // the first interface of every namespace
	l, err := link.AttachTCX(link.TCXOptions{Interface: loopback, Program: program, Attach: ebpf.AttachTCXEgress})
	if err != nil {
		return err
	}
	return l.Close()
}

// lookAtCgroups makes a cgroup without members, attaches to it, and removes it.
func (f *Findings) lookAtCgroups() {
	if f.Cgroup2 == "" {
		return
	}
	var id [6]byte
	if _, err := rand.Read(id[:]); err != nil {
		return
	}
	dir := filepath.Join(f.Cgroup2, "raypher-doctor-"+hex.EncodeToString(id[:]))
	if err := os.Mkdir(dir, 0o700); err != nil {
		f.MakeCgroup = Probed{true, err}
		return
	}
	has := func(file string) bool {
		_, err := os.Stat(filepath.Join(dir, file))
		return err == nil
	}
	f.CgroupFreeze, f.CgroupKill = has("cgroup.freeze"), has("cgroup.kill")
	for _, h := range cgroupHooks {
		f.CgroupHooks = append(f.CgroupHooks, HookProbe{h.hook, Probed{true, tryCgroup(dir, h.kind, h.attach)}})
	}
	f.ConnectUnix = Probed{true, tryCgroup(dir, ebpf.CGroupSockAddr, ebpf.AttachCgroupUnixConnect)}
	f.MakeCgroup = Probed{true, os.Remove(dir)}
}

func tryCgroup(dir string, kind ebpf.ProgramType, attach ebpf.AttachType) error {
	program, err := ebpf.NewProgram(returns(kind, attach, 1))
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	defer program.Close()
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: attach, Program: program})
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	return l.Close()
}
