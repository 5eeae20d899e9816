package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/connection"
	"github.com/raypher/raypher/controller/peer"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// stranger is who has made a key for himself, before a server on two addresses.
type stranger struct {
	rpc, web    string
	server      startconf.KeyHash
	certificate tls.Certificate
}

func newStranger(t *testing.T, timeout time.Duration) *stranger {
	t.Helper()
	made := func(name string) (tls.Certificate, startconf.KeyHash) {
		key, _, err := peer.OpenKey(filepath.Join(t.TempDir(), name), true)
		if err != nil {
			t.Fatal(err)
		}
		certificate, hash, err := peer.Certificate(key, name)
		if err != nil {
			t.Fatal(err)
		}
		return certificate, hash
	}
	of := &stranger{}
	certificate, hash := made("server")
	of.server = hash
	of.certificate, _ = made("stranger")
	s, err := New(Options{
		Certificate: certificate, Log: slog.New(slog.DiscardHandler), callTimeout: timeout,
		Register: func(r grpc.ServiceRegistrar) {
			controllerv1.RegisterFleetServer(r, controllerv1.UnimplementedFleetServer{})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	listen := func(address *string) net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*address = l.Addr().String()
		return l
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	rpc, web := listen(&of.rpc), listen(&of.web)
	go func() { ended <- s.Serve(ctx, rpc, web) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return of
}

// Who begins a call and does not end what it asks is cut off: what it has sent would lie in memory for as long as it likes.
func TestHalfARequest(t *testing.T) {
	s := newStranger(t, 100*time.Millisecond)
	conn, err := connection.Open(s.rpc, s.server, s.certificate)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, controllerv1.Fleet_RemoveHost_FullMethodName)
	if err != nil {
		t.Fatal(err)
	}
	err = stream.RecvMsg(&controllerv1.RemoveHostReply{})
	if ctx.Err() != nil || err == nil {
		t.Errorf("it is waited for: %v", err)
	}
	t.Log(status.Code(err))
}

// A request of a million elements is refused before it is decoded: they would take fifty times its bytes.
func TestManyElements(t *testing.T) {
	s := newStranger(t, 0)
	conn, err := connection.Open(s.rpc, s.server, s.certificate)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	web := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: startconf.PinnedTLS(s.certificate, s.server)}}
	for elements, refused := range map[int]bool{MaxFields / 2: false, MaxFields + 1: true, 1_000_000: true} {
		report := &controllerv1.ReportRequest{Policies: make([]*controllerv1.PolicyVersion, elements)}
		for i := range report.Policies {
			report.Policies[i] = &controllerv1.PolicyVersion{}
		}
		_, err := controllerv1.NewFleetClient(conn).Report(t.Context(), report)
		if (status.Code(err) != codes.Unimplemented) != refused {
			t.Errorf("%d elements: %v", elements, err)
		}
		body := `{"policies":[` + strings.TrimSuffix(strings.Repeat("{},", elements), ",") + `]}`
		reply, err := web.Post("https://"+s.web+"/v1/report", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		reply.Body.Close()
		if (reply.StatusCode != http.StatusNotImplemented) != refused {
			t.Errorf("%d elements over HTTP: %s", elements, reply.Status)
		}
	}
}

// Over HTTP the same bounds hold as over gRPC: calls at once on a connection, and the size of a request.
func TestBoundsOfHTTP(t *testing.T) {
	s := newStranger(t, 0)
	config := startconf.PinnedTLS(s.certificate, s.server)
	web := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: config}}
	for size, want := range map[int]codes.Code{MaxReceive / 2: codes.Unimplemented, MaxReceive + 1: codes.ResourceExhausted} {
		body := append(append([]byte(`{"list":"`), bytes.Repeat([]byte("A"), (size+2)/3*4)...), `"}`...)
		reply, err := web.Post("https://"+s.web+"/v1/measurements", "application/json", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(reply.Body)
		reply.Body.Close()
		if err != nil || !bytes.Contains(said, fmt.Appendf(nil, `"code":%d`, want)) {
			t.Errorf("%d bytes: %.200s, %v", size, said, err)
		}
	}

	config = config.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", s.web, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	frame, err := framer.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	settings, ok := frame.(*http2.SettingsFrame)
	if !ok {
		t.Fatalf("%v", frame)
	}
	if most, ok := settings.Value(http2.SettingMaxConcurrentStreams); !ok || most != MaxStreams {
		t.Errorf("%d calls at once", most)
	}
}
