package server

import (
	"net"
	"sync"
	"testing"
)

// TestDeafWarden: who does not listen to why he is refused keeps no goroutine, and raypherd from ending, no longer than a moment.
func TestDeafWarden(t *testing.T) {
	s := &Server{options: Options{Group: -1}, ending: make(chan struct{})}
	w := &wardens{server: s}
	here, there := net.Pipe() // which takes no byte that nobody reads
	defer there.Close()
	var released sync.WaitGroup
	released.Add(1)
	w.take(&ownedConn{Conn: here, release: released.Done}, &caller{uid: 12345})
	released.Wait()
	w.open.Wait()
}
