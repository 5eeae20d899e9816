package server_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/connection"
	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/controller/server"
	"github.com/raypher/raypher/controller/store"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// broken is a service whose calls end as a host's name says.
type broken struct {
	controllerv1.UnimplementedFleetServer
}

func (broken) RemoveHost(_ context.Context, request *controllerv1.RemoveHostRequest) (*controllerv1.RemoveHostReply, error) {
	switch request.GetName() {
	case "panic":
		panic("a bug")
	case "full":
		return nil, fmt.Errorf("%w: disk", store.ErrFull)
	case "away":
		return nil, fmt.Errorf("%w: refused", store.ErrUnavailable)
	case "bug":
		return nil, errors.New("what only the log may tell")
	}
	return &controllerv1.RemoveHostReply{}, nil
}

type front struct {
	rpc, web    string
	key         startconf.KeyHash
	certificate tls.Certificate
}

func serve(t *testing.T, healthy func(context.Context) error) *front {
	t.Helper()
	key, _, err := peer.OpenKey(filepath.Join(t.TempDir(), "key"), true)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{}
	if f.certificate, f.key, err = peer.Certificate(key, "test"); err != nil {
		t.Fatal(err)
	}
	s, err := server.New(server.Options{
		Certificate: f.certificate, Log: slog.New(slog.DiscardHandler), Healthy: healthy,
		Register: func(r grpc.ServiceRegistrar) { controllerv1.RegisterFleetServer(r, broken{}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	rpc, web := listen(), listen()
	f.rpc, f.web = rpc.Addr().String(), web.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, rpc, web) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return f
}

// What goes wrong in a call ends that call, with its code and with words for the caller, over gRPC and HTTP alike.
func TestErrors(t *testing.T) {
	f := serve(t, nil)
	conn, err := connection.Open(f.rpc, f.key, f.certificate)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	web := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: startconf.PinnedTLS(f.certificate, f.key)}}
	for _, c := range []struct {
		name string
		code codes.Code
		http int
		says string
	}{
		{"panic", codes.Internal, 500, "internal error"},
		{"full", codes.ResourceExhausted, 429, "no space left"},
		{"away", codes.Unavailable, 503, "does not answer"},
		{"bug", codes.Internal, 500, "internal error"},
		{"well", codes.OK, 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := controllerv1.NewFleetClient(conn).RemoveHost(context.Background(), &controllerv1.RemoveHostRequest{Name: c.name})
			if status.Code(err) != c.code || !strings.Contains(status.Convert(err).Message(), c.says) {
				t.Errorf("gRPC: %v", err)
			}
			request, err := http.NewRequest(http.MethodDelete, "https://"+f.web+"/v1/hosts/"+c.name, nil)
			if err != nil {
				t.Fatal(err)
			}
			reply, err := web.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer reply.Body.Close()
			text, _ := io.ReadAll(reply.Body)
			if reply.StatusCode != c.http || !strings.Contains(string(text), c.says) || strings.Contains(string(text), "only the log") {
				t.Errorf("HTTP: %s %s", reply.Status, text)
			}
		})
	}
}

func TestHealth(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code int
	}{"well": {nil, 200}, "database away": {store.ErrUnavailable, 503}} {
		t.Run(name, func(t *testing.T) {
			f := serve(t, func(context.Context) error { return c.err })
			web := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: startconf.PinnedTLS(tls.Certificate{}, f.key)}}
			reply, err := web.Get("https://" + f.web + server.PathHealth)
			if err != nil {
				t.Fatal(err)
			}
			reply.Body.Close()
			if reply.StatusCode != c.code {
				t.Error(reply.Status)
			}
		})
	}
}

// A client takes no other server for the controller.
func TestPinnedKey(t *testing.T) {
	f := serve(t, nil)
	conn, err := connection.Open(f.rpc, startconf.KeyHash{1}, f.certificate)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = controllerv1.NewFleetClient(conn).RemoveHost(context.Background(), &controllerv1.RemoveHostRequest{Name: "well"})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), startconf.ErrController.Error()) {
		t.Error(err)
	}
}
