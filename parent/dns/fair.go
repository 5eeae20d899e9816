package dns

import (
	"net"
	"sync"
	"syscall"
)

// maxConnectionsOne is how many TCP connections one agent may hold of maxConnections: the others of a host keep theirs.
const maxConnectionsOne = 32

// fairListener closes what one peer opens beyond its share. Who the peer is, whose says.
type fairListener struct {
	net.Listener
	whose func(net.Conn) uint64

	mu   sync.Mutex
	open map[uint64]int
}

func fair(l net.Listener, whose func(net.Conn) uint64) net.Listener {
	return &fairListener{Listener: l, whose: whose, open: map[uint64]int{}}
}

// Accept returns the next connection within its peer's share.
func (l *fairListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer := l.whose(c)
		l.mu.Lock()
		within := l.open[peer] < maxConnectionsOne
		if within {
			l.open[peer]++
		}
		l.mu.Unlock()
		if within {
			return &sharedConn{Conn: c, release: sync.OnceFunc(func() { l.release(peer) })}, nil
		}
		c.Close()
	}
}

func (l *fairListener) release(peer uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[peer]--; l.open[peer] == 0 {
		delete(l.open, peer)
	}
}

type sharedConn struct {
	net.Conn
	release func()
}

func (c *sharedConn) Close() error {
	c.release()
	return c.Conn.Close()
}

// whose is the cgroup of the agent at the other end; 0 for who is none, whose questions are refused.
func (s *Server) whose(c net.Conn) uint64 {
	a, ok := s.options.Lookup(syscall.IPPROTO_TCP, addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()))
	if !ok {
		return 0
	}
	return a.CgroupID
}
