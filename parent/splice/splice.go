// Package splice carries bytes between two connections in both directions. The forwarder of agents' calls (package gateway) and that of the
// enclave's connections (package egress) use it.
package splice

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// chunk is the size of the buffer of each direction, in bytes: a thousand open streams wait with theirs.
	chunk = 8 << 10
	// Stall is how long a side may take nothing of what the other one said before both are closed.
	Stall = 3 * time.Minute
)

// Both carries bytes until both directions have ended or one of them broke, and closes both connections. The end of what one side says is
// passed on, and the other direction goes on.
func Both(a, b net.Conn) {
	var once sync.Once
	broken := func() {
		once.Do(func() {
			a.Close()
			b.Close()
		})
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			if err := carry(way[1], way[0]); err != nil {
				broken()
			}
		})
	}
	both.Wait()
	broken()
}

// carry carries one direction. nil: the side that speaks has ended, and the other one was told.
func carry(to, from net.Conn) error {
	buffer := make([]byte, chunk)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if err := to.SetWriteDeadline(time.Now().Add(Stall)); err != nil {
				return err
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return closeWrite(to)
		}
		if err != nil {
			return err
		}
	}
}

// closeWrite says that nothing more comes.
func closeWrite(c net.Conn) error {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.New("it cannot end by half")
}
