package server

import (
	"context"

	"google.golang.org/grpc"

	"github.com/raypher/raypher/parent/approvals"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// ListApprovals lists the calls that wait for a person, the oldest first.
func (s *operator) ListApprovals(_ context.Context, r *parentv1.ListApprovalsRequest) (*parentv1.ListApprovalsReply, error) {
	reply := &parentv1.ListApprovalsReply{}
	for _, q := range s.server.options.Approvals.List(r.AgentId) {
		reply.Questions = append(reply.Questions, question(q))
	}
	return reply, nil
}

// WatchApprovals sends what waits, and then each change.
func (s *operator) WatchApprovals(r *parentv1.WatchApprovalsRequest, stream grpc.ServerStreamingServer[parentv1.ApprovalChange]) error {
	waiting, watcher, err := s.server.options.Approvals.Watch(r.AgentId)
	if err != nil {
		return err
	}
	defer watcher.Close()
	for _, q := range waiting {
		if err := stream.Send(&parentv1.ApprovalChange{Question: question(q)}); err != nil {
			return err
		}
	}
	for {
		select {
		case c, open := <-watcher.C:
			if !open {
				return watcher.Err()
			}
			if err := stream.Send(&parentv1.ApprovalChange{Question: question(c.Question), Over: c.Over}); err != nil {
				return err
			}
		case <-s.server.ending:
			return errEnding
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// Answer answers a question, as who the kernel says is at the other end.
func (s *operator) Answer(ctx context.Context, r *parentv1.AnswerRequest) (*parentv1.AnswerReply, error) {
	who, err := personOf(ctx)
	if err != nil {
		return nil, err
	}
	// What is begun is ended, also when the caller goes away: it is on record or the question stays open.
	recorded, err := s.server.options.Approvals.Answer(context.WithoutCancel(ctx), r.Id,
		approvals.Answer{Approve: r.Approve, Scope: r.Scope, Always: r.Always}, who)
	if err != nil {
		return nil, err
	}
	s.server.options.Log.Info("a question was answered", "question", r.Id, "approved", r.Approve, "scope", r.Scope, "user", who.User)
	return &parentv1.AnswerReply{Epoch: recorded.Epoch, Index: recorded.Index, Proposal: recorded.Proposal}, nil
}

// ListProposals lists the changes of policies that answers proposed.
func (s *operator) ListProposals(context.Context, *parentv1.ListProposalsRequest) (*parentv1.ListProposalsReply, error) {
	all, err := s.server.options.Approvals.Proposals()
	if err != nil {
		return nil, err
	}
	reply := &parentv1.ListProposalsReply{}
	for _, p := range all {
		reply.Proposals = append(reply.Proposals, &parentv1.Proposal{Name: p.Name, Path: p.Path, Content: p.Content})
	}
	return reply, nil
}

func question(q approvals.Question) *parentv1.ApprovalQuestion {
	one := &parentv1.ApprovalQuestion{
		Id: q.ID, AgentId: q.AgentID, Subject: q.Subject, Operation: q.Operation, Target: q.Target, Other: q.Other,
		Rule: q.Rule, Pid: q.PID, Comm: q.Comm, AskedUnixNano: q.Asked.UnixNano(), Calls: q.Calls,
	}
	if !q.Until.IsZero() {
		one.UntilUnixNano = q.Until.UnixNano()
	}
	return one
}
