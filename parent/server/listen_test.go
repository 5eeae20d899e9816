package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/events"
	"github.com/raypher/raypher/parent/instance"
	"github.com/raypher/raypher/parent/link"
)

// TestListenLoopback: agents are served on loopback and nowhere else.
func TestListenLoopback(t *testing.T) {
	for address, ok := range map[string]bool{
		"127.0.0.1:0": true, "[::1]:0": true,
		"127.9.9.9:0": false, "0.0.0.0:0": false, "[::]:0": false, "192.0.2.1:0": false, "localhost:0": false, ":0": false, "127.0.0.1": false, "": false,
	} {
		l, err := ListenLoopback(address)
		if (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
		if err == nil {
			l.Close()
		}
	}
}

// TestSockets: a socket takes the place of what an earlier raypherd left, with its mode from the first moment on, and is gone at the
// end.
func TestSockets(t *testing.T) {
	dir := t.TempDir()
	p := instance.Paths{Socket: filepath.Join(dir, "raypherd.sock"), AgentSocket: filepath.Join(dir, "agent.sock")}
	for range 2 { // the second one replaces the first
		for path, mode := range map[string]fs.FileMode{p.Socket: 0o600, p.AgentSocket: 0o666} {
			l, err := instance.Listen("unix", path, mode, -1)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != mode || instance.Reach(path) != nil {
				t.Errorf("%s: %v, %v, %v", path, info.Mode(), err, instance.Reach(path))
			}
		}
	}
	s := &Server{options: Options{Paths: p}}
	for range 2 { // that there is none is no error
		if err := s.removeSockets(); err != nil {
			t.Error(err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestCode: what a caller is told by number, for errors of raypherd and of its enclave.
func TestCode(t *testing.T) {
	for _, c := range []struct {
		err  error
		code codes.Code
	}{
		{fmt.Errorf("x: %w", errNotGoverned), codes.Unauthenticated},
		{fmt.Errorf("x: %w", agents.ErrNotAllowed), codes.PermissionDenied},
		{fmt.Errorf("x: %w", agents.ErrInvalid), codes.InvalidArgument},
		{fmt.Errorf("x: %w", agents.ErrNoAgent), codes.NotFound},
		{fmt.Errorf("x: %w", agents.ErrFull), codes.ResourceExhausted},
		{fmt.Errorf("x: %w", fs.ErrNotExist), codes.NotFound},
		{fmt.Errorf("%w: %w", agents.ErrEnclave, link.ErrDenied), codes.PermissionDenied},
		{fmt.Errorf("%w: %w", agents.ErrEnclave, link.ErrUnreachable), codes.Unavailable},
		{fmt.Errorf("%w: no words", agents.ErrEnclave), codes.Unavailable},
		{errEnding, codes.Unavailable},
		{context.Canceled, codes.Canceled},
		{status.Error(codes.DataLoss, "x"), codes.DataLoss},
		{errors.New("x"), codes.Internal},
	} {
		if got := code(c.err); got != c.code {
			t.Errorf("%v: %v, want %v", c.err, got, c.code)
		}
	}
}

// TestWords: an error is told in words alone, bounded, and as text.
func TestWords(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("%w: p.yaml:3:1: unknown key", agents.ErrInvalid), "p.yaml:3:1: unknown key"},
		{fmt.Errorf("enclave: %w", status.Error(codes.PermissionDenied, "beyond the ceiling")), "enclave: beyond the ceiling"},
		{errors.New("a\xffb"), "a�b"},
	} {
		if got := words(c.err); got != c.want {
			t.Errorf("%v: %q", c.err, got)
		}
	}
	if got := words(errors.New(strings.Repeat("é", 10_000))); len(got) > 9<<10 || !strings.HasSuffix(got, "bytes more)") {
		t.Errorf("a long error has %d bytes", len(got))
	}
}

// TestPanic: a panic ends one call, is counted, and tells the caller nothing of this program.
func TestPanic(t *testing.T) {
	hub, err := events.New(events.Options{Spool: filepath.Join(t.TempDir(), "spool")})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{options: Options{Events: hub, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}}
	err = s.finish("/x", "secret of the heap", nil)
	if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") || hub.Counters()["panics"] != 1 {
		t.Errorf("%v, %v", err, hub.Counters())
	}
}
