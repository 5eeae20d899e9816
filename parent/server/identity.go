package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/attend"
	"github.com/raypher/raypher/parent/instance"
)

// Bounds on connections.
const (
	maxConnectionsPerAgent = 32
	maxConnectionsPerUser  = 4096
)

// errNotGoverned says that the caller of the Agent service is no agent.
var errNotGoverned = errors.New("not an agent")

// caller is who is at the other end of a connection. It is found once, when the connection is made, and looked at again at
// every call: a process may have become an agent since.
type caller struct {
	task    *task.Task // unix sockets
	uid     uint32
	groups  []uint32
	agent   *agents.Agent // loopback: whom the kernel recorded
	refused error         // loopback: nobody was recorded; said at the first call
}

// AuthType makes a caller a credentials.AuthInfo.
func (*caller) AuthType() string { return "peer" }

func callerOf(ctx context.Context) (*caller, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if c, ok := p.AuthInfo.(*caller); ok {
			return c, nil
		}
	}
	return nil, errors.New("the connection has no caller")
}

// quota counts connections by owner.
type quota struct {
	mu    sync.Mutex
	count map[string]int
}

func (q *quota) take(owner string, limit int) (release func(), err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.count == nil {
		q.count = make(map[string]int)
	}
	if q.count[owner] >= limit {
		return nil, fmt.Errorf("%s has %d connections, which is the limit", owner, limit)
	}
	q.count[owner]++
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.count[owner]--; q.count[owner] == 0 {
			delete(q.count, owner)
		}
	}, nil
}

// ownedConn lets go of what belongs to the caller when the connection ends.
type ownedConn struct {
	net.Conn
	ahead   []byte // was read already
	once    sync.Once
	release func()
}

func (c *ownedConn) Read(p []byte) (int, error) {
	if len(c.ahead) > 0 {
		n := copy(p, c.ahead)
		c.ahead = c.ahead[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *ownedConn) Close() error {
	c.once.Do(c.release)
	return c.Conn.Close()
}

// transport identifies callers; it is a credentials.TransportCredentials. There is no encryption: both kinds of connection
// stay within the host.
type transport struct {
	identify func(net.Conn) (c *caller, owner string, limit int, err error)
	quota    *quota
	wardens  *wardens // to whom the sessions of package attend go; nil: there are none
}

func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, owner, limit, err := t.identify(raw)
	if err != nil {
		raw.Close()
		return nil, nil, err
	}
	release, err := t.quota.take(owner, limit)
	if err != nil {
		raw.Close()
		c.close()
		return nil, nil, err
	}
	conn := &ownedConn{Conn: raw, release: func() { release(); c.close() }}
	if t.wardens == nil {
		return conn, c, nil
	}
	conn.ahead = make([]byte, 1)
	if _, err := io.ReadFull(raw, conn.ahead); err != nil { // gRPC has set a deadline
		conn.Close()
		return nil, nil, err
	}
	if conn.ahead[0] == attend.FirstByte {
		t.wardens.take(conn, c)
		return nil, nil, credentials.ErrConnDispatched
	}
	return conn, c, nil
}

func (c *caller) close() {
	if c.task != nil {
		c.task.Close()
	}
}

func (t *transport) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("this side only serves")
}

func (t *transport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peer"}
}

func (t *transport) Clone() credentials.TransportCredentials { return t }

func (t *transport) OverrideServerName(string) error { return nil }

// unixPeer identifies the process that connected a unix socket.
func unixPeer(raw net.Conn) (*caller, string, int, error) {
	conn, ok := raw.(*net.UnixConn)
	if !ok {
		return nil, "", 0, fmt.Errorf("a %T is no unix socket", raw)
	}
	control, err := conn.SyscallConn()
	if err != nil {
		return nil, "", 0, err
	}
	c := &caller{}
	var failed error
	err = control.Control(func(fd uintptr) {
		held, cred, err := task.Peer(int(fd))
		if err != nil {
			failed = err
			return
		}
		c.task, c.uid, c.groups = held, cred.Uid, []uint32{cred.Gid}
	})
	if err = errors.Join(err, failed); err != nil {
		return nil, "", 0, err
	}
	if id, err := c.task.Identity(); err == nil && id.UID == c.uid {
		c.groups = append(c.groups, id.Groups...)
	}
	return c, fmt.Sprintf("user %d", c.uid), maxConnectionsPerUser, nil
}

// loopbackPeer identifies the agent that connected over TCP, by what the network guard recorded of its packets.
func (s *Server) loopbackPeer(raw net.Conn) (*caller, string, int, error) {
	local, err := netip.ParseAddrPort(raw.LocalAddr().String())
	if err != nil {
		return nil, "", 0, err
	}
	remote, err := netip.ParseAddrPort(raw.RemoteAddr().String())
	if err != nil {
		return nil, "", 0, err
	}
	const tcp = 6 // IANA protocol number
	if id, ok := s.options.Peer(tcp, local, remote); ok {
		if a, ok := s.options.Agents.ByCgroup(id); ok {
			return &caller{agent: a}, "agent " + a.ID(), maxConnectionsPerAgent, nil
		}
	}
	refused := fmt.Errorf("%w: nothing at %s is a governed agent: this address serves agents only; operators use %s",
		errNotGoverned, remote, s.options.Paths.Socket)
	return &caller{refused: refused}, "outsiders", maxConnectionsPerAgent, nil
}

// asAgent says which agent is calling.
func (s *Server) asAgent(c *caller) (*agents.Agent, error) {
	switch {
	case c.refused != nil:
		return nil, c.refused
	case c.agent != nil:
		return c.agent, nil
	}
	kind, a, err := s.options.Agents.Whose(c.task)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotGoverned, err)
	}
	if a == nil {
		who := "no agent"
		if kind != agents.Outside {
			who = "an agent of another raypherd"
		}
		return nil, fmt.Errorf("%w: process %d is %s: this socket serves the agents of this raypherd only", errNotGoverned, c.task.PID(), who)
	}
	return a, nil
}

// asOperator lets root and the group of operators in, and never anything inside an agent, nor a warden, through which an
// agent may speak.
func (s *Server) asOperator(c *caller) error {
	kind, _, err := s.options.Agents.Whose(c.task)
	if err != nil {
		return fmt.Errorf("%w: %w", agents.ErrNotAllowed, err)
	}
	if kind != agents.Outside {
		return fmt.Errorf("%w: an agent cannot operate raypherd", agents.ErrNotAllowed)
	}
	return s.asMember(c)
}

// asMember lets root and the group of operators in.
func (s *Server) asMember(c *caller) error {
	if c.uid == 0 || s.options.Group >= 0 && slices.Contains(c.groups, uint32(s.options.Group)) {
		return nil
	}
	return fmt.Errorf("%w: user %d: %s", agents.ErrNotAllowed, c.uid, instance.WhoMayAsk(s.options.Paths.Socket))
}
