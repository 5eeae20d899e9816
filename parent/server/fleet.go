package server

import (
	"context"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// DescribeFleet says how this host stands with its controller: its enclave, and raypherd itself.
func (s *operator) DescribeFleet(ctx context.Context, _ *parentv1.OperatorDescribeFleetRequest) (*parentv1.OperatorFleetStatus, error) {
	e, err := s.server.options.Enclave.DescribeFleet(ctx)
	if err != nil {
		return nil, err
	}
	reply := &parentv1.OperatorFleetStatus{
		Controller: e.GetController(), Result: e.GetResult(), ResultExpiresUnix: e.GetResultExpiresUnix(), Error: e.GetError(),
		ExchangedUnix: e.GetExchangedUnix(), Secrets: e.GetSecrets(),
	}
	own := s.server.options.Fleet
	if own == nil {
		return reply, nil
	}
	status := own.Status()
	reply.PoliciesError = status.Error
	if !status.Until.IsZero() {
		reply.PoliciesUntilUnix = status.Until.Unix()
	}
	for _, p := range status.Policies {
		reply.Policies = append(reply.Policies, &parentv1.OperatorPolicy{Name: p.Name, Version: p.Version, CanaryPercent: p.Canary})
	}
	return reply, nil
}
