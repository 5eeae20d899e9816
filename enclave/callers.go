package enclave

import (
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/raypher/raypher/enclave/conduit"
	"github.com/raypher/raypher/internal/carrier"
)

// What callers may take of this process's memory, together. gRPC has room for a message of MaxReceive on each stream of each connection: these
// times MaxStreams is what a caller can make it hold that sends halves of messages.
const (
	MaxCallers = 2 // authenticated connections; a further one ends the oldest
	MaxStores  = 8 // Persist streams at once, and of each rarer kind
	// MaxMintStreams is how many of them there may be at once.
	MaxMintStreams = 32
	// MaxCarried is how many Connect streams there may be: those of all connections, and as many that are ending.
	MaxCarried = 2 * conduit.MaxConnections
	// largeRequest is the size from which on a request needs room, and MaxLarge the room for all that are being answered, in bytes. Smaller
	// ones are bounded by their number.
	largeRequest = 32 << 10
	MaxLarge     = 32 << 20
)

// callers lets a connection in after its handshake, and ends the oldest where there are too many: a parent that connects again, because it
// believes its connection lost, is let in at once.
type callers struct {
	credentials.TransportCredentials
	dispatch func(protocol string, c net.Conn) // takes connections that are not for gRPC
	mu       sync.Mutex
	open     []*callerConn // oldest first
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *callers) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	if unproven, ok := raw.(*unprovenConn); ok {
		unproven.free()
	}
	if protocol := info.(credentials.TLSInfo).State.NegotiatedProtocol; protocol != http2.NextProtoTLS {
		_ = raw.SetDeadline(time.Time{}) // gRPC's, for the handshake
		c.dispatch(protocol, secured)
		return nil, nil, credentials.ErrConnDispatched
	}
	conn := &callerConn{Conn: secured, of: c}
	c.mu.Lock()
	c.open = append(c.open, conn)
	var oldest *callerConn
	if len(c.open) > MaxCallers {
		oldest = c.open[0]
	}
	c.mu.Unlock()
	if oldest != nil {
		oldest.Close()
	}
	return conn, info, nil
}

// Clone implements credentials.TransportCredentials.
func (c *callers) Clone() credentials.TransportCredentials {
	return &callers{TransportCredentials: c.TransportCredentials.Clone(), dispatch: c.dispatch}
}

// dispatch takes a connection of the authenticated parent that is not for gRPC. It does not block for long.
func (s *Server) dispatch(protocol string, c net.Conn) {
	switch protocol {
	case carrier.Agents:
		s.calls.handed.hand(c)
	case carrier.Provider:
		s.dial.Carry(c)
	default: // serverTLS offers no other
		c.Close()
	}
}

// unproven bounds the connections whose handshake is not done.
type unproven struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newUnproven(l net.Listener) *unproven {
	return &unproven{Listener: l, places: make(chan struct{}, MaxConnections), closed: make(chan struct{})}
}

// Accept implements net.Listener. It waits for a place first.
func (u *unproven) Accept() (net.Conn, error) {
	select {
	case u.places <- struct{}{}:
	case <-u.closed:
		return nil, net.ErrClosed
	}
	c, err := u.Listener.Accept()
	if err != nil {
		<-u.places
		return nil, err
	}
	return &unprovenConn{Conn: c, free: sync.OnceFunc(func() { <-u.places })}, nil
}

// Close implements net.Listener.
func (u *unproven) Close() error {
	u.once.Do(func() { close(u.closed) })
	return u.Listener.Close()
}

// unprovenConn gives its place back after its handshake, or at its end.
type unprovenConn struct {
	net.Conn
	free func()
}

// Close implements net.Conn.
func (c *unprovenConn) Close() error {
	c.free()
	return c.Conn.Close()
}

type callerConn struct {
	net.Conn
	of *callers
}

// Close implements net.Conn.
func (c *callerConn) Close() error {
	c.of.mu.Lock()
	c.of.open = slices.DeleteFunc(c.of.open, func(o *callerConn) bool { return o == c })
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// takeRoom takes the room that a request needs while it is answered; it is given back with giveRoom.
func (s *Server) takeRoom(request any) (taken int64, err error) {
	m, ok := request.(proto.Message)
	if !ok {
		return 0, nil
	}
	size := int64(proto.Size(m))
	if size <= largeRequest {
		return 0, nil
	}
	if !s.room.TryAcquire(size) {
		return 0, status.Error(codes.ResourceExhausted, "too many large requests at once: try again later")
	}
	return size, nil
}

func (s *Server) giveRoom(taken int64) {
	if taken > 0 {
		s.room.Release(taken)
	}
}

// bounded runs a stream where there is a token for one of its kind.
func bounded(tokens chan struct{}, run func() error) error {
	select {
	case tokens <- struct{}{}:
	default:
		return status.Errorf(codes.ResourceExhausted, "%d streams of this kind are open: close one", cap(tokens))
	}
	defer func() { <-tokens }()
	return run()
}
