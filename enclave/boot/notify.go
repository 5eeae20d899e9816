package boot

import (
	"fmt"
	"net"
	"os"
)

// notifier tells systemd (sd_notify(3)) how far the start has come. It is opened before the sandbox closes the file system.
type notifier struct{ conn *net.UnixConn }

func openNotify() (*notifier, error) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return &notifier{}, nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("NOTIFY_SOCKET: %w", err)
	}
	return &notifier{conn}, nil
}

// send is best effort: systemd notices silence by itself.
func (n *notifier) send(state string) {
	if n.conn != nil {
		n.conn.Write([]byte(state))
	}
}

func (n *notifier) close() {
	if n.conn != nil {
		n.conn.Close()
	}
}
