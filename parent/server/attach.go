package server

import (
	"context"
	"fmt"

	"github.com/raypher/raypher/parent/agents"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// whoCalls is the operator at the other end, for what not every operator may.
func whoCalls(ctx context.Context) (agents.Caller, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return agents.Caller{}, err
	}
	return agents.Caller{Task: c.task, UID: c.uid, Groups: c.groups}, nil
}

// Attach puts what runs in a cgroup under a policy.
func (s *operator) Attach(ctx context.Context, r *parentv1.AttachRequest) (*parentv1.AttachReply, error) {
	caller, err := whoCalls(ctx)
	if err != nil {
		return nil, err
	}
	a, err := s.server.options.Agents.Attach(ctx, caller, r)
	if err != nil {
		return nil, err
	}
	return &parentv1.AttachReply{Agent: a.Status(), Visa: a.Visa()}, nil
}

// ApplyPolicy gives a running agent other rules.
func (s *operator) ApplyPolicy(ctx context.Context, r *parentv1.ApplyPolicyRequest) (*parentv1.ApplyPolicyReply, error) {
	caller, err := whoCalls(ctx)
	if err != nil {
		return nil, err
	}
	return s.server.options.Agents.Apply(ctx, caller, r)
}

// Reload reads the host's files anew.
func (s *operator) Reload(context.Context, *parentv1.ReloadRequest) (*parentv1.ReloadReply, error) {
	changes, err := s.server.options.Reload()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", agents.ErrInvalid, err)
	}
	return &parentv1.ReloadReply{Changes: changes}, nil
}

// Detach lets an attached cgroup go.
func (s *operator) Detach(ctx context.Context, r *parentv1.DetachRequest) (*parentv1.DetachReply, error) {
	caller, err := whoCalls(ctx)
	if err == nil {
		err = s.server.options.Agents.LetGo(ctx, caller, r)
	}
	if err != nil {
		return nil, err
	}
	return &parentv1.DetachReply{}, nil
}
