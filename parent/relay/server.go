package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/instance"
)

// Bounds. An agent asks for a descriptor at the first notified call of each process and after each exec.
const (
	maxConnections = 2    // of one warden at once; it needs one
	burst          = 1024 // descriptors at once without waiting, of one agent
	every          = 500 * time.Microsecond
	replyTimeout   = 2 * time.Second
	warnEvery      = time.Second // strangers are told of in the log so often at the most
)

// Agent is one whose warden may ask.
type Agent interface {
	ID() string
	// UID is the user that it runs as.
	UID() uint32
	// Holds says whether a cgroup2 path, as /proc shows it, is the agent's.
	Holds(cgroup string) bool
	// Gone is closed when nothing of the agent is left.
	Gone() <-chan struct{}
}

// Options of a server.
type Options struct {
	Paths instance.Paths // its socket is Relay
	Group int            // gid of those who run agents; -1: root alone
	// Warden returns the agent of which a process is the warden. An error says that it is none.
	Warden func(*task.Task) (Agent, error)
	Log    *slog.Logger
}

// Server hands out descriptors. Make it with Listen.
type Server struct {
	options  Options
	listener *net.UnixListener

	mu     sync.Mutex
	guests map[string]*guest // by agent
	warned time.Time
}

// guest is what the server keeps of an agent while its warden is connected. It is guarded by Server.mu.
type guest struct {
	connections int
	spent       time.Time // until then descriptors are due, at one each `every` (the theoretical arrival time of a GCRA, ITU-T I.371)
}

// Listen opens the socket. Serve serves it, and closes it in the end.
func Listen(o Options) (*Server, error) {
	l, err := instance.Listen("unixpacket", o.Paths.Relay, o.Paths.ForMembers(o.Group), o.Group)
	if err != nil {
		return nil, err
	}
	return &Server{options: o, listener: l, guests: make(map[string]*guest)}, nil
}

// Close closes a server, also one that was never served.
func (s *Server) Close() error {
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Serve serves until ctx ends. It does not wait for what the kernel still does for a warden then: that may take as long as a file
// system of the agent's user takes to answer, and each such call has its own goroutine for that reason.
func (s *Server) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.listener.Close() })
	defer stop()
	defer s.listener.Close()
	for {
		conn, err := s.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return s.removeSocket()
		case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ECONNABORTED), errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.ENOMEM):
			time.Sleep(10 * time.Millisecond)
			continue
		case err != nil:
			return fmt.Errorf("relay: %w", err)
		}
		go s.attend(ctx, conn)
	}
}

func (s *Server) removeSocket() error {
	if err := os.Remove(s.options.Paths.Relay); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("socket of the daemon: %w", err)
	}
	return nil
}

// attend serves one connection to its end.
func (s *Server) attend(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	warden, err := peer(conn)
	if err != nil {
		return // it has gone already
	}
	defer warden.Close()
	agent, err := s.options.Warden(warden)
	if err != nil {
		s.warn("the relay was asked by who is no warden", "process", warden.PID(), "reason", err)
		return
	}
	if !s.enter(agent) {
		s.warn("the relay has enough connections of an agent", "agent", agent.ID())
		return
	}
	defer s.leave(agent)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case <-ctx.Done():
		case <-agent.Gone():
		case <-warden.Gone():
		case <-ended:
		}
		conn.Close()
	}()
	for {
		asked, err := receive(conn)
		if err != nil {
			return // gone, or not worth an answer
		}
		if !s.await(ctx, agent) || !warden.Alive() {
			return
		}
		fd, err := answer(agent, asked)
		if err := reply(conn, fd, err); err != nil {
			return
		}
	}
}

// peer holds the process at the other end.
func peer(conn *net.UnixConn) (*task.Task, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var held *task.Task
	var failed error
	if err := raw.Control(func(fd uintptr) { held, _, failed = task.Peer(int(fd)) }); err != nil {
		return nil, err
	}
	return held, failed
}

// receive takes the next request. It gives no room for descriptors, so that the kernel takes back those that come with one.
func receive(conn *net.UnixConn) (request, error) {
	var room [sizeRequest + 1]byte
	n, err := conn.Read(room[:])
	if err != nil {
		return request{}, err
	}
	return decodeRequest(room[:n])
}

func answer(a Agent, r request) (int, error) {
	if r.kind == askMemory {
		return memory(a, int(r.task))
	}
	return descriptor(a, int(r.task), int(r.number))
}

// reply sends the descriptor, which it closes, or why there is none. What is not the kernel's word is EIO.
func reply(conn *net.UnixConn, fd int, failed error) error {
	var errno unix.Errno
	if failed != nil && !errors.As(failed, &errno) {
		errno = unix.EIO
	}
	var rights []byte
	if failed == nil {
		defer unix.Close(fd)
		rights = unix.UnixRights(fd)
	}
	if err := conn.SetWriteDeadline(time.Now().Add(replyTimeout)); err != nil {
		return err
	}
	_, _, err := conn.WriteMsgUnix(encodeReply(errno), rights, nil)
	return err
}

// enter counts a connection of an agent, unless there are too many.
func (s *Server) enter(a Agent) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[a.ID()]
	if g == nil {
		g = &guest{}
		s.guests[a.ID()] = g
	}
	if g.connections >= maxConnections {
		return false
	}
	g.connections++
	return true
}

// leave forgets a connection. What the agent has spent is forgotten with the last one, but for what a new connection would bring
// it: waiting out the rest.
func (s *Server) leave(a Agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.guests[a.ID()]
	if g.connections--; g.connections > 0 {
		return
	}
	rest := time.Until(g.spent)
	if rest <= 0 {
		delete(s.guests, a.ID())
		return
	}
	time.AfterFunc(rest, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.guests[a.ID()] == g && g.connections == 0 {
			delete(s.guests, a.ID())
		}
	})
}

// await waits until the agent may have another descriptor. It is false when ctx or the agent ends meanwhile.
func (s *Server) await(ctx context.Context, a Agent) bool {
	s.mu.Lock()
	g, now := s.guests[a.ID()], time.Now()
	if g.spent.Before(now) {
		g.spent = now
	}
	g.spent = g.spent.Add(every)
	wait := g.spent.Sub(now) - burst*every
	s.mu.Unlock()
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-a.Gone():
	case <-ctx.Done():
	}
	return false
}

// warn writes to the log, not more often than warnEvery.
func (s *Server) warn(text string, args ...any) {
	s.mu.Lock()
	quiet := time.Since(s.warned) < warnEvery
	if !quiet {
		s.warned = time.Now()
	}
	s.mu.Unlock()
	if !quiet {
		s.options.Log.Warn(text, args...)
	}
}
