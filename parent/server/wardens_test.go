package server

import (
	"log/slog"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc/health"
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

// TestStuckSession: a session that waits for what never comes, as a file of its caller on a file system that does not answer, does not
// keep raypherd from ending.
func TestStuckSession(t *testing.T) {
	s := &Server{options: Options{Log: slog.New(slog.DiscardHandler)}, health: health.NewServer(), ending: make(chan struct{})}
	s.wardens = &wardens{server: s}
	s.wardens.open.Add(1)
	s.stop()
	s.wardens.open.Done()
}
