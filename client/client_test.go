package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/client"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

func Example() {
	c, err := client.FromEnvironment()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	// From here on this agent reads one folder and reaches nobody, until it asks again.
	visa, err := c.RequestVisa(ctx, client.Request{
		Intent:       []byte("filesystem: {read: [/srv/reports/**]}\nnetwork: {default_action: drop}\n"),
		GuardFollows: true,
	})
	if errors.Is(err, client.ErrBeyond) {
		fmt.Println("this run was granted less than that:", err)
		return
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("until", visa.Expires)
}

// raypherd answers as the real one does; the real one is asked in parent/daemon.
type raypherd struct {
	parentv1.UnimplementedAgentServer
	code codes.Code
	last *parentv1.RequestVisaRequest
}

func (r *raypherd) Whoami(context.Context, *parentv1.WhoamiRequest) (*parentv1.Identity, error) {
	if r.code != codes.OK {
		return nil, status.Error(r.code, "in raypherd's words")
	}
	return &parentv1.Identity{AgentId: "a1", Subject: "spiffe://x/ns/n/agent/a", Tier: "software", ExpiresUnix: 100}, nil
}

func (r *raypherd) RequestVisa(_ context.Context, q *parentv1.RequestVisaRequest) (*parentv1.VisaReply, error) {
	r.last = q
	if r.code != codes.OK {
		return nil, status.Error(r.code, "in raypherd's words")
	}
	return &parentv1.VisaReply{Visa: []byte("visa"), Permit: []byte("{}"), ExpiresUnix: 100}, nil
}

func serve(t *testing.T) (*raypherd, *client.Client) {
	t.Helper()
	r := &raypherd{}
	return r, serveAgent(t, r)
}

func serveAgent(t *testing.T, service parentv1.AgentServer) *client.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	parentv1.RegisterAgentServer(g, service)
	go g.Serve(l)
	t.Cleanup(g.Stop)
	t.Setenv(client.SocketVariable, socket)
	c, err := client.FromEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRequests(t *testing.T) {
	r, c := serve(t)
	id, err := c.Whoami(t.Context())
	if err != nil || id.AgentID != "a1" || !id.Expires.Equal(time.Unix(100, 0)) {
		t.Errorf("whoami %+v, %v", id, err)
	}
	v, err := c.RequestVisa(t.Context(), client.Request{Intent: []byte("x"), Lifetime: time.Minute, GuardFollows: true})
	if err != nil || string(v.Bytes) != "visa" || r.last.TtlSeconds != 60 || !r.last.GuardFollows {
		t.Errorf("visa %+v for %+v, %v", v, r.last, err)
	}
	if _, err := c.RequestVisa(t.Context(), client.Request{Lifetime: time.Millisecond}); err == nil {
		t.Error("a lifetime of a millisecond was asked for")
	}
}

func TestErrorsHaveMeaning(t *testing.T) {
	r, c := serve(t)
	for _, tt := range []struct {
		code         codes.Code
		whoami, visa error
	}{
		{codes.Unauthenticated, client.ErrNotGoverned, client.ErrNotGoverned},
		{codes.PermissionDenied, client.ErrBeyond, client.ErrBeyond},
		{codes.InvalidArgument, client.ErrBeyond, client.ErrBeyond},
		{codes.Unavailable, client.ErrUnavailable, client.ErrUnavailable},
		{codes.DeadlineExceeded, context.DeadlineExceeded, context.DeadlineExceeded},
	} {
		r.code = tt.code
		if _, err := c.Whoami(t.Context()); !errors.Is(err, tt.whoami) {
			t.Errorf("%v of whoami: %v, want %v", tt.code, err, tt.whoami)
		}
		if _, err := c.RequestVisa(t.Context(), client.Request{}); !errors.Is(err, tt.visa) {
			t.Errorf("%v of a request: %v, want %v", tt.code, err, tt.visa)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv(client.SocketVariable, "relative")
	if _, err := client.FromEnvironment(); err == nil {
		t.Error("a relative socket was accepted")
	}
}
