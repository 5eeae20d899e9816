package warden

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// Session is one stream to raypherd.
type Session interface {
	Send(*parentv1.WardenMessage) error
	Recv() (*parentv1.ParentMessage, error)
	// CloseSend says that nothing more will be sent; Recv then ends when raypherd has taken everything.
	CloseSend() error
}

// Connect opens a session. It is called again when a session breaks.
type Connect func(ctx context.Context) (Session, error)

// What a session is dimensioned for: a launch, and verdicts now and then.
const (
	// window is how many bytes raypherd may send before they are taken. It is fixed, or gRPC would measure the socket with
	// pings, each of which wakes both sides of every launch.
	window = 1 << 20
	buffer = 4 << 10 // bytes, for reading and for writing
)

// Dial returns a Connect to the Wardens service on a unix socket. raypherd knows the caller by the socket's peer; raypherd is
// known by the socket's path, which only root can put there.
func Dial(socket string) Connect {
	return func(ctx context.Context) (Session, error) {
		connection, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithAuthority("raypherd"), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), // callers retry, with words
			grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
			grpc.WithReadBufferSize(buffer), grpc.WithWriteBufferSize(buffer))
		if err != nil {
			return nil, fmt.Errorf("connect to raypherd at %s: %w", socket, err)
		}
		stream, err := parentv1.NewWardensClient(connection).Attend(ctx)
		if err != nil {
			connection.Close()
			return nil, fmt.Errorf("connect to raypherd at %s: %s", socket, status.Convert(err).Message())
		}
		context.AfterFunc(stream.Context(), func() { connection.Close() })
		return stream, nil
	}
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
	reattach *parentv1.Reattach
	received func(*parentv1.ParentMessage)
	broken   func(error)

	mutex sync.Mutex
	queue []*parentv1.WardenMessage
	lost  int
	ended bool
	wake  chan struct{}
	done  chan struct{}
}

// begin sends the launch and waits for what is granted. The error is in raypherd's words.
func begin(session Session, launch *parentv1.Launch) (*parentv1.Granted, error) {
	first := &parentv1.WardenMessage{Message: &parentv1.WardenMessage_Launch{Launch: launch}}
	// An error of Send is only io.EOF: why is what Recv says.
	_ = session.Send(first)
	message, err := session.Recv()
	if err != nil {
		return nil, explain(err)
	}
	granted := message.GetGranted()
	if granted == nil {
		return nil, errors.New("raypherd answered with something else than a grant")
	}
	return granted, nil
}

// explain turns a gRPC status into words for the person who ran the command.
func explain(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	answered := slices.ContainsFunc(s.Details(), func(detail any) bool { _, ok := detail.(*parentv1.Answered); return ok })
	if s.Code() == codes.Unavailable && !answered {
		return fmt.Errorf("raypherd cannot be reached: %s: is it running, and are you in its group?", s.Message())
	}
	return errors.New(s.Message())
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
			l.broken(errors.New(status.Convert(err).Message()))
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
	first := &parentv1.WardenMessage{Message: &parentv1.WardenMessage_Reattach{Reattach: l.reattach}}
	_ = session.Send(first)
	message, err := session.Recv()
	if err != nil {
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
				case <-time.After(time.Second):
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

func (l *line) take() (messages []*parentv1.WardenMessage, ended bool) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	messages, l.queue = l.queue, nil
	return messages, l.ended
}

func (l *line) putBack(messages []*parentv1.WardenMessage) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.queue = append(messages, l.queue...)
}

// send queues a message.
func (l *line) send(m *parentv1.WardenMessage) {
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

// end lets run return when everything was sent, and waits for it. It returns how many messages were lost.
func (l *line) end() int {
	l.mutex.Lock()
	l.ended = true
	l.mutex.Unlock()
	l.notify()
	<-l.done
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.lost + len(l.queue)
}
