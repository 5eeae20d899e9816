package agents

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"

	"github.com/raypher/raypher/parent/attend"
)

// granted is what a warden learns at the launch and when it reattaches.
func (a *Agent) granted() *attend.Granted {
	g, o := a.current(), a.host.options
	return &attend.Granted{
		Terms:   a.terms(g.permit.Canonical()),
		AgentID: a.id, Subject: a.subject, Tier: a.tier, Backend: a.backend,
		PolicyHash: g.policyHash, Visa: g.visa,
		ExpiresUnix: g.expires, ExpiresBoottimeNs: g.deadline,
		Cgroup: a.group.Path(), VisaPath: o.Paths.Visa,
		Notes: a.notes, Development: a.development, Gateway: a.gateway,
	}
}

// Reattach gives an agent back to its warden, which a restart of raypherd or a broken connection took from it. The warden
// must be the same process, and must show what it was given at the launch: the agent itself, which may reach this
// raypherd through its warden, cannot.
func (h *Host) Reattach(caller Caller, r *attend.Reattach) (*Agent, error) {
	a, err := h.Agent(r.AgentID)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256(r.Secret)
	warden := a.wardenTask()
	same := warden != nil && warden.PID() == caller.Task.PID() && warden.Alive() && caller.Task.Alive()
	if !same || subtle.ConstantTimeCompare(hash[:], a.secretHash) != 1 || string(r.ConfirmationKey) != string(a.confirmation) {
		return nil, fmt.Errorf("%w: reattach: process %d is not the warden of agent %s", ErrNotAllowed, caller.Task.PID(), a.id)
	}
	return a, nil
}

// Attend connects the warden and calls send for each message to it, one at a time and Granted first, until the connection's ctx ends, another
// connection takes its place, or the agent is gone. The first error of send ends it too.
//
// secret is what Launch returned; nil after Reattach.
func (a *Agent) Attend(ctx context.Context, secret []byte, send func(*attend.ParentMessage) error) error {
	line := newOutbox()
	if !a.change(ctx, lineChange{line: line, secret: secret}) {
		return fmt.Errorf("agent %s: %w", a.id, ErrNoAgent)
	}
	defer a.change(context.WithoutCancel(ctx), lineChange{line: line, went: true})
	for {
		messages, closed := line.take()
		for _, m := range messages {
			if err := send(m); err != nil {
				return err
			}
		}
		if closed {
			return nil
		}
		select {
		case <-line.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Silent takes the warden's word that it has said everything. It is still told what the kernel refused; then its connection ends.
func (a *Agent) Silent() {
	a.mu.Lock()
	a.silent = true
	a.mu.Unlock()
	a.hangUp()
}

// Settle tells the warden what the kernel refused its agent until now, and that this was all.
func (a *Agent) Settle() {
	a.drain()
	a.mu.Lock()
	line := a.line
	a.mu.Unlock()
	if line != nil {
		line.show(&attend.ParentMessage{Settled: &attend.Settled{}}) // behind the others; a warden that reads too slowly waits no longer for them
	}
}

// toldAll notes that what the kernel refused the agent is told.
func (a *Agent) toldAll() {
	a.mu.Lock()
	a.told = true
	a.mu.Unlock()
	a.hangUp()
}

// hangUp ends the connection of a warden that neither has anything to say nor is to be told anything.
func (a *Agent) hangUp() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.told && a.silent && a.line != nil {
		a.line.close()
	}
}

// change tells the owner, unless there is none any more.
func (a *Agent) change(ctx context.Context, c lineChange) bool {
	select {
	case a.lines <- c:
		return true
	case <-a.gone:
	case <-a.host.ctx.Done():
	case <-ctx.Done():
	}
	return false
}

// Started takes the warden's word that the floor is in place.
func (a *Agent) Started() {
	select {
	case a.begun <- struct{}{}:
	default:
	}
}
