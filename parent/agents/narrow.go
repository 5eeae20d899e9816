package agents

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/policy"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// maxIntent bounds an intent, in bytes.
const maxIntent = 256 << 10

// An agent may ask for so many visas at once, and for so many a second in the long run: each is an entry of the journal, which
// an agent must not be able to fill the disk with.
const (
	visaBurst = 50
	visaRate  = 5.0
)

// allowance counts what an agent may still ask for.
type allowance struct {
	mu    sync.Mutex
	left  float64
	since time.Time
}

func (a *allowance) take() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.since.IsZero() {
		a.left = visaBurst
	} else {
		a.left = min(visaBurst, a.left+visaRate*now.Sub(a.since).Seconds())
	}
	a.since = now
	if a.left < 1 {
		return false
	}
	a.left--
	return true
}

// narrowing asks the owner to let the guard follow a grant.
type narrowing struct {
	grant grant
	bound *policy.Policy // of the operator, which the agent stays within from then on; nil: the agent asks itself
	done  chan error     // one slot
}

// RequestVisa grants a visa on an intent within the permit of the launch; empty: on the whole of it. If asked, the guard
// follows: kernel and warden then hold the agent to the intent, until the next request that the guard follows.
func (a *Agent) RequestVisa(ctx context.Context, r *parentv1.RequestVisaRequest) (*parentv1.VisaReply, error) {
	begun := boottime()
	if !a.visas.take() {
		return nil, fmt.Errorf("%w visas: agent %s may ask for %d at once and %v a second", ErrFull, a.id, visaBurst, visaRate)
	}
	intent, err := a.readIntent(r.Intent)
	if err != nil {
		return nil, err
	}
	g, reply, err := a.mint(ctx, begun, intent, r)
	if err != nil {
		return nil, err
	}
	answer := &parentv1.VisaReply{Visa: reply.Visa, Permit: reply.Permit, ExpiresUnix: reply.ExpiresUnix}
	if !r.GuardFollows {
		return answer, nil
	}
	if err := a.follow(ctx, &narrowing{grant: g, done: make(chan error, 1)}); err != nil {
		return nil, err
	}
	return answer, nil
}

// follow has the owner let the guard follow a grant.
func (a *Agent) follow(ctx context.Context, n *narrowing) error {
	select {
	case a.narrows <- n:
		return <-n.done // the owner answers each narrowing that it took
	case <-a.gone:
		return fmt.Errorf("agent %s: %w", a.id, ErrNoAgent)
	case <-a.host.ctx.Done():
		return fmt.Errorf("agent %s: raypherd ends", a.id)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readIntent returns the intent's canonical form, ~ expanded; nil for the whole permit.
func (a *Agent) readIntent(text []byte) ([]byte, error) {
	bound := a.bound()
	switch {
	case len(text) == 0 && bound == a.launchPermit:
		return nil, nil
	case len(text) == 0:
		return bound.Canonical(), nil
	}
	if len(text) > maxIntent {
		return nil, fmt.Errorf("%w: intent: %d bytes, at most %d", ErrInvalid, len(text), maxIntent)
	}
	written, err := policy.ParseIntent("intent", text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	intent, err := written.Expand(a.policyHome)
	if err != nil {
		return nil, fmt.Errorf("%w: intent: %w", ErrInvalid, err)
	}
	if _, err := policy.Narrow(bound, intent); err != nil {
		return nil, fmt.Errorf("%w: the intent is beyond what this run was granted: %w", ErrInvalid, err)
	}
	return intent.Canonical(), nil
}

// narrow lets the guard follow, the kernel first: in between the agent has the smaller of both.
func (o *owner) narrow(n *narrowing) error {
	if o.state != Running {
		return fmt.Errorf("agent %s is %s: the guard cannot follow now", o.id, o.state)
	}
	if o.line == nil && o.attached == "" {
		return fmt.Errorf("agent %s: its warden is not connected: the guard cannot follow now, try again", o.id)
	}
	if err := o.withinBound(n); err != nil {
		return err
	}
	if err := o.host.options.Guard.Replace(o.group.ID(), n.grant.permit.Network); err != nil {
		return fmt.Errorf("network guard: %w", err)
	}
	if err := o.host.options.Guard.Renew(o.group.ID(), n.grant.deadline); err != nil {
		return fmt.Errorf("network guard: %w", err)
	}
	if err := errors.Join(o.reloadFiles(n.grant), o.extendFiles(n.grant)); err != nil {
		// What an operator took away before, and this would have given back, would else stay open: no renewal of the same permit writes it.
		return errors.Join(err, o.host.options.Guard.Replace(o.group.ID(), o.current().permit.Network))
	}
	if n.bound != nil {
		o.mu.Lock()
		o.applied = n.bound
		o.mu.Unlock()
	}
	o.take(n.grant)
	o.tell(narrowed(n.grant))
	return nil
}

// narrowed tells a warden to hold its agent to another permit from now on.
func narrowed(g grant) *attend.ParentMessage {
	return &attend.ParentMessage{Narrowed: &attend.Narrowed{
		Permit: g.permit.Canonical(), Visa: g.visa, ExpiresUnix: g.expires, ExpiresBoottimeNs: g.deadline,
	}}
}
