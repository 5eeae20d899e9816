package server

import (
	"context"
	"fmt"

	"github.com/raypher/raypher/parent/agents"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
	"github.com/raypher/raypher/visa"
)

// agent serves the Agent service: what a governed program may ask about itself.
type agent struct {
	parentv1.UnimplementedAgentServer
	server *Server
}

func (s *agent) caller(ctx context.Context) (*agents.Agent, error) {
	c, err := callerOf(ctx)
	if err != nil {
		return nil, err
	}
	return s.server.asAgent(c)
}

// Whoami says what the caller is and may do.
func (s *agent) Whoami(ctx context.Context, _ *parentv1.WhoamiRequest) (*parentv1.Identity, error) {
	a, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	return a.Identity(), nil
}

// RequestVisa grants a narrower visa.
func (s *agent) RequestVisa(ctx context.Context, r *parentv1.RequestVisaRequest) (*parentv1.VisaReply, error) {
	a, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(r.Nonce); n != 0 && (n < visa.MinNonceSize || n > visa.MaxNonceSize) {
		return nil, fmt.Errorf("%w: a nonce of %d bytes: it has %d to %d", agents.ErrInvalid, n, visa.MinNonceSize, visa.MaxNonceSize)
	}
	if len(r.Audience) > visa.MaxText {
		return nil, fmt.Errorf("%w: an audience of %d bytes, at most %d", agents.ErrInvalid, len(r.Audience), visa.MaxText)
	}
	return a.RequestVisa(ctx, r)
}
