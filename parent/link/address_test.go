package link

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAddresses(t *testing.T) {
	for _, bad := range []string{"", "unix:", "vsock:", "vsock:16", "vsock:x:5000", "vsock:16:x", "vsock:4294967296:1", "vsock-uds:/run/v", "vsock-uds::5000", "tcp:127.0.0.1:1"} {
		if _, err := dialer(bad); err == nil {
			t.Errorf("%q is an address", bad)
		}
	}
	for _, good := range []string{"unix:/run/s", "vsock:16:5000", "vsock-uds:/run/a:b:5000"} {
		if _, err := dialer(good); err != nil {
			t.Error(err)
		}
	}
}

// serve answers each connection at a socket of its own.
func serve(t *testing.T, handle func(net.Conn)) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	return path
}

// What a vsock device says, and what follows it is the machine's, to the byte.
func TestVsockDevice(t *testing.T) {
	for _, c := range []struct{ name, says, want string }{
		{"a port that is served", "OK 1073741824\nmachine", ""},
		{"a port that is not", "", "nothing listens there"},
		{"another server", "HTTP/1.1 400 Bad Request\r\n", "is it the socket of a vsock device?"},
		{"no end", strings.Repeat("OK ", 100), "is it the socket of a vsock device?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := make(chan string, 1)
			path := serve(t, func(conn net.Conn) {
				line, _ := bufio.NewReader(conn).ReadString('\n')
				asked <- line
				io.WriteString(conn, c.says)
			})
			dial, err := dialer("vsock-uds:" + path + ":5000")
			if err != nil {
				t.Fatal(err)
			}
			conn, err := dial(t.Context())
			if line := <-asked; line != "CONNECT 5000\n" {
				t.Errorf("asked %q", line)
			}
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if rest, err := io.ReadAll(conn); err != nil || string(rest) != "machine" {
				t.Errorf("%q, %v", rest, err)
			}
		})
	}
}

// A device that says nothing is left when the time is up.
func TestSilentVsockDevice(t *testing.T) {
	path := serve(t, func(conn net.Conn) { io.Copy(io.Discard, conn) })
	dial, err := dialer("vsock-uds:" + path + ":5000")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if conn, err := dial(ctx); err == nil {
		conn.Close()
		t.Error("connected")
	}
}

// The configuration goes before the connection, where somebody waits for it; only a refusal stands in the way.
func TestConfiguring(t *testing.T) {
	const text = "caller_key = x\n"
	for _, c := range []struct {
		name, answer string
		want         error
	}{
		{"taken", "ok sha256:00\n", nil},
		{"refused", "refused: ibev.conf:1: what\n", errConfiguration},
		{"cut off", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := make(chan string, 1)
			path := serve(t, func(conn net.Conn) {
				all := make([]byte, 4+len(text))
				io.ReadFull(conn, all)
				got <- string(all)
				io.WriteString(conn, c.answer)
			})
			configure, err := dialer("unix:" + path)
			if err != nil {
				t.Fatal(err)
			}
			dialled := false
			dial := configuring(configure, func(context.Context) (net.Conn, error) { dialled = true; return nil, nil }, []byte(text))
			if _, err := dial(t.Context()); !errors.Is(err, c.want) || dialled == (err != nil) {
				t.Errorf("error %v, dialled %v", err, dialled)
			}
			if sent := <-got; sent != "\x00\x00\x00\x0f"+text {
				t.Errorf("sent %q", sent)
			}
		})
	}
	nobody, err := dialer("unix:" + filepath.Join(t.TempDir(), "none"))
	if err != nil {
		t.Fatal(err)
	}
	reached := errors.New("reached")
	if _, err := configuring(nobody, func(context.Context) (net.Conn, error) { return nil, reached }, []byte(text))(t.Context()); !errors.Is(err, reached) {
		t.Errorf("nobody waits: %v", err)
	}
}
