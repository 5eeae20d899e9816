package broker

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// unattended is a broker whose only worker waits for a notification. Any other worker ends with an error at once, by which a test
// sees that it was started.
func unattended() *Broker {
	return &Broker{options: Options{Listener: -1}, fatal: make(chan error, maxWorkers), workers: 1, idle: 1}
}

func another(t *testing.T, b *Broker) {
	t.Helper()
	select {
	case err := <-b.fatal:
		if !errors.Is(err, unix.EBADF) {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the calls of all others wait")
	}
}

// TestAWorkerThatIsStuck: others are answered while one call waits in a slow file system.
func TestAWorkerThatIsStuck(t *testing.T) {
	b := unattended()
	b.busy()
	another(t, b)
}

// TestAWorkerThatIsStuckAsTheWatchEnds: who became busy when the watch had looked for the last time, but still stood, began no new one.
func TestAWorkerThatIsStuckAsTheWatchEnds(t *testing.T) {
	b := unattended()
	b.watching.Store(true)
	b.busy()
	b.endWatch()
	another(t, b)
}

// TestTheWatchEnds: an idle agent costs nothing.
func TestTheWatchEnds(t *testing.T) {
	b := unattended()
	b.busy()
	b.waiting()
	for end := time.Now().Add(20 * time.Second); b.watching.Load(); time.Sleep(slow) {
		if time.Now().After(end) {
			t.Fatal("it goes on for ever")
		}
	}
	if b.workers != 1 {
		t.Errorf("%d workers", b.workers)
	}
}
