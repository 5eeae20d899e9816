package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/raypher/raypher/parent/agents"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// firstTimeout is how long a warden may take to say what it wants.
const firstTimeout = 10 * time.Second

// lastWords is how long a warden is heard after its agent is gone.
const lastWords = 3 * time.Second

// lastShown is how long a warden that has said everything is still told what the kernel refused.
const lastShown = 300 * time.Millisecond

// wardens serves the Wardens service.
type wardens struct {
	parentv1.UnimplementedWardensServer
	server *Server
}

type wardenStream = grpc.BidiStreamingServer[parentv1.WardenMessage, parentv1.ParentMessage]

// Attend serves one warden until its agent is gone.
func (w *wardens) Attend(stream wardenStream) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	c, err := callerOf(ctx)
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-w.server.ending:
			cancel(errEnding)
		case <-ctx.Done():
		}
	}()
	messages := receive(ctx, stream, cancel)
	var first *parentv1.WardenMessage
	select {
	case first = <-messages:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(firstTimeout):
		return fmt.Errorf("%w: the first message, Launch or Reattach, did not come", agents.ErrInvalid)
	}
	a, secret, err := w.begin(ctx, c, first)
	if err != nil {
		return err
	}
	hearing := make(chan struct{})
	go func() {
		defer close(hearing)
		w.hear(ctx, a, messages)
	}()
	err = a.Attend(ctx, secret, stream.Send)
	if err == nil {
		// The agent is gone; the warden may still have to say what it refused last.
		select {
		case <-ctx.Done():
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

// receive reads the stream into a channel, so that waiting for it can end. The goroutine ends with the call.
func receive(ctx context.Context, stream wardenStream, cancel context.CancelCauseFunc) <-chan *parentv1.WardenMessage {
	messages := make(chan *parentv1.WardenMessage)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) {
					// The warden has said everything, and reads on for what the kernel refused last.
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
	return messages
}

// begin makes or finds the agent.
func (w *wardens) begin(ctx context.Context, c *caller, first *parentv1.WardenMessage) (*agents.Agent, []byte, error) {
	who := agents.Caller{Task: c.task, UID: c.uid, Groups: c.groups}
	switch m := first.GetMessage().(type) {
	case *parentv1.WardenMessage_Launch:
		a, secret, err := w.server.options.Agents.Launch(ctx, who, m.Launch)
		if err != nil {
			w.server.options.Events.Count("launches_refused", 1)
			w.server.options.Log.Warn("launch refused", "user", c.uid, "program", m.Launch.Program, "reason", words(err))
		}
		return a, secret, err
	case *parentv1.WardenMessage_Reattach:
		a, err := w.server.options.Agents.Reattach(who, m.Reattach)
		return a, nil, err
	}
	return nil, nil, fmt.Errorf("%w: the first message is neither Launch nor Reattach", agents.ErrInvalid)
}

// hear takes what the warden says while its agent lives. A verdict that cannot be read is counted as lost; the next one is heard.
func (w *wardens) hear(ctx context.Context, a *agents.Agent, messages <-chan *parentv1.WardenMessage) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-messages:
			switch m := m.GetMessage().(type) {
			case *parentv1.WardenMessage_Started:
				a.Started()
			case *parentv1.WardenMessage_Reported:
				if err := a.Report(m.Reported.Verdict); err != nil {
					w.server.options.Log.Warn("a verdict of a warden cannot be read", "agent", a.ID(), "error", err)
				}
			case *parentv1.WardenMessage_Count:
				a.Count(m.Count.ByOperation)
			}
		}
	}
}
