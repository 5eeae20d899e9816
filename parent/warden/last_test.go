package warden

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/raypher/raypher/parent/attend"
)

// heard is a raypherd that takes what it is sent.
type heard struct {
	messages []*attend.WardenMessage
	closed   chan struct{}
}

func (h *heard) Send(m *attend.WardenMessage) error { h.messages = append(h.messages, m); return nil }
func (h *heard) Recv() (*attend.ParentMessage, error) {
	<-h.closed
	return nil, io.EOF
}
func (h *heard) CloseSend() error { close(h.closed); return nil }

// TestTheCountComesLast: verdicts that found no room are lost, but never the count that shows it, and it comes behind all others.
func TestTheCountComesLast(t *testing.T) {
	l := &line{
		connect:  func(context.Context) (Session, error) { return nil, errors.New("away") },
		received: func(*attend.ParentMessage) {}, broken: func(error) {}, wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	const more = 100
	for range maxQueued + more {
		l.send(&attend.WardenMessage{Reported: &attend.Reported{}})
	}
	raypherd := &heard{closed: make(chan struct{})}
	ended := make(chan int)
	go func() {
		ended <- l.end(&attend.WardenMessage{Blocked: &attend.Blocked{Total: maxQueued + more}}, farewell)
	}()
	l.run(t.Context(), raypherd)
	if lost := <-ended; lost != more {
		t.Errorf("%d messages were lost, want %d", lost, more)
	}
	last := raypherd.messages[len(raypherd.messages)-1]
	if len(raypherd.messages) != maxQueued+1 || last.Blocked == nil || last.Blocked.Total != maxQueued+more {
		t.Errorf("%d messages came, the last one is %+v", len(raypherd.messages), last)
	}
}

// asking is a raypherd that is asked to tell the rest after the last word, as the one who lets go of the terminal does.
type asking struct {
	heard
	asked []*attend.WardenMessage
	line  *line
}

func (a *asking) CloseSend() error {
	for _, m := range a.asked {
		a.line.send(m)
	}
	return a.heard.CloseSend()
}

// TestNothingIsLostThatIsNoVerdict: what is asked behind the last word carries nothing, so it is not told as lost; a verdict is.
func TestNothingIsLostThatIsNoVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		late *attend.WardenMessage
		lost int
	}{
		"question": {&attend.WardenMessage{Settle: &attend.Settle{}}, 0},
		"verdict":  {&attend.WardenMessage{Reported: &attend.Reported{}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := &line{received: func(*attend.ParentMessage) {}, broken: func(error) {}, wake: make(chan struct{}, 1), done: make(chan struct{})}
			raypherd := &asking{heard{closed: make(chan struct{})}, []*attend.WardenMessage{c.late}, l}
			go l.run(t.Context(), raypherd)
			if lost := l.end(&attend.WardenMessage{Blocked: &attend.Blocked{}}, farewell); lost != c.lost {
				t.Errorf("%d messages were lost, want %d", lost, c.lost)
			}
		})
	}
}
