package conduit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// patience bounds waits; nothing is asserted about time.
const patience = 30 * time.Second

type service struct {
	enclavev1.UnimplementedEnclaveServer
	*Dialer
}

func (s service) Dial(stream enclavev1.Enclave_DialServer) error { return s.Dialer.Dial(stream) }
func (s service) Connect(stream enclavev1.Enclave_ConnectServer) error {
	return s.Dialer.Connect(stream)
}

// parent is a client that does what a test wants.
type parent struct {
	t      *testing.T
	ctx    context.Context
	client enclavev1.EnclaveClient
	stream enclavev1.Enclave_DialClient
}

func serve(t *testing.T) (*Dialer, *parent) {
	t.Helper()
	d := New()
	l := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	enclavev1.RegisterEnclaveServer(server, service{Dialer: d})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///enclave", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(func() { cancel(); conn.Close(); server.Stop(); <-served })
	return d, &parent{t: t, ctx: ctx, client: enclavev1.NewEnclaveClient(conn)}
}

// attach opens the Dial stream.
func (p *parent) attach() {
	p.t.Helper()
	var err error
	if p.stream, err = p.client.Dial(p.ctx); err == nil {
		err = p.stream.Send(&enclavev1.DialResult{})
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *parent) asked() *enclavev1.DialRequest {
	p.t.Helper()
	r, err := p.stream.Recv()
	if err != nil {
		p.t.Fatal(err)
	}
	return r
}

func (p *parent) connect(number uint64) enclavev1.Enclave_ConnectClient {
	p.t.Helper()
	stream, err := p.client.Connect(p.ctx)
	if err == nil {
		err = stream.Send(&enclavev1.Bytes{Number: number})
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return stream
}

type dialed struct {
	conn net.Conn
	err  error
}

func start(ctx context.Context, d *Dialer) <-chan dialed {
	got := make(chan dialed, 1)
	go func() {
		conn, err := d.DialContext(ctx, "host.example", 443)
		got <- dialed{conn, err}
	}()
	return got
}

// open is a connection with both ends.
func open(t *testing.T, d *Dialer, p *parent) (net.Conn, enclavev1.Enclave_ConnectClient) {
	t.Helper()
	waiting := start(p.ctx, d)
	stream := p.connect(p.asked().GetNumber())
	got := <-waiting
	if got.err != nil {
		t.Fatal(got.err)
	}
	t.Cleanup(func() { got.conn.Close() })
	return got.conn, stream
}

func TestBytesTravelBothWays(t *testing.T) {
	d, p := serve(t)
	waiting := start(p.ctx, d) // also before a parent is there
	p.attach()
	r := p.asked()
	if r.GetHost() != "host.example" || r.GetPort() != 443 || r.GetNumber() != 1 {
		t.Errorf("asked for %v", r)
	}
	stream := p.connect(r.GetNumber())
	got := <-waiting
	if got.err != nil {
		t.Fatal(got.err)
	}
	sent := bytes.Repeat([]byte("0123456789"), 50_000)
	go func() {
		got.conn.Write(sent)
		got.conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	var received []byte
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(m.GetChunk()) == 0 {
			break // nothing more comes
		}
		received = append(received, m.GetChunk()...)
	}
	if !bytes.Equal(received, sent) {
		t.Errorf("%d bytes of %d arrived", len(received), len(sent))
	}
	if err := errors.Join(stream.Send(&enclavev1.Bytes{Chunk: []byte("answer")}), stream.CloseSend()); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(got.conn); err != nil || string(answer) != "answer" {
		t.Errorf("%q, %v", answer, err)
	}
	got.conn.Close()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the enclave closed: %v", err)
	}
}

// What was written before Close arrives.
func TestCloseLosesNothing(t *testing.T) {
	d, p := serve(t)
	p.attach()
	for range 50 {
		conn, stream := open(t, d, p)
		if _, err := conn.Write([]byte("last words")); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		m, err := stream.Recv()
		if err != nil || string(m.GetChunk()) != "last words" {
			t.Fatalf("%v, %v", m, err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Fatalf("after it: %v", err)
		}
	}
}

func TestNoParent(t *testing.T) {
	d, p := serve(t)
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := d.DialContext(ctx, "h", 1); !errors.Is(err, ErrNoParent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody there: %v", err)
	}
	p.attach()
	ctx, cancel = context.WithTimeout(p.ctx, 20*time.Millisecond)
	defer cancel()
	if _, err := d.DialContext(ctx, "h", 1); !errors.Is(err, ErrNoParent) {
		t.Errorf("a silent parent: %v", err)
	}
	p.asked()
	stream := p.connect(1) // too late
	if _, err := stream.Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a connection that came too late: %v", err)
	}
	waiting := start(p.ctx, d)
	p.asked()
	p.stream.CloseSend()
	if got := <-waiting; !errors.Is(got.err, ErrNoParent) {
		t.Errorf("the stream ended before the answer: %v", got.err)
	}
}

func TestSecondStreamReplacesTheFirst(t *testing.T) {
	d, p := serve(t)
	p.attach()
	waiting := start(p.ctx, d)
	number := p.asked().GetNumber()
	first := p.stream
	p.attach()
	if _, err := first.Recv(); status.Code(err) != codes.Aborted {
		t.Errorf("the first stream: %v", err)
	}
	if got := <-waiting; !errors.Is(got.err, ErrNoParent) {
		t.Errorf("what was asked on it: %v", got.err)
	}
	waiting = start(p.ctx, d)
	next := p.asked().GetNumber()
	if next <= number {
		t.Errorf("number %d after %d", next, number)
	}
	p.connect(next)
	if got := <-waiting; got.err != nil {
		t.Error(got.err)
	}
}

func TestRefusedByTheParent(t *testing.T) {
	d, p := serve(t)
	p.attach()
	waiting := start(p.ctx, d)
	number := p.asked().GetNumber()
	if err := p.stream.Send(&enclavev1.DialResult{Number: number, Error: "not\x00listed" + strings.Repeat("x", 1<<16)}); err != nil {
		t.Fatal(err)
	}
	got := <-waiting
	if !errors.Is(got.err, ErrRefused) || !strings.Contains(got.err.Error(), `not\x00listed`) || len(got.err.Error()) > 2*maxReason {
		t.Errorf("%.100v", got.err)
	}
}

// A parent that breaks the rules is cut off; the enclave's other connections are not touched.
func TestLyingParent(t *testing.T) {
	d, p := serve(t)
	p.attach()
	steady, other := open(t, d, p)
	for name, lie := range map[string]func() error{
		"a number that was not asked for": func() error {
			_, err := p.connect(1 << 40).Recv()
			return err
		},
		"a number twice": func() error {
			_, err := p.connect(1).Recv()
			return err
		},
		"number 0": func() error {
			_, err := p.connect(0).Recv()
			return err
		},
		"bytes before a number": func() error {
			stream, err := p.client.Connect(p.ctx)
			if err == nil {
				err = stream.Send(&enclavev1.Bytes{Chunk: []byte("x")})
			}
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"too large a message": func() error {
			conn, stream := open(t, d, p)
			stream.Send(&enclavev1.Bytes{Chunk: make([]byte, MaxChunk+1)})
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
				t.Errorf("reader got %v", err)
			}
			_, err := stream.Recv()
			return err
		},
		"an empty message": func() error {
			_, stream := open(t, d, p)
			stream.Send(&enclavev1.Bytes{})
			_, err := stream.Recv()
			return err
		},
	} {
		if err := lie(); status.Code(err) != codes.InvalidArgument && status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := p.stream.Send(&enclavev1.DialResult{Number: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a result for what was not asked: %v", err)
	}
	other.Send(&enclavev1.Bytes{Chunk: []byte("still here")})
	b := make([]byte, 10)
	if _, err := io.ReadFull(steady, b); err != nil || string(b) != "still here" {
		t.Errorf("%q, %v", b, err)
	}
}

// A connection that breaks off is no end: who reads gets an error.
func TestBrokenConnection(t *testing.T) {
	d, p := serve(t)
	p.attach()
	waiting := start(p.ctx, d)
	ctx, cancel := context.WithCancel(p.ctx)
	stream, err := p.client.Connect(ctx)
	if err == nil {
		err = stream.Send(&enclavev1.Bytes{Number: p.asked().GetNumber()})
	}
	if err != nil {
		t.Fatal(err)
	}
	got := <-waiting
	if got.err != nil {
		t.Fatal(got.err)
	}
	cancel()
	if _, err := got.conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read: %v", err)
	}
	if _, err := got.conn.Write([]byte("x")); err == nil {
		t.Error("written to a connection that is gone")
	}
}

// A parent that takes nothing makes writers fail, and memory does not grow: what is written stays with the writer.
func TestStallingParent(t *testing.T) {
	d, p := serve(t)
	d.stall = 50 * time.Millisecond
	p.attach()
	conn, _ := open(t, d, p)
	written := 0
	for {
		n, err := conn.Write(make([]byte, MaxChunk))
		written += n
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatalf("after %d bytes: %v", written, err)
		}
		if written > 16<<20 {
			t.Fatal("a parent that reads nothing was sent 16 MiB")
		}
	}
}

func TestDeadlines(t *testing.T) {
	d, p := serve(t)
	p.attach()
	conn, _ := open(t, d, p)
	conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	var timeout net.Error
	if _, err := conn.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("read: %v", err)
	}
	conn.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}

func TestBoundOfConnections(t *testing.T) {
	d, p := serve(t)
	p.attach()
	var conns []net.Conn
	for range MaxConnections {
		conn, _ := open(t, d, p)
		conns = append(conns, conn)
	}
	if _, err := d.DialContext(p.ctx, "h", 1); !errors.Is(err, ErrBusy) {
		t.Errorf("one more: %v", err)
	}
	conns[3].Close()
	conns[3].Close() // frees one place, not two
	open(t, d, p)
	if _, err := d.DialContext(p.ctx, "h", 1); !errors.Is(err, ErrBusy) {
		t.Errorf("one more than that: %v", err)
	}
}
