package spending

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/ledger"
)

// developmentControl is what is in force in development before an operator has said anything: a budget that hurts nobody, and no providers. With
// the first provider agents lose the keys that they inherit and every path past the gateway, which somebody has to want.
const developmentControl = `
version: 1
time_zone: UTC
monthly_budget_usd: 20
`

// developmentLeases is into how many leases a grant of development is cut: a restart loses one, and a file does not wear out.
const developmentLeases = 200

// ErrOperator: what only an operator's signature allows outside of development.
var ErrOperator = errors.New("only in development does the enclave sign for whoever asks: sign it with an operator key and install it")

// developControl puts the cost control of development in force, where none was ever installed. It is on record as the one that was
// in force when the epoch began.
func (s *Spending) developControl() error {
	if s.force != nil || s.floor > 0 {
		return nil
	}
	c, signed, err := s.signControl([]byte(developmentControl))
	if err != nil {
		return err
	}
	if err := s.keep(c, signed); err != nil {
		return fmt.Errorf("make the cost control of development: %w", err)
	}
	s.force, s.missing, s.floor = s.enforce(c, signed), nil, c.Version
	s.opts.Log.Warn("development: made a cost control", "monthly_budget_usd", *c.Host.Budget, "file", ControlFile)
	return nil
}

func (s *Spending) signControl(source []byte) (*cost.Control, []byte, error) {
	c, err := cost.Parse("cost_control.yaml", source)
	if err != nil {
		return nil, nil, err
	}
	signed, err := c.Sign(s.opts.Development)
	return c, signed, err
}

// InstallSource puts a cost_control.yaml in force that nobody has signed, in development only.
func (s *Spending) InstallSource(ctx context.Context, source []byte) (*cost.Control, error) {
	if s.opts.Development == nil {
		return nil, ErrOperator
	}
	c, signed, err := s.signControl(source)
	if err != nil {
		return nil, err
	}
	if _, err := s.InstallControl(ctx, signed); err != nil {
		return nil, err
	}
	return c, nil
}

// reserve is Reserve without the pause. In development the grant of a month is made when the first call asks for it.
func (s *Spending) reserve(ctx context.Context, c *ledger.Call) error {
	err := s.ledger.Reserve(ctx, c)
	if s.opts.Development == nil || !errors.Is(err, lease.ErrNoCredit) {
		return err
	}
	made, failed := s.developGrant(ctx)
	if failed != nil {
		return errors.Join(err, failed)
	}
	if !made {
		return err
	}
	return s.ledger.Reserve(ctx, c)
}

// developGrant makes the grant of development, where there is none for this month.
func (s *Spending) developGrant(ctx context.Context) (made bool, err error) {
	s.developing.Lock()
	defer s.developing.Unlock()
	control, err := s.Control()
	if err != nil {
		return false, err
	}
	status, err := s.Credit(ctx)
	if err != nil {
		return false, err
	}
	if now := s.opts.Now().Unix(); status.Grant != nil && now < status.Grant.NotAfter {
		return status.Closed == nil, nil // somebody else made it just now, or an operator's is in force
	}
	most := uint64(1)
	if b := control.Host.Budget; b != nil {
		most = max(most, min(uint64(*b), lease.MaxCap))
	}
	return true, s.signGrant(ctx, control, status, most)
}

func (s *Spending) signGrant(ctx context.Context, control *cost.Control, status lease.Status, most uint64) error {
	g := &lease.Grant{
		Version: status.Version + 1, Period: control.MonthOf(s.opts.Now()), Zone: control.TimeZone, Unit: lease.MicroUSD,
		Cap: most, Lease: (most + developmentLeases - 1) / developmentLeases, Anchor: status.Anchor, Baseline: status.Counter,
	}
	if status.Grant != nil {
		g.Version = max(g.Version, status.Grant.Version+1)
	}
	begin, end, err := control.Month(g.Period)
	if err != nil {
		return err
	}
	g.NotBefore, g.NotAfter = begin.Unix(), end.Unix()
	signed, err := lease.Sign(g, s.opts.Development)
	if err != nil {
		return err
	}
	if _, err := s.InstallGrant(ctx, signed); err != nil {
		return fmt.Errorf("make the grant of development: %w", err)
	}
	s.opts.Log.Warn("development: made a grant; its counter is a file, which is no protection", "period", g.Period, "usd", cost.Amount(most).String())
	return nil
}

// TopUp raises the host's budget by an amount and gives as much more credit, where there is not enough for the raised budget, in development
// only: another grant costs what the lease in use still holds.
func (s *Spending) TopUp(ctx context.Context, more cost.Amount) (*cost.Control, error) {
	if s.opts.Development == nil {
		return nil, ErrOperator
	}
	s.developing.Lock()
	defer s.developing.Unlock()
	control, err := s.Control()
	if err != nil {
		return nil, err
	}
	raised, err := control.Raised(more, s.Floor()+1)
	if err != nil {
		return nil, err
	}
	signed, err := raised.Sign(s.opts.Development)
	if err != nil {
		return nil, err
	}
	status, err := s.Credit(ctx)
	if err != nil {
		return nil, err
	}
	if left, wanted := s.credit(raised, status, more); left < wanted {
		if err := s.signGrant(ctx, raised, status, min(wanted, lease.MaxCap)); err != nil {
			return nil, err
		}
	}
	return s.InstallControl(ctx, signed)
}

// credit is what is left of the grant in force, and what a cost control wants: all that its budget leaves the host; more, where it has none.
func (s *Spending) credit(c *cost.Control, status lease.Status, more cost.Amount) (left, wanted uint64) {
	used := cost.Amount(0) // this month, of which a grant in force is
	if status.Grant != nil && status.Closed == nil && s.opts.Now().Unix() < status.Grant.NotAfter {
		b := s.ledger.Balance(ledger.Host, "")
		left, used = status.Left+status.Open, b.Spent+b.Held+b.Lost
	}
	if c.Host.Budget == nil {
		return left, left + uint64(more)
	}
	return left, uint64(*c.Host.Budget - min(*c.Host.Budget, used))
}

// pauseFor is how long a call waits; tests wait less.
func (s *Spending) pauseFor() time.Duration {
	if s.opts.Pause > 0 {
		return s.opts.Pause
	}
	return PauseLimit
}
