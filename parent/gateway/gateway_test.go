package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// serve runs a gateway whose enclave answers every request with the agent that it was told.
func serve(t *testing.T, edit func(*Options)) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Agent: func(netip.AddrPort, netip.AddrPort) (string, bool) { return "a1", true },
		Open: func(_ context.Context, agent string) (net.Conn, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			go func() {
				_ = http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, agent+" "+r.URL.Path) }))
			}()
			t.Cleanup(func() { l.Close() })
			return net.Dial("tcp", l.Addr().String())
		},
		Log: slog.New(slog.DiscardHandler),
	}
	edit(&o)
	s.Bind(o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func get(t *testing.T, s *Server) (int, string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + s.Address().String() + "/p/v1/models")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// The enclave is told whose connection it is, and nobody but a recorded agent has one.
func TestOnlyRecordedAgentsAreServed(t *testing.T) {
	var known atomic.Bool
	s := serve(t, func(o *Options) {
		o.Agent = func(local, remote netip.AddrPort) (string, bool) {
			if !local.IsValid() || !remote.IsValid() || local == remote {
				t.Errorf("asked about %s and %s", local, remote)
			}
			return "a1", known.Load()
		}
	})
	if status, body := get(t, s); status != http.StatusForbidden || !strings.Contains(body, "governed agents only") {
		t.Errorf("nobody's connection: %d, %q", status, body)
	}
	known.Store(true)
	if status, body := get(t, s); status != http.StatusOK || body != "a1 /p/v1/models" {
		t.Errorf("an agent's: %d, %q", status, body)
	}
}

// Without the enclave a client reads why.
func TestTheEnclaveIsGone(t *testing.T) {
	s := serve(t, func(o *Options) {
		o.Open = func(context.Context, string) (net.Conn, error) { return nil, errors.New("gone") }
	})
	if status, body := get(t, s); status != http.StatusServiceUnavailable || !strings.Contains(body, "enclave cannot be reached") {
		t.Errorf("%d, %q", status, body)
	}
}

// One agent has its share of connections, and the others keep theirs.
func TestConnectionsAreBounded(t *testing.T) {
	s := serve(t, func(*Options) {})
	for range MaxConnectionsOne {
		if !s.enter("greedy") {
			t.Fatal("refused within its share")
		}
	}
	if s.enter("greedy") {
		t.Error("one more than its share")
	}
	for range MaxConnections - MaxConnectionsOne {
		if !s.enter("other") {
			t.Fatal("another agent is refused within its share")
		}
	}
	if s.enter("third") {
		t.Error("one more than all")
	}
	s.leave("greedy")
	if !s.enter("third") {
		t.Error("no place after one was left")
	}
}

// Only loopback is listened on.
func TestListen(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "50052", "192.0.2.1:50052", "127.0.0.2:0", "[::ffff:127.0.0.1]:0"} {
		if s, err := Listen(address); err == nil {
			s.Close()
			t.Errorf("%s is listened on", address)
		}
	}
}

// failing is a listener that has no descriptors for its first connections.
type failing struct {
	net.Listener
	left atomic.Int32
}

func (f *failing) Accept() (net.Conn, error) {
	if f.left.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return f.Listener.Accept()
}

// An agent that takes every descriptor there is keeps others waiting; it ends no gateway, and with it no raypherd.
func TestNoDescriptorsAreLeft(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(*Options) {})
	out := &failing{Listener: l}
	out.left.Store(3)
	defer s.Inside([]net.Listener{out}, "a1")()
	answer, err := http.Get("http://" + l.Addr().String() + "/p")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Error(answer.Status)
	}
}

// Who is refused is told why, but not so many at once that their connections take what others need.
func TestRefusalsAreBounded(t *testing.T) {
	s := serve(t, func(o *Options) {
		o.Agent = func(netip.AddrPort, netip.AddrPort) (string, bool) { return "", false }
	})
	told := func() bool {
		c, err := net.Dial("tcp", s.Address().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		n, _ := c.Read(make([]byte, 1))
		return n == 1
	}
	being := func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.refused = n
	}
	if being(maxRefused); told() {
		t.Error("one more than there is room for is told why")
	}
	if being(0); !told() {
		t.Error("nobody is told why")
	}
}
