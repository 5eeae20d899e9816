package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Hint is an error with the words for who must act: what it means, and the next step.
type Hint struct {
	Problem string // what is wrong, a full clause in lower case
	Fix     string // what to do
	Err     error  // what the kernel said, may be nil
}

func (h *Hint) Error() string {
	text := h.Problem + ": " + h.Fix
	if h.Err != nil {
		text += " (" + h.Err.Error() + ")"
	}
	return text
}

// Unwrap returns the kernel's error.
func (h *Hint) Unwrap() error { return h.Err }

// RingBufferFull says that the kernel dropped lost events because nobody read them fast enough. Nothing was allowed by it:
// events report decisions, they do not make them.
func RingBufferFull(lost uint64) *Hint {
	return &Hint{
		Problem: fmt.Sprintf("the event ring buffer was full, %d %s not recorded (the actions themselves were decided as always)", lost, plural(lost, "event was", "events were")),
		Fix:     "one agent may be hammering a refused action: raypher events --follow shows which",
	}
}

// ClockSkew says that two clocks that must agree are apart by d. what names the other one.
func ClockSkew(what string, d time.Duration) *Hint {
	return &Hint{
		Problem: fmt.Sprintf("clock skew: this host's clock and that of %s are %s apart, so visas look expired or not yet valid", what, d.Abs().Round(time.Millisecond)),
		Fix:     "synchronise the clock: timedatectl set-ntp true, or start chronyd",
	}
}

// NotMounted says that a pseudo file system is missing where it is needed.
func NotMounted(kind string, err error) *Hint {
	target := map[string]string{"tracefs": "/sys/kernel/tracing", "debugfs": "/sys/kernel/debug", "bpf": "/sys/fs/bpf", "cgroup2": "/sys/fs/cgroup"}[kind]
	return &Hint{
		Problem: kind + " is not mounted",
		Fix:     fmt.Sprintf("mount -t %s %s %s", kind, kind, target),
		Err:     err,
	}
}

var noBTF = Hint{
	Problem: "the kernel has no BTF (/sys/kernel/btf/vmlinux is missing), so the guard's programs cannot be fitted to it",
	Fix:     "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y: every Debian, Ubuntu and Fedora kernel since 6.1 is",
}

// Explain says what err, met while loading, attaching, reading or connecting, means and what to do; empty where it knows
// nothing to add. It only reads err.
func Explain(err error) string {
	if err == nil {
		return ""
	}
	var hint *Hint
	if errors.As(err, &hint) {
		return hint.Problem + ": " + hint.Fix
	}
	for _, known := range []func(error) *Hint{explainMissing, explainProgram, explainErrno, explainStatus} {
		if h := known(err); h != nil {
			return h.Problem + ": " + h.Fix
		}
	}
	return ""
}

// explainMissing knows the parts of a kernel that are not there. cilium/ebpf has no sentinel for two of them.
func explainMissing(err error) *Hint {
	text := err.Error()
	switch {
	case strings.Contains(text, "no BTF found for kernel"):
		return &noBTF
	case strings.Contains(text, "neither debugfs nor tracefs are mounted"):
		return NotMounted("tracefs", err)
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(text, "/sys/kernel/btf"):
		return &noBTF
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(text, "/sys/kernel/tracing"):
		return NotMounted("tracefs", err)
	case errors.Is(err, fs.ErrNotExist) && strings.Contains(text, "/sys/kernel/debug"):
		return NotMounted("debugfs", err)
	case strings.Contains(text, "/sys/fs/bpf") && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EINVAL)):
		return NotMounted("bpf", err)
	}
	return nil
}

func explainProgram(err error) *Hint {
	var verifier *ebpf.VerifierError
	switch {
	case errors.As(err, &verifier) && !errors.Is(err, syscall.EPERM):
		return &Hint{Problem: "the kernel's verifier refused a program of the guard", Fix: "report it with the output of raypher doctor --json and this message; kernels from 6.1 on are supported", Err: err}
	case errors.Is(err, ebpf.ErrNotSupported):
		return &Hint{Problem: "this kernel lacks a kind of program or map that the guard needs", Fix: "raypher doctor says which; kernels from 6.1 on are supported", Err: err}
	case errors.Is(err, ebpf.ErrMapIncompatible):
		return &Hint{Problem: "the pinned tables are of another version of the guard", Fix: "end all agents, then start raypherd again with the version that made them, or remove its folder in /sys/fs/bpf", Err: err}
	}
	return nil
}

// loading says whether err comes from the bpf system call rather than from a file or socket.
func loading(err error) bool {
	var path *fs.PathError
	var verifier *ebpf.VerifierError
	if errors.As(err, &verifier) {
		return true
	}
	text := err.Error()
	return !errors.As(err, &path) && (strings.Contains(text, "program") || strings.Contains(text, "map") || strings.Contains(text, "attach") || strings.Contains(text, "link") || strings.Contains(text, "update:"))
}

func explainErrno(err error) *Hint {
	switch {
	case errors.Is(err, syscall.EPERM) && loading(err):
		return &Hint{
			Problem: "the kernel refused to load or attach a program (EPERM): the capabilities are missing, or kernel lockdown, a container runtime or a hypervisor forbids it",
			Fix:     "run as root outside of containers; raypher doctor says which kinds of program this kernel takes",
			Err:     err,
		}
	case loading(err) && (errors.Is(err, syscall.E2BIG) || errors.Is(err, syscall.ENOSPC)):
		return &Hint{Problem: "a kernel table of the guard is full, so the rule was not installed and what it would grant stays refused", Fix: "write fewer or wider rules, or end agents that are not needed", Err: err}
	case loading(err) && errors.Is(err, syscall.ENOMEM):
		return &Hint{Problem: "the kernel has no memory for a program or table", Fix: "free memory, or raise the memory limit of raypherd's cgroup and RLIMIT_MEMLOCK", Err: err}
	case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
		return &Hint{Problem: "no more file descriptors", Fix: "raise LimitNOFILE of raypherd (systemctl edit raypherd)", Err: err}
	case errors.Is(err, syscall.ENOSPC):
		return &Hint{Problem: "the disk is full, and what cannot be recorded is not granted", Fix: "free space where raypherd keeps its journal", Err: err}
	case errors.Is(err, syscall.EROFS):
		return &Hint{Problem: "the file system is read-only", Fix: "give raypherd a state folder that it can write: --state-dir", Err: err}
	}
	return nil
}

// explainStatus knows what dialling raypherd or the enclave ends in.
func explainStatus(err error) *Hint {
	text := err.Error()
	s, isStatus := status.FromError(err)
	switch {
	case errors.Is(err, syscall.EACCES) && strings.Contains(text, ".sock"), strings.Contains(text, "connect: permission denied"):
		return &Hint{Problem: "this user may not talk to raypherd", Fix: "join its group (usermod -aG raypher USER, then log in again), or run as root", Err: err}
	case strings.Contains(text, "connect: no such file"), strings.Contains(text, "connect: connection refused"):
		return &Hint{Problem: "raypherd is not running", Fix: "start it: systemctl start raypherd; as root, raypher run also works without it", Err: err}
	case isStatus && s.Code() == codes.DeadlineExceeded:
		return &Hint{Problem: "raypherd did not answer in time", Fix: "look at its log: journalctl -u raypherd", Err: err}
	}
	return nil
}

func plural[N int | uint64](n N, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
