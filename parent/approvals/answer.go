package approvals

import (
	"context"
	"fmt"
	"time"

	"github.com/raypher/raypher/journal"
)

// Answer is what a person says.
type Answer struct {
	Approve bool
	Scope   string // once (also empty) | run | a duration like 15m, up to MaxDuration; of a refusal: once
	// Always writes a proposed change of the policy beside. It grants nothing by itself.
	Always bool
}

// Recorded is where an answer lies.
type Recorded struct {
	Epoch    []byte
	Index    uint64
	Proposal string // path; empty: none was asked for
}

// parse checks an answer and returns how it is recorded.
func (a Answer) parse() (scope string, duration time.Duration, err error) {
	switch a.Scope {
	case "", journal.ScopeOnce:
		scope = journal.ScopeOnce
	case journal.ScopeRun:
		scope = journal.ScopeRun
	default:
		scope = journal.ScopeDuration
		duration, err = time.ParseDuration(a.Scope)
		if err != nil || duration < time.Second || duration > MaxDuration {
			return "", 0, fmt.Errorf("%w: %.32q: write once, run, or a duration from 1s to %s like 15m", ErrInvalid, a.Scope, "24h")
		}
	}
	if !a.Approve && (scope != journal.ScopeOnce || a.Always) {
		return "", 0, fmt.Errorf("%w: a refusal is for the calls that wait: what must never be asked again belongs into deny of the policy", ErrInvalid)
	}
	return scope, duration, nil
}

// Answer answers a question: it is put on record, and then the calls that wait go on or fail. who is known from the kernel.
func (d *Desk) Answer(ctx context.Context, id string, a Answer, who journal.Person) (*Recorded, error) {
	scope, duration, err := a.parse()
	if err != nil {
		return nil, err
	}
	one, err := d.claim(id)
	if err != nil {
		return nil, err
	}
	if a.Approve {
		if err := one.asker.Closed(); err != nil {
			d.unclaim(one)
			return nil, err
		}
	}
	entry := one.entry(journal.Deny)
	entry.Who = &who
	if a.Approve {
		entry.Decision, entry.Scope, entry.Seconds, entry.Proposed = journal.Approve, scope, uint64(duration/time.Second), a.Always
	}
	recorded := &Recorded{}
	if a.Always {
		if recorded.Proposal, err = d.propose(one, who); err != nil {
			d.unclaim(one)
			return nil, err
		}
	}
	if recorded.Epoch, recorded.Index, err = d.record(ctx, entry); err != nil {
		d.unclaim(one)
		return nil, fmt.Errorf("%w: %w", ErrRecorded, err)
	}
	until := int64(0)
	switch scope {
	case journal.ScopeRun:
		until = Always
	case journal.ScopeDuration:
		until = boottime() + int64(duration)
	}
	return recorded, d.release(one, entry.Decision, until)
}

// claim makes the caller the one who answers a question.
func (d *Desk) claim(id string) (*open, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	one := d.open[id]
	if one == nil {
		return nil, fmt.Errorf("question %.128q: %w: it was answered, or nobody waits for it any more: `raypher approvals list` names those that wait", id, ErrNone)
	}
	if one.answering {
		return nil, fmt.Errorf("question %s: %w: somebody answers it at this moment", id, ErrNone)
	}
	one.answering = true
	return one, nil
}

// unclaim leaves a question open.
func (d *Desk) unclaim(one *open) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	one.answering = false
	if one.withdrawn {
		d.drop(one, "gone")
	}
}

// release ends a question whose answer is on record.
func (d *Desk) release(one *open, decision string, until int64) error {
	err := one.asker.Release(one.Question.Question, one.number, decision == journal.Approve, until)
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.drop(one, decision)
	return err
}

func (d *Desk) record(ctx context.Context, entry journal.Approval) ([]byte, uint64, error) {
	raw, err := entry.Encode()
	if err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, recordTimeout)
	defer cancel()
	return d.options.Record(ctx, raw)
}

func (o *open) entry(decision string) journal.Approval {
	return journal.Approval{
		Time: time.Now().UnixNano(), Asked: o.Asked.UnixNano(), AgentID: o.AgentID, Subject: o.Subject, VisaID: o.asker.VisaID(),
		Question: o.Question.Question, Decision: decision, Scope: journal.ScopeOnce,
	}
}

// expire refuses a question that nobody answered in time. It is tried again while that cannot be recorded.
func (d *Desk) expire(one *open) {
	d.mutex.Lock()
	if d.ended || d.open[one.ID] != one {
		d.mutex.Unlock()
		return
	}
	if one.answering {
		one.timer.Reset(recordRetry)
		d.mutex.Unlock()
		return
	}
	one.answering = true
	d.mutex.Unlock()
	if _, _, err := d.record(context.Background(), one.entry(journal.Timeout)); err != nil {
		d.options.Log.Warn("nobody answered in time, and that is not on record yet: the call waits on", "question", one.ID, "error", err)
		d.unclaim(one)
		d.mutex.Lock()
		defer d.mutex.Unlock()
		if !d.ended && d.open[one.ID] == one {
			one.timer.Reset(recordRetry)
		}
		return
	}
	if err := d.release(one, journal.Timeout, 0); err != nil {
		d.options.Log.Warn("a call that nobody answered in time", "question", one.ID, "error", err)
	}
}
