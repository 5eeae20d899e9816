// Package conduit gives an enclave without a network connections to the few hosts that it needs: its controller, a key service. The enclave
// asks on the Dial stream, the parent connects, and a Connect stream carries the bytes of each connection. The parent sees, delays,
// changes and drops what it likes; so whoever uses a connection begins TLS on it, and no name here says who answers.
//
// DialCarried is for the many and busy connections to providers of models: each has a connection of its own from the parent (package
// internal/carrier) instead of a stream.
//
// Everything is bounded: connections, what waits in memory (gRPC's flow control), and the time until a parent that is silent, stalls or
// lies has become an error.
package conduit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Bounds.
const (
	MaxConnections = 16               // open and asked for, together
	MaxCarried     = 2048             // of DialCarried, besides
	MaxArriving    = 256              // handed to Carry, whose number did not come yet
	MaxChunk       = 64 << 10         // bytes of one message
	Timeout        = 20 * time.Second // until a connection that was asked for is there
	StallTimeout   = 30 * time.Second // until bytes that the enclave sends have to be taken by the parent
	firstTimeout   = 10 * time.Second // for the first message of either stream
	maxReason      = 512              // bytes, of the parent's words
	maxHost        = 253              // bytes (RFC 1035, section 2.3.4)
)

// Errors that callers tell apart; the messages hold the details.
var (
	// ErrNoParent: no parent has opened the Dial stream, or it ended before it answered.
	ErrNoParent = errors.New("no parent carries connections")
	// ErrRefused: the parent says that it did not connect.
	ErrRefused = errors.New("the parent did not connect")
	// ErrBusy: MaxConnections are in use.
	ErrBusy = errors.New("too many connections")
)

// Dialer serves the two streams and hands out connections. It is safe for concurrent use.
type Dialer struct {
	stall  time.Duration // StallTimeout; tests are more impatient
	tokens chan struct{} // one for each connection that is open or asked for
	places chan struct{} // the same, of DialCarried
	begun  chan struct{} // one for each connection whose number is waited for

	mu      sync.Mutex
	stream  *asking // newest; nil: none
	arrived chan struct{}
	last    uint64 // number of a request; none is used twice
	pending map[uint64]*request
}

// asking is one Dial stream.
type asking struct {
	requests chan *enclavev1.DialRequest
	ended    chan struct{} // closed when it is over or was replaced
	once     sync.Once
}

func (a *asking) end() { a.once.Do(func() { close(a.ended) }) }

// request waits for a Connect stream or a DialResult. It is answered while it is pending, once.
type request struct {
	document bool        // a document is wanted, and no connection
	carried  bool        // a connection of its own is wanted, and no stream
	answer   chan answer // room for one
}

type answer struct {
	conn     *conn
	carried  net.Conn
	document []byte
	err      error
}

// New returns a dialer to which no parent is connected yet.
func New() *Dialer {
	return &Dialer{stall: StallTimeout, tokens: make(chan struct{}, MaxConnections), places: make(chan struct{}, MaxCarried), begun: make(chan struct{}, MaxArriving), arrived: make(chan struct{}), pending: make(map[uint64]*request)}
}

// DialContext asks for a TCP connection and waits for it until ctx ends, at most Timeout; also for a parent that is not there yet.
// Closing the connection frees its place. Errors wrap ErrNoParent, ErrRefused, ErrBusy or that of the context.
func (d *Dialer) DialContext(ctx context.Context, host string, port uint16) (net.Conn, error) {
	got, err := d.open(ctx, d.tokens, &enclavev1.DialRequest{Host: host, Port: uint32(port)})
	if err != nil {
		return nil, err
	}
	return got.conn, nil
}

// open asks for a connection that takes one of places, which whoever closes it gives back.
func (d *Dialer) open(ctx context.Context, places chan struct{}, m *enclavev1.DialRequest) (answer, error) {
	if m.Host == "" || len(m.Host) > maxHost || m.Port == 0 {
		return answer{}, fmt.Errorf("dial %.80q, port %d: use a host of 1 to %d bytes and a port from 1", m.Host, m.Port, maxHost)
	}
	select {
	case places <- struct{}{}:
	default:
		return answer{}, fmt.Errorf("dial %s:%d: %w: %d are open", m.Host, m.Port, ErrBusy, cap(places))
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	got, err := d.ask(ctx, m)
	if err != nil {
		<-places
		return answer{}, fmt.Errorf("dial %s:%d: %w", m.Host, m.Port, err)
	}
	return got, nil
}

// ask sends a request, under the next number, and waits for what answers it.
func (d *Dialer) ask(ctx context.Context, m *enclavev1.DialRequest) (answer, error) {
	a, err := d.attached(ctx)
	if err != nil {
		return answer{}, err
	}
	r := &request{document: len(m.GetNitroTpmNonce()) > 0, carried: m.GetCarrier(), answer: make(chan answer, 1)}
	d.mu.Lock()
	d.last++
	m.Number = d.last
	d.pending[m.Number] = r
	d.mu.Unlock()
	defer d.forget(m.Number, r)
	select {
	case a.requests <- m:
	case <-a.ended:
		return answer{}, fmt.Errorf("%w: its stream ended", ErrNoParent)
	case <-ctx.Done():
		return answer{}, fmt.Errorf("%w: it does not take requests: %w", ErrNoParent, ctx.Err())
	}
	select {
	case got := <-r.answer:
		return got, got.err
	case <-a.ended:
		return answer{}, fmt.Errorf("%w: its stream ended", ErrNoParent)
	case <-ctx.Done():
		return answer{}, fmt.Errorf("%w: no answer: %w", ErrNoParent, ctx.Err())
	}
}

// forget ends a request. A connection that came too late is closed.
func (d *Dialer) forget(number uint64, r *request) {
	d.mu.Lock()
	delete(d.pending, number)
	d.mu.Unlock()
	select {
	case late := <-r.answer:
		if late.conn != nil {
			late.conn.close()
		}
		if late.carried != nil {
			late.carried.Close()
		}
	default: // it was read, or there is none and never will be
	}
}

// connected ends the wait for a connection; false: nobody waits for one of its kind.
func (d *Dialer) connected(number uint64, a answer) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.pending[number]
	if r == nil || r.document || r.carried != (a.carried != nil) {
		return false
	}
	delete(d.pending, number)
	r.answer <- a
	return true
}

// attached waits for a Dial stream.
func (d *Dialer) attached(ctx context.Context) (*asking, error) {
	for {
		d.mu.Lock()
		a, arrived := d.stream, d.arrived
		d.mu.Unlock()
		if a != nil {
			return a, nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ErrNoParent, ctx.Err())
		}
	}
}

// Dial serves one Dial stream until it ends or another one replaces it.
func (d *Dialer) Dial(stream enclavev1.Enclave_DialServer) error {
	if _, err := first(stream.Recv); err != nil {
		return err
	}
	a := &asking{requests: make(chan *enclavev1.DialRequest), ended: make(chan struct{})}
	d.attach(a)
	defer d.detach(a)
	received := make(chan error, 1)
	go func() { received <- d.receive(stream) }() // ends with the stream
	for {
		select {
		case r := <-a.requests:
			if err := stream.Send(r); err != nil {
				return err
			}
		case err := <-received:
			return err
		case <-a.ended:
			return status.Error(codes.Aborted, "dial: another stream took its place")
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (d *Dialer) attach(a *asking) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stream != nil {
		d.stream.end()
	}
	d.stream = a
	close(d.arrived)
	d.arrived = make(chan struct{})
}

func (d *Dialer) detach(a *asking) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a.end()
	if d.stream == a {
		d.stream = nil
	}
}

// receive reads what the parent could not connect to, and its documents.
func (d *Dialer) receive(stream enclavev1.Enclave_DialServer) error {
	for {
		result, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := d.take(result); err != nil {
			return err
		}
	}
}

func (d *Dialer) take(m *enclavev1.DialResult) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	number := m.GetNumber()
	if number == 0 || number > d.last {
		return status.Errorf(codes.InvalidArgument, "dial: result for request %d, which was not made", number)
	}
	if r := d.pending[number]; r != nil { // else nobody waits any more
		delete(d.pending, number)
		r.answer <- r.result(m)
	}
	return nil
}

// first waits for the first message of a stream, which ends with the caller.
func first[M any](recv func() (*M, error)) (*M, error) {
	type received struct {
		message *M
		err     error
	}
	got := make(chan received, 1)
	go func() {
		m, err := recv()
		got <- received{m, err}
	}()
	select {
	case r := <-got:
		return r.message, r.err
	case <-time.After(firstTimeout):
		return nil, status.Errorf(codes.DeadlineExceeded, "no first message within %s", firstTimeout)
	}
}
