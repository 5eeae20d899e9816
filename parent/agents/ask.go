package agents

import (
	"errors"
	"fmt"
	"strings"

	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/approvals"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/guard/broker"
	"github.com/raypher/raypher/policy"
)

// Asked takes a question of the warden: a call of its agent waits for a person.
func (a *Agent) Asked(m *attend.Asked) error {
	q, err := journal.DecodeQuestion(m.Question)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	a.mu.Lock()
	ending := a.state == Ending
	a.mu.Unlock()
	if ending {
		return nil
	}
	if q.Operation == broker.OperationConnect && !strings.HasPrefix(q.Target, "/") {
		asks, err := a.asksToConnect(&q)
		if err != nil {
			return err
		}
		if !asks {
			a.tell(&attend.ParentMessage{Answered: &attend.Answered{ID: m.ID, Approved: true}})
			return nil
		}
	}
	if err := a.host.options.Approvals.Ask(a.asker(), m.ID, q, m.AskedBoottime, a.current().permit.ApprovalLimit()); err != nil {
		return err
	}
	a.Joined(&attend.Joined{ID: m.ID, Calls: m.Calls})
	return a.waits(m.ID, q)
}

// Joined takes how many equal calls wait for one answer.
func (a *Agent) Joined(m *attend.Joined) { a.host.options.Approvals.Joined(a.id, m.ID, m.Calls) }

// Withdrawn takes a question back: who waited is gone.
func (a *Agent) Withdrawn(number uint64) { a.host.options.Approvals.Withdraw(a.id, number) }

func (a *Agent) asker() approvals.Asker {
	return approvals.Asker{
		AgentID: a.id, Subject: a.subject,
		VisaID:  func() []byte { return a.current().visaID },
		Closed:  a.mayBeGranted,
		Release: a.opened,
	}
}

// mayBeGranted says why nothing can be granted to the agent now.
func (a *Agent) mayBeGranted() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.state == Ending:
		return fmt.Errorf("agent %s: %w: it ends", a.id, ErrNoAgent)
	case a.closed && mode(a.grant.permit) == policy.Enforce:
		return fmt.Errorf("agent %s: %w: its visa has ended and is not renewed yet: answer again when it is", a.id, ErrNotAllowed)
	case a.line == nil:
		return fmt.Errorf("agent %s: %w", a.id, errWardenAway)
	}
	return nil
}

var errWardenAway = errors.New("its warden is not connected: it asks again when it is back")

// release ends a question at the warden. The answer is on record.
func (a *Agent) release(q journal.Question, number uint64, approved bool, until int64) error {
	if approved {
		if err := a.permitted(q, until); err != nil {
			return fmt.Errorf("agent %s: the answer is on record: %w", a.id, err)
		}
	}
	a.mu.Lock()
	line := a.line
	a.mu.Unlock()
	if line == nil {
		return fmt.Errorf("agent %s: the answer is on record: %w", a.id, errWardenAway)
	}
	line.put(&attend.ParentMessage{Answered: &attend.Answered{ID: number, Approved: approved, UntilBoottimeNs: until}})
	return nil
}
