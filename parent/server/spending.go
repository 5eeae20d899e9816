package server

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/parent/spend"
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
	reply := spendingOf(status)
	if err := s.server.options.Enclave.Unread(); err != nil {
		reply.ReplayError = err.Error()
	}
	if r.Lines {
		reply.Lines, err = s.lines(ctx, status)
	}
	return reply, err
}

// lines are what this host's journal says of the month that the enclave's accounts are of, or of this one.
func (s *operator) lines(ctx context.Context, status *enclavev1.SpendingStatus) ([]*parentv1.OperatorSpendingLine, error) {
	zone := time.UTC
	if len(status.GetControl()) > 0 {
		control, _, err := cost.Read(status.GetControl())
		if err != nil {
			return nil, fmt.Errorf("the enclave's cost control: %w", err)
		}
		if zone, err = time.LoadLocation(control.TimeZone); err != nil {
			return nil, err
		}
	}
	month := status.GetPeriod()
	if month == "" {
		month = time.Now().In(zone).Format("2006-01")
	}
	lines, err := s.server.options.Spent.Lines(ctx, month, zone)
	if err != nil {
		return nil, err
	}
	var all []*parentv1.OperatorSpendingLine
	for _, l := range lines[:min(len(lines), maxLines)] {
		all = append(all, &parentv1.OperatorSpendingLine{
			Day: l.Day, Namespace: l.Namespace, Agent: l.Agent, Provider: l.Provider, Model: l.Model, Calls: l.Calls, Spent: l.Spent, Held: l.Held, Tokens: l.Tokens,
		})
	}
	return all, nil
}

// maxLines bounds an answer: the dearest.
const maxLines = 4096

// ExportSpending sends each call that is in the journal.
func (s *operator) ExportSpending(r *parentv1.OperatorExportSpendingRequest, stream grpc.ServerStreamingServer[parentv1.OperatorCall]) error {
	return s.server.options.Spent.Calls(stream.Context(), r.SinceUnixNano, func(c *spend.Call) error {
		return stream.Send(&parentv1.OperatorCall{
			Id: c.ID[:], BeganUnixNano: c.Began, EndedUnixNano: c.Ended, Namespace: c.Namespace, Agent: c.Agent, Run: c.Run, Provider: c.Provider,
			Model: c.Model, Worst: c.Worst, Outcome: c.Outcome, Spent: c.Spent, Tokens: c.Used, Control: c.Control[:], Prices: c.Prices[:],
			Epoch: c.Epoch[:], Index: c.Index,
		})
	})
}

// Budget says how the caps above the calling run stand. Of the wider ones an agent learns what they leave, and not what others have spent.
func (s *agent) Budget(ctx context.Context, _ *parentv1.AgentBudgetRequest) (*parentv1.AgentBudget, error) {
	a, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	status, err := s.server.options.Enclave.DescribeSpending(ctx, &enclavev1.DescribeSpendingRequest{Namespace: a.Namespace(), Agent: a.Name(), Run: a.ID()})
	if err != nil {
		return nil, err
	}
	reply := &parentv1.AgentBudget{}
	for _, account := range status.GetAccounts() {
		own := accountOf(account)
		if own.Level != "run" {
			own = &parentv1.OperatorSpendingAccount{Level: own.Level, Budget: left(account, status.GetUnaccounted())}
		} else if budget := a.Budget(); budget > 0 && (own.Budget == nil || budget < *own.Budget) {
			own.Budget = &budget
		}
		reply.Accounts = append(reply.Accounts, own)
	}
	return reply, nil
}

// left is what a budget leaves; nil: there is no budget.
func left(a *enclavev1.SpendingAccount, unaccounted uint64) *uint64 {
	if a.Budget == nil {
		return nil
	}
	used := a.GetSpent() + a.GetHeld() + a.GetLost()
	if a.GetLevel() != "host" {
		used += unaccounted
	}
	available := uint64(0)
	if !a.GetClosed() && used < a.GetBudget() {
		available = a.GetBudget() - used
	}
	return &available
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
