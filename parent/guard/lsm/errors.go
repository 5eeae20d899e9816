package lsm

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Errors that callers tell apart. Each is wrapped in words that name the next step.
var (
	// ErrNotPermitted: this kernel takes no BPF LSM programs, whatever its list of LSMs says.
	ErrNotPermitted = errors.New("the kernel refused to load or attach a BPF LSM program")
	// ErrNotCalled: it takes them and never calls them, because bpf is not in its list of LSMs.
	ErrNotCalled    = errors.New("the kernel calls no BPF LSM program")
	ErrFull         = errors.New("a map of the guard is full")
	ErrUnknownAgent = errors.New("this cgroup is not armed")
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
	case errors.As(err, &verifier):
		return fmt.Errorf("%s: %w: its verifier does not take the program, Linux 6.1 and 6.12 are known to: %w", what, ErrNotPermitted, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL),
		errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s: %w: it needs CONFIG_BPF_LSM, bpf in the kernel's list of LSMs (lsm= on its command line), and root with CAP_BPF, "+
			"CAP_PERFMON and CAP_SYS_ADMIN; some kernels list it and still refuse: %w", what, ErrNotPermitted, err)
	case errors.Is(err, unix.E2BIG), errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%s: %w: fewer agents or rules, or larger maps in bpf/lsmguard/state.h: %w", what, ErrFull, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
