package server

import (
	"context"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// InstallControl hands a cost control to the enclave, which checks the operator's signature.
func (s *operator) InstallControl(ctx context.Context, r *parentv1.OperatorInstallControlRequest) (*parentv1.OperatorSpending, error) {
	status, err := s.server.options.Enclave.InstallControl(ctx, &enclavev1.InstallControlRequest{Signed: r.Signed, Source: r.Source})
	if err != nil {
		return nil, err
	}
	s.server.options.Log.Info("a new cost control is in force")
	return spendingOf(status), nil
}

// TopUp gives more to spend, in development.
func (s *operator) TopUp(ctx context.Context, r *parentv1.OperatorTopUpRequest) (*parentv1.OperatorSpending, error) {
	status, err := s.server.options.Enclave.TopUp(ctx, r.Amount)
	if err != nil {
		return nil, err
	}
	return spendingOf(status), nil
}

// DescribeSpending says what may be spent and what was.
func (s *operator) DescribeSpending(ctx context.Context, r *parentv1.OperatorDescribeSpendingRequest) (*parentv1.OperatorSpending, error) {
	status, err := s.server.options.Enclave.DescribeSpending(ctx, &enclavev1.DescribeSpendingRequest{})
	if err != nil {
		return nil, err
	}
	return spendingOf(status), nil
}

func spendingOf(s *enclavev1.SpendingStatus) *parentv1.OperatorSpending {
	reply := &parentv1.OperatorSpending{
		Unread: s.GetUnread(), Control: s.GetControl(), Missing: s.GetMissing(), HighestVersion: s.GetHighestVersion(), Period: s.GetPeriod(),
		LeftOff: s.GetLeftOff(), Unaccounted: s.GetUnaccounted(), Paused: s.GetPaused(), Development: s.GetDevelopment(), Grant: grantStatus(s.GetGrant()),
	}
	for _, a := range s.GetAccounts() {
		reply.Accounts = append(reply.Accounts, accountOf(a))
	}
	return reply
}

func accountOf(a *enclavev1.SpendingAccount) *parentv1.OperatorSpendingAccount {
	return &parentv1.OperatorSpendingAccount{
		Level: a.GetLevel(), Name: a.GetName(), Spent: a.GetSpent(), Held: a.GetHeld(), Lost: a.GetLost(), Closed: a.GetClosed(),
		Requests: a.GetRequests(), Tokens: a.GetTokens(), Budget: a.Budget, RequestsPerMinute: a.RequestsPerMinute, TokensPerDay: a.TokensPerDay,
	}
}
