package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/attend"
)

// firstTimeout is how long a warden may take to say what it wants.
const firstTimeout = 10 * time.Second

// lastWords is how long a warden is heard after its agent is gone.
const lastWords = 3 * time.Second

// lastShown bounds how long a warden that has said everything is still told what the kernel refused. Its agent has ended, so that is a
// matter of milliseconds on a machine that has time.
const lastShown = 10 * time.Second

// wardens serves wardens, in the sessions of package attend.
type wardens struct {
	server *Server
	open   sync.WaitGroup
}

// take serves a connection in a goroutine of its own, and closes it in the end. What goes wrong is the session's last message.
func (w *wardens) take(conn net.Conn, c *caller) {
	w.open.Go(func() {
		session := attend.Accept(conn)
		defer session.Close()
		if err := w.serve(session, c); err != nil {
			session.Hurry()
			_ = session.Send(&attend.ParentMessage{Refused: &attend.Refused{Reason: words(err)}}) // gone or deaf, if it fails
		}
	})
}

// errPanicked ends the session in which raypherd panicked, and nothing else.
var errPanicked = errors.New("raypherd failed at this call: its log says where")

func (w *wardens) serve(session *attend.Accepted, c *caller) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			w.server.options.Log.Error("a session panicked", "panic", panicked, "stack", string(debug.Stack()))
			w.server.options.Events.Count("panics", 1)
			err = errPanicked
		}
	}()
	if err := w.server.asMember(c); err != nil {
		return err // Launch and Reattach look closer
	}
	return w.attend(session, c)
}

// attend serves one warden until its agent is gone.
func (w *wardens) attend(session *attend.Accepted, c *caller) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	defer context.AfterFunc(ctx, session.Hurry)() // a warden that does not listen must not keep raypherd from ending
	go func() {
		select {
		case <-w.server.ending:
			cancel(errEnding)
		case <-ctx.Done():
		}
	}()
	messages, silent := receive(ctx, session, cancel)
	var first *attend.WardenMessage
	select {
	case first = <-messages:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(firstTimeout):
		return fmt.Errorf("%w: the first message, Launch or Reattach, did not come", agents.ErrInvalid)
	}
	a, secret, err := w.begin(ctx, c, first, session)
	if err != nil {
		return err
	}
	hearing := make(chan struct{})
	go func() {
		defer close(hearing)
		w.hear(ctx, a, messages, silent)
	}()
	err = a.Attend(ctx, secret, session.Send)
	if err == nil {
		// The agent is gone; the warden may still have to say what it refused last.
		select {
		case <-ctx.Done():
		case <-silent:
		case <-time.After(lastWords):
		}
	}
	cancel(nil)
	<-hearing
	if errors.Is(context.Cause(ctx), errEnding) {
		return errEnding
	}
	if errors.Is(err, context.Canceled) {
		return nil // the warden went; what becomes of its agent is the agent's business
	}
	return err
}

// receive reads the session into a channel, so that waiting for it can end, and closes silent when the warden has said everything. The
// goroutine ends with the session.
func receive(ctx context.Context, session *attend.Accepted, cancel context.CancelCauseFunc) (_ <-chan *attend.WardenMessage, silent <-chan struct{}) {
	messages, said := make(chan *attend.WardenMessage), make(chan struct{})
	go func() {
		for {
			m, err := session.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) {
					close(said) // it reads on for what the kernel refused last
					select {
					case <-ctx.Done():
					case <-time.After(lastShown):
					}
					err = context.Canceled
				}
				cancel(err)
				return
			}
			select {
			case messages <- m:
			case <-ctx.Done():
				return
			}
		}
	}()
	return messages, said
}

// begin makes or finds the agent.
func (w *wardens) begin(ctx context.Context, c *caller, first *attend.WardenMessage, session *attend.Accepted) (*agents.Agent, []byte, error) {
	who := agents.Caller{Task: c.task, UID: c.uid, Groups: c.groups}
	switch {
	case first.Launch != nil:
		expect := func(t attend.Terms) { _ = session.Send(&attend.ParentMessage{Expected: &t}) } // that it has gone is seen by who receives
		a, secret, err := w.server.options.Agents.Launch(ctx, who, first.Launch, expect)
		if err != nil {
			w.server.options.Events.Count("launches_refused", 1)
			w.server.options.Log.Warn("launch refused", "user", c.uid, "program", first.Launch.Program, "reason", words(err))
		}
		return a, secret, err
	case first.Reattach != nil:
		a, err := w.server.options.Agents.Reattach(who, first.Reattach)
		return a, nil, err
	}
	return nil, nil, fmt.Errorf("%w: the first message is neither Launch nor Reattach", agents.ErrInvalid)
}

// hear takes what the warden says while its agent lives. A verdict that cannot be read is counted as lost; the next one is heard.
func (w *wardens) hear(ctx context.Context, a *agents.Agent, messages <-chan *attend.WardenMessage, silent <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-silent:
			a.Silent()
			return
		case m := <-messages:
			switch {
			case m.Started != nil:
				a.Started()
			case m.Reported != nil:
				if err := a.Report(m.Reported.Verdict); err != nil {
					w.server.options.Log.Warn("a verdict of a warden cannot be read", "agent", a.ID(), "error", err)
				}
			case m.Count != nil:
				a.Count(m.Count.ByOperation)
			case m.Settle != nil:
				a.Settle()
			case m.Blocked != nil:
				a.Blocked(m.Blocked)
			case m.Asked != nil:
				if err := a.Asked(m.Asked); err != nil {
					w.server.options.Log.Warn("a call waits for a person and cannot be asked about", "agent", a.ID(), "error", err)
				}
			case m.Joined != nil:
				a.Joined(m.Joined)
			case m.Withdrawn != nil:
				a.Withdrawn(m.Withdrawn.ID)
			}
		}
	}
}
