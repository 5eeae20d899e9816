// Package attach says what it means to put programs that run already under the guard: what of a policy cannot be asked for then, and
// what of the programs nothing will hold. An agent that is launched takes its floor (no new privileges, no capabilities, Landlock,
// seccomp) before its first instruction; none of that can be put on a program later. What is left is what the kernel decides by
// cgroup: the network guard, and where programs of BPF LSM load, these.
//
// Package agents is the only caller. Nothing here changes anything.
package attach

import (
	"errors"
	"fmt"
	"strings"

	"github.com/raypher/raypher/policy"
)

// ErrNeedsLaunch says that a policy asks for what can only be had from the first instruction on.
var ErrNeedsLaunch = errors.New("the policy asks for what a program can only be launched under (`raypher run`)")

// Check refuses a policy, or a permit, that asks for more than can be held of programs that run already. All of it is listed.
func Check(p *policy.Policy) error {
	var needs []string
	if fs := p.Filesystem; fs != nil && len(fs.RequireApproval) > 0 {
		needs = append(needs, "filesystem.require_approval: only a call that seccomp holds can wait for a person")
	}
	if n := p.Network; n != nil && len(n.RequireApproval) > 0 {
		needs = append(needs, "network.require_approval: only a call that seccomp holds can wait for a person")
	}
	if n := p.Network; n != nil && n.Isolate {
		needs = append(needs, "network.isolate: a network namespace is entered by a program itself")
	}
	if len(p.Syscalls) > 0 {
		needs = append(needs, "syscalls: filters are taken by a program itself, before it is executed")
	}
	if r := p.Resources; r != nil && (r.MaxFDs != nil || r.MaxMemoryMB != nil || r.MaxProcesses != nil) {
		needs = append(needs, "resources: the cgroup is somebody else's, who sets its limits (systemd: MemoryMax=, TasksMax=, LimitNOFILE=)")
	}
	if len(needs) > 0 {
		return fmt.Errorf("%w: %s", ErrNeedsLaunch, strings.Join(needs, "; "))
	}
	return nil
}

// NetworkOnly is what is left of a policy where the network alone will be held: the visa then says no more than is true.
func NetworkOnly(p *policy.Policy) *policy.Policy {
	only := *p
	only.Filesystem = nil
	return &only
}
