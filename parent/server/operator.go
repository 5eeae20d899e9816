package server

import (
	"context"
	"maps"

	"google.golang.org/grpc"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/events"
	"github.com/raypher/raypher/parent/namespaces"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// operator serves the Operator service: the host's administrators.
type operator struct {
	parentv1.UnimplementedOperatorServer
	server *Server
}

// Status says what this raypherd is and how it does.
func (s *operator) Status(ctx context.Context, _ *parentv1.StatusRequest) (*parentv1.StatusReply, error) {
	o := s.server.options
	counters := o.Events.Counters()
	if o.Counters != nil {
		maps.Copy(counters, o.Counters())
	}
	reply := &parentv1.StatusReply{
		Version: o.Version, Backend: o.Backend, Notes: o.Notes, Counters: counters,
		Agents: uint32(len(o.Agents.List())), Namespaces: namespaceUse(o.Agents), EnclaveReachable: o.Enclave.Reachable() == nil,
	}
	d, err := o.Enclave.Describe(ctx)
	if err != nil {
		reply.EnclaveReachable = false
		reply.Notes = append(reply.Notes[:len(reply.Notes):len(reply.Notes)], "the enclave does not answer: "+words(err))
		return reply, nil
	}
	reply.Tier, reply.EnclaveKey, reply.Epoch = d.Tier, d.PublicKey, d.Epoch
	reply.CeilingVersion, reply.Development = d.CeilingVersion, d.Development
	return reply, nil
}

// ListAgents lists the agents, the oldest first.
func (s *operator) ListAgents(context.Context, *parentv1.ListAgentsRequest) (*parentv1.ListAgentsReply, error) {
	reply := &parentv1.ListAgentsReply{Namespaces: namespaceUse(s.server.options.Agents)}
	for _, a := range s.server.options.Agents.List() {
		reply.Agents = append(reply.Agents, a.Status())
	}
	return reply, nil
}

// namespaceUse is what namespaces have given to their agents.
func namespaceUse(h *agents.Host) (all []*parentv1.NamespaceUse) {
	amount := func(a namespaces.Amount) *parentv1.NamespaceAmount {
		return &parentv1.NamespaceAmount{Used: a.Used, Limit: a.Limit, Endless: a.Endless}
	}
	for _, u := range h.Namespaces() {
		all = append(all, &parentv1.NamespaceUse{
			Namespace: u.Namespace, Agents: amount(u.Agents), MemoryMb: amount(u.MemoryMB), Processes: amount(u.Processes), Fds: amount(u.FDs),
		})
	}
	return all
}

// StopAgent ends an agent and answers when it is gone.
func (s *operator) StopAgent(ctx context.Context, r *parentv1.StopAgentRequest) (*parentv1.StopAgentReply, error) {
	caller, err := whoCalls(ctx)
	if err == nil {
		err = s.server.options.Agents.StopFor(ctx, caller, r.AgentId)
	}
	if err != nil {
		return nil, err
	}
	return &parentv1.StopAgentReply{}, nil
}

// Events sends the latest events, and with follow those that come.
func (s *operator) Events(r *parentv1.EventsRequest, stream grpc.ServerStreamingServer[parentv1.Event]) error {
	latest, subscription := s.server.options.Events.Subscribe(r.AgentId)
	defer subscription.Close()
	for _, e := range latest {
		if err := sendEvent(stream, e); err != nil {
			return err
		}
	}
	if !r.Follow {
		return nil
	}
	for {
		select {
		case e, open := <-subscription.C:
			if !open {
				return subscription.Err()
			}
			if err := sendEvent(stream, e); err != nil {
				return err
			}
		case <-s.server.ending:
			return errEnding
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func sendEvent(stream grpc.ServerStreamingServer[parentv1.Event], e events.Event) error {
	encoded, err := journal.EncodeVerdict(e.Verdict)
	if err != nil {
		return err
	}
	return stream.Send(&parentv1.Event{Verdict: encoded, Epoch: e.Epoch, Index: e.Index})
}

// ListEvidence sends every recorded verdict.
func (s *operator) ListEvidence(r *parentv1.ListEvidenceRequest, stream grpc.ServerStreamingServer[parentv1.EvidenceItem]) error {
	return s.server.options.Evidence.List(stream.Context(), r.AgentId, stream.Send)
}

// ExportEvidence returns the proof of one entry.
func (s *operator) ExportEvidence(ctx context.Context, r *parentv1.ExportEvidenceRequest) (*parentv1.EvidenceBundle, error) {
	bundle, err := s.server.options.Evidence.Export(ctx, r.Epoch, r.Index)
	if err != nil {
		return nil, err
	}
	return &parentv1.EvidenceBundle{Bundle: bundle}, nil
}

// InstallCeiling hands a ceiling to the enclave, which checks the operator's signature.
func (s *operator) InstallCeiling(ctx context.Context, r *parentv1.OperatorInstallCeilingRequest) (*parentv1.StatusReply, error) {
	if _, err := s.server.options.Enclave.InstallCeiling(ctx, r.Bundle); err != nil {
		return nil, err
	}
	s.server.options.Log.Info("a new ceiling is in force")
	return s.Status(ctx, &parentv1.StatusRequest{})
}

// Attest asks the enclave for evidence of its key; the nonce is the verifier's.
func (s *operator) Attest(ctx context.Context, r *parentv1.OperatorAttestRequest) (*parentv1.OperatorAttestation, error) {
	e, err := s.server.options.Enclave.Attest(ctx, r.Nonce)
	if err != nil {
		return nil, err
	}
	return &parentv1.OperatorAttestation{Tier: e.GetTier(), Document: e.GetDocument()}, nil
}

// InstallGrant hands a grant of credit to the enclave, which checks the operator's signature.
func (s *operator) InstallGrant(ctx context.Context, r *parentv1.OperatorInstallGrantRequest) (*parentv1.OperatorGrantStatus, error) {
	status, err := s.server.options.Enclave.InstallGrant(ctx, r.Grant)
	if err != nil {
		return nil, err
	}
	s.server.options.Log.Info("a new grant is in force")
	return grantStatus(status), nil
}

// DescribeGrant says how credit stands.
func (s *operator) DescribeGrant(ctx context.Context, _ *parentv1.OperatorDescribeGrantRequest) (*parentv1.OperatorGrantStatus, error) {
	status, err := s.server.options.Enclave.DescribeGrant(ctx)
	if err != nil {
		return nil, err
	}
	return grantStatus(status), nil
}

func grantStatus(s *enclavev1.GrantStatus) *parentv1.OperatorGrantStatus {
	return &parentv1.OperatorGrantStatus{
		Anchor: s.GetAnchor(), AnchorTier: s.GetAnchorTier(), Counter: s.GetCounter(), HighestVersion: s.GetHighestVersion(),
		AnchorError: s.GetAnchorError(), Grant: s.GetGrant(), Taken: s.GetTaken(), Open: s.GetOpen(), Left: s.GetLeft(), Closed: s.GetClosed(), Ahead: s.GetAhead(),
	}
}
