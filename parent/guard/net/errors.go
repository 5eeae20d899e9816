package netguard

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Errors that callers tell apart. Each is wrapped in words that name the next step.
var (
	ErrNotPermitted = errors.New("the kernel refused to load or attach a BPF program")
	ErrNoBTF        = errors.New("the kernel has no BTF")
	ErrFull         = errors.New("a map of the guard is full")
	ErrUnknownAgent = errors.New("this cgroup is not armed")
	ErrCut          = errors.New("an operator has cut this name")
	ErrStale        = errors.New("the pinned state was made by another version of the guard")
)

// explain puts a failure of the kernel into words. The library calls every EPERM a memory limit; since 5.11 it is not.
func explain(what string, err error) error {
	var verifier *ebpf.VerifierError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ebpf.ErrMapIncompatible):
		return fmt.Errorf("%s: %w: end the agents and remove the folder of pins: %w", what, ErrStale, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES) && !errors.As(err, &verifier):
		return fmt.Errorf("%s: %w: run as root with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (in a container: --privileged), without kernel lockdown: %w",
			what, ErrNotPermitted, err)
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%s: %w: fewer agents or rules, or larger maps in bpf/netguard/state.h: %w", what, ErrFull, err)
	case errors.As(err, &verifier):
		return fmt.Errorf("%s: %w: this kernel's verifier does not take the program, Linux 6.1 is the oldest that does: %w",
			what, ErrNotPermitted, err)
	case strings.Contains(err.Error(), "kernel BTF") || strings.Contains(err.Error(), "no BTF"):
		return fmt.Errorf("%s: %w: it needs CONFIG_DEBUG_INFO_BTF, which /sys/kernel/btf/vmlinux shows: %w", what, ErrNoBTF, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
