package conduit

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/internal/carrier"
)

func startCarried(ctx context.Context, d *Dialer) <-chan dialed {
	got := make(chan dialed, 1)
	go func() {
		conn, err := d.DialCarried(ctx, "host.example", 443)
		got <- dialed{conn, err}
	}()
	return got
}

// carry hands a connection to the enclave that begins with some bytes, and returns the parent's end.
func carry(t *testing.T, d *Dialer, begin []byte) net.Conn {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { here.Close() })
	go d.Carry(there)
	if _, err := here.Write(begin); err != nil {
		t.Fatal(err)
	}
	return here
}

// A connection of its own carries what both ends say, and its place is free again when it is closed.
func TestCarriedConnection(t *testing.T) {
	d, p := serve(t)
	p.attach()
	waiting := startCarried(p.ctx, d)
	r := p.asked()
	if !r.GetCarrier() || r.GetHost() != "host.example" || r.GetPort() != 443 {
		t.Errorf("asked for %v", r)
	}
	host := carry(t, d, carrier.NumberPreface(r.GetNumber()))
	got := <-waiting
	if got.err != nil {
		t.Fatal(got.err)
	}
	go host.Write([]byte("hello"))
	b := make([]byte, 5)
	if _, err := io.ReadFull(got.conn, b); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	if len(d.places) != 1 || len(d.tokens) != 0 {
		t.Errorf("%d places and %d tokens are taken", len(d.places), len(d.tokens))
	}
	got.conn.Close()
	got.conn.Close()
	if len(d.places) != 0 {
		t.Errorf("%d places are taken after Close", len(d.places))
	}
}

// A connection that nobody waits for is closed, and a stream in its place refused.
func TestCarriedConnectionsThatNobodyAskedFor(t *testing.T) {
	d, p := serve(t)
	p.attach()
	closed := func(what string, c net.Conn) {
		t.Helper()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", what, err)
		}
	}
	closed("a number that was not asked for", carry(t, d, carrier.NumberPreface(7)))

	stream := start(p.ctx, d)
	number := p.asked().GetNumber()
	closed("one of its own in the place of a stream", carry(t, d, carrier.NumberPreface(number)))
	p.connect(number)
	if got := <-stream; got.err != nil {
		t.Fatal(got.err)
	}

	waiting := startCarried(p.ctx, d)
	number = p.asked().GetNumber()
	if _, err := p.connect(number).Recv(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a stream in the place of one of its own: %v", err)
	}
	carry(t, d, carrier.NumberPreface(number))
	if got := <-waiting; got.err != nil {
		t.Fatal(got.err)
	}
	closed("the same number again", carry(t, d, carrier.NumberPreface(number)))
}

// A parent that opens connections and says nothing has so many and no more.
func TestArrivingConnectionsAreBounded(t *testing.T) {
	d, _ := serve(t)
	silent := make([]net.Conn, 0, MaxArriving)
	var carried sync.WaitGroup
	defer carried.Wait()
	defer func() {
		for _, c := range silent {
			c.Close()
		}
	}()
	for range MaxArriving {
		here, there := net.Pipe()
		silent = append(silent, here)
		carried.Go(func() { d.Carry(there) })
	}
	for len(d.begun) < MaxArriving {
		runtime.Gosched()
	}
	here, there := net.Pipe()
	defer here.Close()
	carried.Go(func() { d.Carry(there) })
	here.SetReadDeadline(time.Now().Add(firstTimeout / 2)) // until then a number would be waited for
	if _, err := here.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("one more: %v", err)
	}
}
