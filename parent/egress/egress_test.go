package egress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/raypher/raypher/enclave/conduit"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// patience bounds waits; nothing is asserted about time.
const patience = 30 * time.Second

type enclave struct {
	enclavev1.UnimplementedEnclaveServer
	dialer *conduit.Dialer
}

func (e *enclave) Dial(stream enclavev1.Enclave_DialServer) error { return e.dialer.Dial(stream) }
func (e *enclave) Connect(stream enclavev1.Enclave_ConnectServer) error {
	return e.dialer.Connect(stream)
}

// carried is a dialer of an enclave whose parent's list has the given hosts.
func carried(t *testing.T, allowed ...string) (*conduit.Dialer, context.Context) {
	t.Helper()
	return served(t, Options{Allowed: allowed})
}

// served is a dialer of an enclave whose parent has the given options, but for the client and the log.
func served(t *testing.T, o Options) (*conduit.Dialer, context.Context) {
	t.Helper()
	e := &enclave{dialer: conduit.New()}
	l := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	enclavev1.RegisterEnclaveServer(server, e)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///enclave", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		o.Client, o.Log = enclavev1.NewEnclaveClient(conn), slog.New(slog.DiscardHandler)
		Run(ctx, o)
	}()
	t.Cleanup(func() { cancel(); <-ran; conn.Close(); server.Stop(); <-served })
	return e.dialer, ctx
}

// host is a TCP server that treats one connection after the other with f.
func host(t *testing.T, f func(*net.TCPConn)) (address string, port uint16) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f(conn.(*net.TCPConn))
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String(), uint16(l.Addr().(*net.TCPAddr).Port)
}

func TestHostIsReached(t *testing.T) {
	sent := bytes.Repeat([]byte("0123456789"), 200_000)
	address, port := host(t, func(c *net.TCPConn) {
		defer c.Close()
		all, err := io.ReadAll(c) // to the enclave's half-close
		if err != nil {
			t.Errorf("host: %v", err)
		}
		c.Write(all)
	})
	d, ctx := carried(t, address)
	for range 3 {
		conn, err := d.DialContext(ctx, "127.0.0.1", port)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			conn.Write(sent)
			conn.(interface{ CloseWrite() error }).CloseWrite()
		}()
		if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes of %d came back: %v", len(got), len(sent), err)
		}
		conn.Close()
	}
}

// The document of the NitroTPM is handed to the enclave as it is; what keeps it from coming, too.
func TestInstanceDocument(t *testing.T) {
	nonce := bytes.Repeat([]byte{7}, nonceSize)
	d, ctx := served(t, Options{InstanceDocument: func(_ context.Context, got []byte) ([]byte, error) {
		if got[0] == 9 {
			return nil, errors.New("the TPM is away")
		}
		return append([]byte("over "), got...), nil
	}})
	if got, err := d.InstanceDocument(ctx, nonce); err != nil || !bytes.Equal(got, append([]byte("over "), nonce...)) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := d.InstanceDocument(ctx, nonce[1:]); !errors.Is(err, conduit.ErrRefused) || !strings.Contains(err.Error(), "31 bytes") {
		t.Errorf("a nonce of another size: %v", err)
	}
	nonce[0] = 9
	if _, err := d.InstanceDocument(ctx, nonce); !errors.Is(err, conduit.ErrRefused) || !strings.Contains(err.Error(), "the TPM is away") {
		t.Errorf("a TPM that is away: %v", err)
	}
	d, ctx = carried(t)
	if _, err := d.InstanceDocument(ctx, nonce); !errors.Is(err, conduit.ErrRefused) || !strings.Contains(err.Error(), "--tpm-device") {
		t.Errorf("a host without one: %v", err)
	}
}

// A host that is not on the list is not connected to, whatever the enclave says.
func TestListIsKept(t *testing.T) {
	accepted := make(chan struct{}, 8)
	address, port := host(t, func(c *net.TCPConn) { c.Close(); accepted <- struct{}{} })
	d, ctx := carried(t, net.JoinHostPort("localhost", strconv.Itoa(int(port))), "127.0.0.1:1")
	for _, name := range []string{"127.0.0.1", "LOCALHOST", "localhost.", "::1"} {
		if _, err := d.DialContext(ctx, name, port); !errors.Is(err, conduit.ErrRefused) || !strings.Contains(err.Error(), "--enclave-egress") {
			t.Errorf("%s of %s: %v", name, address, err)
		}
	}
	if len(accepted) != 0 {
		t.Error("the host was connected to")
	}
	conn, err := d.DialContext(ctx, "localhost", port)
	if err != nil {
		t.Fatalf("the listed one: %v", err)
	}
	conn.Close()
}

func TestHostThatIsAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address, port := l.Addr().String(), uint16(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	d, ctx := carried(t, address)
	if _, err := d.DialContext(ctx, "127.0.0.1", port); !errors.Is(err, conduit.ErrRefused) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("%v", err)
	}
}

// A reset by the host is one for the enclave, and no end.
func TestReset(t *testing.T) {
	address, port := host(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 1))
		c.SetLinger(0)
		c.Close()
	})
	d, ctx := carried(t, address)
	conn, err := d.DialContext(ctx, "127.0.0.1", port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read: %v", err)
	}
}

// When the enclave closes, the host sees an end.
func TestEnclaveCloses(t *testing.T) {
	saw := make(chan error, 1)
	address, port := host(t, func(c *net.TCPConn) {
		defer c.Close()
		_, err := io.Copy(io.Discard, c)
		saw <- err
	})
	d, ctx := carried(t, address)
	conn, err := d.DialContext(ctx, "127.0.0.1", port)
	if err != nil {
		t.Fatal(err)
	}
	conn.Write([]byte("x"))
	conn.Close()
	select {
	case err := <-saw:
		if err != nil {
			t.Errorf("host: %v", err)
		}
	case <-ctx.Done():
		t.Error("the host's connection stays open")
	}
}

// The stream is opened again when it broke: here another parent takes its place and goes away.
func TestStreamIsOpenedAgain(t *testing.T) {
	address, port := host(t, func(c *net.TCPConn) { c.Close() })
	d, ctx := carried(t, address)
	for range 2 {
		conn, err := d.DialContext(ctx, "127.0.0.1", port)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		other, cancel := context.WithCancel(ctx)
		stolen := &stealing{ctx: other, first: make(chan struct{})}
		ended := make(chan struct{})
		go func() { defer close(ended); d.Dial(stolen) }()
		<-stolen.first
		cancel()
		<-ended
	}
}

// stealing is a Dial stream without a client behind it.
type stealing struct {
	enclavev1.Enclave_DialServer
	ctx   context.Context
	first chan struct{}
	n     int
}

func (s *stealing) Context() context.Context          { return s.ctx }
func (s *stealing) Send(*enclavev1.DialRequest) error { return nil }

func (s *stealing) Recv() (*enclavev1.DialResult, error) {
	if s.n++; s.n > 1 {
		close(s.first)
		<-s.ctx.Done()
		return nil, s.ctx.Err()
	}
	return &enclavev1.DialResult{}, nil
}

func TestCheckAllowed(t *testing.T) {
	for text, good := range map[string]bool{
		"kms.example:443": true, "[::1]:443": true, "10.0.0.1:1": true,
		"": false, "kms.example": false, "kms.example:0": false, ":443": false, "a b:1": false, "h:65536": false,
	} {
		if err := CheckAllowed([]string{text}); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}
