package conduit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Connect serves one connection that DialContext asked for, until both sides are done with it. When it returns nil the enclave closed it.
func (d *Dialer) Connect(stream enclavev1.Enclave_ConnectServer) error {
	begin, err := first(stream.Recv)
	if err != nil {
		return err
	}
	if len(begin.GetChunk()) != 0 {
		return status.Error(codes.InvalidArgument, "connect: the first message names the number and nothing else")
	}
	c := newConn(d.stall, func() { <-d.tokens })
	if !d.connected(begin.GetNumber(), answer{conn: c}) {
		return status.Errorf(codes.FailedPrecondition, "connect: nobody waits for connection %d", begin.GetNumber())
	}
	go c.receive(stream) // ends with the stream
	sent := make(chan error, 1)
	go func() { sent <- c.send(stream) }() // the same
	return c.wait(stream.Context(), sent)
}

// wait returns when the connection is over: nil if the enclave closed it, and then what it wrote before was sent, unless the parent stalls.
func (c *conn) wait(ctx context.Context, sent <-chan error) error {
	select {
	case <-c.closed:
		select {
		case <-sent:
		case <-ctx.Done():
		case <-time.After(c.stall):
		}
	case err := <-sent: // after CloseWrite the other direction goes on
		if err != nil {
			c.fail(err)
			break
		}
		select {
		case <-c.closed:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	c.fail(ctx.Err())
	return c.outcome()
}

// conn is the enclave's end. Each direction is a pipe of its own, so that one can end before the other, with the deadlines of net.Pipe.
type conn struct {
	in, arriving net.Conn // what Read reads, and where it comes in
	out, leaving net.Conn // what Write writes, and where it is taken out
	closed       chan struct{}
	once         sync.Once
	stall        time.Duration
	free         func()

	mu     sync.Mutex
	reason error // why the parent's side is gone
}

func newConn(stall time.Duration, free func()) *conn {
	c := &conn{stall: stall, closed: make(chan struct{}), free: free}
	c.in, c.arriving = net.Pipe()
	c.out, c.leaving = net.Pipe()
	return c
}

// receive hands the parent's bytes to the reader; what is not read stays with gRPC, whose window bounds it.
func (c *conn) receive(stream enclavev1.Enclave_ConnectServer) {
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF): // the host sends no more
			c.arriving.Close()
			return
		case err != nil:
			c.fail(err)
			return
		case len(m.GetChunk()) == 0 || len(m.GetChunk()) > MaxChunk || m.GetNumber() != 0:
			c.fail(status.Errorf(codes.InvalidArgument, "connect: a message of %d bytes, use 1 to %d", len(m.GetChunk()), MaxChunk))
			return
		}
		if _, err := c.arriving.Write(m.GetChunk()); err != nil {
			return // closed
		}
	}
}

// send takes out what was written. It ends with the writing side; an empty message says so to the parent.
func (c *conn) send(stream enclavev1.Enclave_ConnectServer) error {
	buffer := make([]byte, MaxChunk/2)
	for {
		n, err := c.leaving.Read(buffer)
		if n > 0 {
			if err := c.deliver(stream, buffer[:n]); err != nil {
				return err
			}
		}
		if err == nil {
			continue
		}
		select {
		case <-c.closed:
			return nil
		default:
			return c.deliver(stream, nil) // CloseWrite
		}
	}
}

// deliver sends one message, and gives the connection up when the parent does not take it in time.
func (c *conn) deliver(stream enclavev1.Enclave_ConnectServer, chunk []byte) error {
	stalled := time.AfterFunc(c.stall, func() {
		c.fail(fmt.Errorf("the parent took no bytes for %s: %w", c.stall, context.DeadlineExceeded))
	})
	defer stalled.Stop()
	// gRPC has encoded the message when Send returns.
	return stream.Send(&enclavev1.Bytes{Chunk: chunk})
}

// fail ends the connection with a reason, which readers and writers get instead of an end.
func (c *conn) fail(reason error) {
	c.mu.Lock()
	select {
	case <-c.closed: // what comes after is no reason
	default:
		c.reason = reason
	}
	c.mu.Unlock()
	c.close()
}

// close wakes everybody. The place is freed by the user's Close.
func (c *conn) close() {
	c.once.Do(func() {
		close(c.closed)
		for _, end := range []net.Conn{c.in, c.arriving, c.out, c.leaving} {
			end.Close()
		}
	})
}

// outcome is why the parent's side is gone; nil: it is not, or the enclave was first.
func (c *conn) outcome() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reason
}

// explain puts the reason in the place of the end of a pipe.
func (c *conn) explain(err error) error {
	ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe)
	if reason := c.outcome(); ended && reason != nil {
		return fmt.Errorf("connection through the parent: %w", reason)
	}
	if errors.Is(err, io.ErrClosedPipe) {
		return net.ErrClosed
	}
	return err
}

// Read implements net.Conn. The end of what the host sends is io.EOF.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	return n, c.explain(err)
}

// Write implements net.Conn. It returns when gRPC has taken the bytes, which it does as the parent takes earlier ones.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	return n, c.explain(err)
}

// CloseWrite says to the host that nothing more comes.
func (c *conn) CloseWrite() error { return c.out.Close() }

// Close implements net.Conn.
func (c *conn) Close() error {
	c.close()
	c.mu.Lock()
	free := c.free
	c.free = nil
	c.mu.Unlock()
	if free != nil {
		free()
	}
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return address{} }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return address{} }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { return c.in.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }

// address says no more than that the parent is between.
type address struct{}

func (address) Network() string { return "tcp" }
func (address) String() string  { return "through the parent" }
