package enclave

import (
	"net"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/raypher/raypher/enclave/conduit"
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
	mu   sync.Mutex
	open []*callerConn // oldest first
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *callers) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
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
	return &callers{TransportCredentials: c.TransportCredentials.Clone()}
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
