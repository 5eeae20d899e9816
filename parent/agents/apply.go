package agents

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/raypher/raypher/parent/attach"
	"github.com/raypher/raypher/policy"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// An operator may give a running agent other rules: a policy in the place of the one that it began with. What a program took for itself at
// its launch nobody can take from it or widen: the new policy lies within the launch's permit, and changes nothing that is fixed
// there. Everything else is in force at once, and bounds what the agent asks for itself until the next policy.

// ErrFixed says that a policy asks for what the launch has fixed.
var ErrFixed = errors.New("the launch has fixed it: start the agent again")

// Apply puts a policy in force for a running agent, and says of each section since when it holds and what bounds stay. On an error
// nothing has changed. With r.Check nothing changes either way.
func (h *Host) Apply(ctx context.Context, caller Caller, r *parentv1.ApplyPolicyRequest) (*parentv1.ApplyPolicyReply, error) {
	begun := boottime()
	a, err := h.Agent(r.AgentId)
	if err != nil {
		return nil, err
	}
	if err := a.disposes(caller); err != nil {
		return nil, err
	}
	name := r.PolicyPath
	if name == "" {
		name = "policy"
	}
	written, err := policy.Parse(name, r.Policy)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	asked, err := written.Expand(a.policyHome)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	if asked, err = a.fits(asked); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
	}
	reply := a.effects(asked)
	if r.Check {
		reply.Permit = asked.Canonical()
		return reply, nil
	}
	g, _, err := a.mint(ctx, begun, asked.Canonical(), nil)
	if err != nil {
		return nil, err
	}
	if err := a.follow(ctx, &narrowing{grant: g, bound: asked, done: make(chan error, 1)}); err != nil {
		return nil, err
	}
	h.options.Log.Info("an agent has another policy", "agent", a.id, "by user", caller.UID, "subject", a.subject, "policy", name, "live", reply.Live)
	reply.Permit = g.permit.Canonical()
	return reply, nil
}

// fits is what a policy means below the launch's permit, or why it cannot be put in force for the running agent. All that is fixed is
// listed.
func (a *Agent) fits(asked *policy.Policy) (*policy.Policy, error) {
	launch := a.launchPermit
	var fixed []string
	if mode(asked) != mode(launch) {
		fixed = append(fixed, fmt.Sprintf("mode: %s was launched", mode(launch)))
	}
	if !maps.Equal(asked.Syscalls, launch.Syscalls) {
		fixed = append(fixed, "syscalls: its filter was taken before its first instruction")
	}
	if !reflect.DeepEqual(asked.Resources, launch.Resources) {
		fixed = append(fixed, "resources: its cgroup and descriptors were limited then")
	}
	fixed = append(fixed, a.fixedFiles(asked.Filesystem)...)
	if n, had := asked.Network, launch.Network; n != nil && len(n.RequireApproval) > 0 && (had == nil || len(had.RequireApproval) == 0) {
		fixed = append(fixed, "network.require_approval: none of its calls was held for a person then")
	}
	if len(fixed) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrFixed, strings.Join(fixed, "; "))
	}
	if a.attached != "" {
		if err := attach.Check(asked); err != nil {
			return nil, err
		}
	}
	if asked.Network == nil { // a policy without the section reaches nothing; below another one it would say nothing of it
		closed := *asked
		closed.Network = &policy.Network{}
		asked = &closed
	}
	within, err := policy.Narrow(launch, asked)
	if err != nil {
		return nil, fmt.Errorf("beyond what agent %s was launched with, and the floor that it took then: start it again for more: %w", a.id, err)
	}
	return within, nil
}

// fixedFiles is what of the file rules only another launch can change.
func (a *Agent) fixedFiles(asked *policy.Filesystem) (fixed []string) {
	had := a.launchPermit.Filesystem
	if reflect.DeepEqual(asked, had) {
		return nil
	}
	switch {
	case asked == nil:
		return []string{"filesystem: without the section files would be left to the user's rights, and they are held since the launch"}
	case a.backend == LSM && len(asked.RequireApproval) > 0 && (had == nil || len(had.RequireApproval) == 0):
		return []string{"filesystem.require_approval: none of its calls was held for a person then"}
	case a.backend == LSM:
		return nil
	case a.backend == Network:
		return []string{"filesystem: the network alone is held of it"}
	case had == nil:
		return []string{"filesystem: none of its calls on files is looked at (backend broker, launched without file rules)"}
	case had.Static:
		return []string{"filesystem: Landlock alone decides, with the rules of the launch (static: true)"}
	}
	return nil
}

// effects says in words what a policy that fits changes, and what stays.
func (a *Agent) effects(asked *policy.Policy) *parentv1.ApplyPolicyReply {
	now := a.current().permit
	reply := &parentv1.ApplyPolicyReply{}
	part := func(p *policy.Policy, files bool) []byte {
		one := &policy.Policy{Network: p.Network}
		if files {
			one = &policy.Policy{Filesystem: p.Filesystem}
		}
		return one.Canonical()
	}
	if !bytes.Equal(part(asked, false), part(now, false)) {
		reply.Live = append(reply.Live, "network: from the next packet on, for open connections too")
	}
	files := !bytes.Equal(part(asked, true), part(now, true))
	switch {
	case files && a.backend == LSM:
		reply.Live = append(reply.Live, "filesystem: from the next call on (programs of BPF LSM)")
	case files:
		reply.Live = append(reply.Live, "filesystem: from the next call on (every call on files is decided by the warden)")
		reply.Bounds = append(reply.Bounds, "Landlock's floor is the launch's: it lets nothing beyond it in, and is the bound of a race")
	}
	if asked.OnViolation != now.OnViolation {
		reply.Live = append(reply.Live, "on_violation: from the next refusal on")
	}
	if reply.Live != nil {
		reply.Bounds = append(reply.Bounds, "descriptors that are open and programs that run stay", "nothing beyond the policy of the launch can be granted without another launch")
	}
	return reply
}

// bound is what the agent may ask for: the operator's last policy, else the launch's permit.
func (a *Agent) bound() *policy.Policy {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.applied != nil {
		return a.applied
	}
	return a.launchPermit
}

// withinBound refuses a narrowing that was asked for under an earlier policy of the operator's.
func (a *Agent) withinBound(n *narrowing) error {
	if n.bound != nil {
		return nil
	}
	bound := a.bound()
	if bound.Hash() == n.grant.permit.Hash() {
		return nil
	}
	if _, err := policy.Narrow(bound, n.grant.permit); err != nil {
		return fmt.Errorf("%w: the operator has given agent %s another policy since: ask again: %w", ErrInvalid, a.id, err)
	}
	return nil
}
