package enclave

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/enclave/spending"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// MaxAccounts is how many accounts of a level DescribeSpending lists: those that spent most.
const MaxAccounts = 4096

// openSpending opens the ledger of money on the journal.
func (s *Server) openSpending() (err error) {
	development, err := s.developmentKey()
	if err != nil {
		return err
	}
	if err := s.openAlerts(); err != nil {
		return err
	}
	s.spends, err = spending.Open(spending.Options{
		State: s.opts.State, OperatorKeys: s.opts.Configuration.OperatorKeys, Anchor: s.anchor(), Journal: ledger.Sequenced(s.journal), Size: s.journal.Size,
		Record: func(ctx context.Context, entry []byte) error { return onRecord{s.journal}.Append(ctx, entry) }, Log: s.opts.Log, Development: development,
		Alarm: s.alerts.Alarmed, Began: s.alerts.Began, Waits: s.waits,
	})
	return err
}

// developmentKey is the operator key that signs what nobody has signed; nil: not in development.
func (s *Server) developmentKey() (crypto.Signer, error) {
	if !s.opts.Development {
		return nil, nil
	}
	key, _, err := ceiling.DevelopmentKey(s.opts.State)
	if err != nil {
		return nil, err // and no key, which would be one of nothing
	}
	return key, nil
}

// began is told what this epoch follows.
func (s *Server) began(predecessor *journal.Predecessor) {
	if predecessor != nil {
		s.follows.Store(predecessor)
		return // what was spent before is for Replay to say
	}
	if err := s.spends.Begin(nil); err != nil {
		s.opts.Log.Error("ledger", "error", err)
	}
}

// InstallControl implements the service. The cost control is on record in the journal before it is in force.
func (s *Server) InstallControl(ctx context.Context, r *enclavev1.InstallControlRequest) (*enclavev1.SpendingStatus, error) {
	install, file := s.spends.InstallControl, r.GetSigned()
	if len(file) == 0 {
		install, file = s.spends.InstallSource, r.GetSource()
	}
	c, err := install(ctx, file)
	var mistakes cost.Errors
	if errors.As(err, &mistakes) {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err != nil {
		return nil, err
	}
	s.opts.Log.Info("cost control in force", "version", c.Version, "hash", fmt.Sprintf("%x", c.Hash()), "providers", len(c.Providers))
	return s.DescribeSpending(ctx, nil)
}

// TopUp implements the service.
func (s *Server) TopUp(ctx context.Context, r *enclavev1.TopUpRequest) (*enclavev1.SpendingStatus, error) {
	if r.GetAmount() == 0 || cost.Amount(r.GetAmount()) > cost.MaxAmount {
		return nil, status.Errorf(codes.InvalidArgument, "top up: %d micro-dollars: use 1 to %d", r.GetAmount(), uint64(cost.MaxAmount))
	}
	c, err := s.spends.TopUp(ctx, cost.Amount(r.GetAmount()))
	if err != nil {
		return nil, err
	}
	s.opts.Log.Warn("development: topped up", "usd", cost.Amount(r.GetAmount()).String(), "version", c.Version)
	return s.DescribeSpending(ctx, nil)
}

// DescribeSpending implements the service.
func (s *Server) DescribeSpending(ctx context.Context, r *enclavev1.DescribeSpendingRequest) (*enclavev1.SpendingStatus, error) {
	grant, err := s.DescribeGrant(ctx, nil)
	if err != nil {
		return nil, err
	}
	report := s.spends.Ledger().Report(r.GetNamespace(), r.GetAgent(), r.GetRun())
	budgets := s.runs.Budgets()
	reply := &enclavev1.SpendingStatus{
		Unread: report.Unread, Control: s.spends.Signed(), HighestVersion: s.spends.Floor(), Period: report.Period, Unaccounted: uint64(report.Unaccounted),
		Paused: uint32(s.spends.Paused()), Development: s.opts.Development, Grant: grant,
	}
	if p := s.follows.Load(); p != nil {
		reply.FollowsEpoch, reply.FollowsSize = p.Epoch[:], p.Size
	}
	if _, err := s.spends.Control(); err != nil {
		reply.Missing = err.Error()
	}
	listed := map[int]int{}
	for _, a := range report.Accounts {
		if listed[a.Level]++; listed[a.Level] > MaxAccounts {
			reply.LeftOff++
			continue
		}
		if a.Level == ledger.Run {
			a.Limits.Budget = budgetOfRun(&a, budgets, r.GetRun() != "")
		}
		reply.Accounts = append(reply.Accounts, accountOf(&a))
	}
	return reply, nil
}

// budgetOfRun is what a run may spend in its life: the narrower of what the cost control says and what its visas named. With which budget
// a run was started that ended before this enclave began nobody knows here, so that of such a run none is shown, unless it is asked for.
func budgetOfRun(a *ledger.Account, budgets map[string]uint64, asked bool) *cost.Amount {
	own, known := budgets[a.Name[strings.LastIndexByte(a.Name, '/')+1:]]
	switch limit := a.Limits.Budget; {
	case !known && !asked:
		return nil
	case own > 0 && (limit == nil || own < uint64(*limit)):
		return (*cost.Amount)(&own)
	default:
		return limit
	}
}

func accountOf(a *ledger.Account) *enclavev1.SpendingAccount {
	return &enclavev1.SpendingAccount{
		Level: ledger.LevelName(a.Level), Name: a.Name, Spent: uint64(a.Spent), Held: uint64(a.Held), Lost: uint64(a.Lost), Closed: a.Closed,
		Requests: a.Requests, Tokens: a.Tokens, Budget: (*uint64)(a.Limits.Budget), RequestsPerMinute: a.Limits.RequestsPerMinute, TokensPerDay: a.Limits.TokensPerDay,
	}
}

// Replay implements the service: the parent shows what its journal holds of the epochs before this one. Whatever is wrong with it leaves
// everything as it was, and the parent may show it again.
func (s *Server) Replay(stream enclavev1.Enclave_ReplayServer) error {
	predecessor := s.follows.Load()
	switch {
	case !s.spends.Ledger().Unread():
		return status.Error(codes.FailedPrecondition, "replay: the ledger knows its journal already")
	case predecessor == nil:
		return status.Error(codes.FailedPrecondition, "replay: no store is attached yet: first Persist")
	}
	replay := ledger.NewReplay(s.opts.Configuration.OperatorKeys)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := shown(replay, m); err != nil {
			return status.Error(codes.FailedPrecondition, err.Error())
		}
	}
	fold, err := replay.End(predecessor)
	if err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	if err := s.spends.Begin(fold); err != nil {
		return err
	}
	s.opts.Log.Info("the ledger knows its journal", "entries", replay.Entries)
	if replay.Entries >= spending.LongReplay {
		s.spends.SnapshotSoon()
	}
	return stream.SendAndClose(&enclavev1.ReplayReply{Entries: replay.Entries})
}

// shown takes one message.
func shown(replay *ledger.Replay, m *enclavev1.ReplayRequest) error {
	if e := m.GetEpoch(); e != nil {
		id, err := journal.ParseEpochID(e.GetEpoch())
		if err != nil {
			return fmt.Errorf("%w: %w", ledger.ErrReplay, err)
		}
		edge := make([]journal.Hash, len(e.GetEdge()))
		for i, h := range e.GetEdge() {
			if copy(edge[i][:], h) != len(h) || len(h) != len(edge[i]) {
				return fmt.Errorf("%w: a hash of %d bytes", ledger.ErrReplay, len(h))
			}
		}
		if err := replay.Epoch(id, e.GetFirstIndex(), edge); err != nil {
			return err
		}
	}
	if len(m.GetEntries()) == 0 {
		return nil
	}
	return replay.Read(m.GetEntries()...)
}
