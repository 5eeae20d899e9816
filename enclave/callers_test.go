package enclave

import (
	"crypto/tls"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// A caller that connects again is let in at once, and its oldest connection ends: no more than MaxCallers are held.
func TestOldestCallerMakesRoom(t *testing.T) {
	r := serve(t)
	var conns []*tls.Conn
	for range MaxCallers + 1 {
		conn, err := tls.Dial("unix", r.socket, r.tls(r.caller))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			t.Fatal(err)
		}
		if err := http2.NewFramer(conn, nil).WriteSettings(); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err != nil { // the server's settings: it has let the connection in
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	ends := func(conn *tls.Conn, within time.Duration) bool {
		conn.SetReadDeadline(time.Now().Add(within))
		_, err := io.Copy(io.Discard, conn)
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	if !ends(conns[0], patience) {
		t.Error("the oldest connection goes on")
	}
	for _, conn := range conns[1:] {
		if ends(conn, 300*time.Millisecond) {
			t.Error("a younger connection was ended")
		}
	}
}
