package warden

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/raypher/raypher/parent/attend"
)

// Session is one conversation with raypherd.
type Session interface {
	Send(*attend.WardenMessage) error
	Recv() (*attend.ParentMessage, error)
	// CloseSend says that nothing more will be sent; Recv then ends when raypherd has taken everything.
	CloseSend() error
}

// Connect opens a session. It is called again when a session breaks.
type Connect func(ctx context.Context) (Session, error)

// Dial returns a Connect to the socket of a raypherd. raypherd knows the caller by the socket's peer; raypherd is known by the
// socket's path, which only root can put there.
func Dial(socket string) Connect {
	return func(ctx context.Context) (Session, error) {
		session, err := attend.Dial(ctx, socket)
		if err != nil {
			return nil, away(err)
		}
		return session, nil
	}
}

// away says that raypherd was not reached, or went without a word.
func away(err error) error {
	return fmt.Errorf("raypherd cannot be reached: %w: is it running, and are you in its group?", err)
}

// maxQueued is how many messages wait for a raypherd that is away. Later ones are counted and lost to the journal, which is
// said on the terminal.
const maxQueued = 8192

// Retry times after a session broke.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// line keeps a session to raypherd for as long as the agent lives. Messages that are sent while raypherd is away wait.
type line struct {
	connect  Connect
	reattach *attend.Reattach
	received func(*attend.ParentMessage)
	broken   func(error)

	mutex sync.Mutex
	queue []*attend.WardenMessage
	lost  int
	last  *attend.WardenMessage // goes behind everything, however much waits
	ended bool
	// patience is how long raypherd may take, after the last word, to tell what the kernel refused.
	patience time.Duration
	wake     chan struct{}
	done     chan struct{}
}

// begin sends the launch and waits for what is granted. What is expected to be, it hands to expect. The error is in raypherd's
// words.
func begin(session Session, launch *attend.Launch, expect func(*attend.Terms) error) (*attend.Granted, error) {
	first := &attend.WardenMessage{Launch: launch}
	// Why else it cannot be sent, Recv says better.
	if err := session.Send(first); errors.Is(err, attend.ErrTooLarge) {
		return nil, fmt.Errorf("launch: policy and manifest: %w", err)
	}
	message, err := session.Recv()
	for err == nil && message.Expected != nil {
		if err := expect(message.Expected); err != nil {
			return nil, err
		}
		message, err = session.Recv()
	}
	switch {
	case err != nil:
		return nil, away(err)
	case message.Refused != nil:
		return nil, errors.New(message.Refused.Reason)
	case message.Granted == nil:
		return nil, errors.New("raypherd answered with something else than a grant")
	}
	return message.Granted, nil
}

// run serves session, and others when it breaks, until end is called and everything was sent.
func (l *line) run(ctx context.Context, session Session) {
	defer close(l.done)
	retry := firstRetry
	for {
		if session != nil {
			err := l.serve(session)
			if err == nil || ctx.Err() != nil {
				return
			}
			l.broken(err)
		}
		if l.isEnded() {
			return
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return
		}
		retry = min(2*retry, lastRetry)
		session = l.again(ctx)
		if session != nil {
			retry = firstRetry
		}
	}
}

// again opens a session for an agent that already runs.
func (l *line) again(ctx context.Context) Session {
	session, err := l.connect(ctx)
	if err != nil {
		return nil
	}
	first := &attend.WardenMessage{Reattach: l.reattach}
	_ = session.Send(first)
	message, err := session.Recv()
	if err != nil || message.Granted == nil {
		return nil
	}
	l.received(message)
	return session
}

// serve sends the queue and takes messages. It returns nil when everything was sent after end.
func (l *line) serve(session Session) error {
	broke := make(chan error, 1)
	go func() {
		for {
			message, err := session.Recv()
			if err == nil && message.Refused != nil {
				err = errors.New(message.Refused.Reason)
			}
			if err != nil {
				broke <- err
				return
			}
			l.received(message)
		}
	}()
	for {
		messages, ended := l.take()
		for i, m := range messages {
			if err := session.Send(m); err != nil {
				l.putBack(messages[i:])
				return <-broke
			}
		}
		if ended && len(messages) == 0 {
			if err := session.CloseSend(); err == nil {
				select {
				case <-broke:
				case <-time.After(l.patience):
				}
			}
			return nil
		}
		if ended {
			continue
		}
		select {
		case <-l.wake:
		case err := <-broke:
			return err
		}
	}
}

func (l *line) take() (messages []*attend.WardenMessage, ended bool) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	messages, l.queue = l.queue, nil
	if l.ended && l.last != nil {
		messages, l.last = append(messages, l.last), nil
	}
	return messages, l.ended
}

func (l *line) putBack(messages []*attend.WardenMessage) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.queue = append(messages, l.queue...)
}

// send queues a message.
func (l *line) send(m *attend.WardenMessage) {
	l.mutex.Lock()
	if len(l.queue) < maxQueued {
		l.queue = append(l.queue, m)
	} else {
		l.lost++
	}
	l.mutex.Unlock()
	l.notify()
}

func (l *line) notify() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *line) isEnded() bool {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.ended
}

// end lets run return when everything was sent, and last behind it, and raypherd has told everything or patience is over, and waits for
// that. It returns how many messages were lost.
func (l *line) end(last *attend.WardenMessage, patience time.Duration) int {
	l.mutex.Lock()
	l.last, l.patience = last, patience
	l.ended = true
	l.mutex.Unlock()
	l.notify()
	<-l.done
	l.mutex.Lock()
	defer l.mutex.Unlock()
	lost := l.lost
	for _, m := range l.queue {
		if m.Settle == nil { // who asks for the rest behind the last word gets it anyway
			lost++
		}
	}
	return lost
}
