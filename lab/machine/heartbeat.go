package machine

import (
	"fmt"
	"io"
	"net"
)

// heartbeatPort is that of nitro-cli (enclave/pid1).
const heartbeatPort = 9000

// Heart is the listener for the heartbeat of the machine in one folder.
type Heart struct {
	// Beat is closed when it came.
	Beat     <-chan struct{}
	listener net.Listener
}

// TakeHeartbeat answers the heartbeat of the machine that will be started in folder, as nitro-cli does. It comes before the machine: an
// enclave that finds nobody ends.
func TakeHeartbeat(folder string) (*Heart, error) {
	l, err := net.Listen("unix", listenerPath(folder, heartbeatPort))
	if err != nil {
		return nil, fmt.Errorf("heartbeat: %w: is another machine in this folder?", err)
	}
	beat := make(chan struct{})
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if _, err := io.CopyN(conn, conn, 1); err == nil {
			close(beat)
		}
	}()
	return &Heart{Beat: beat, listener: l}, nil
}

// Close ends the listener.
func (h *Heart) Close() error { return h.listener.Close() }
