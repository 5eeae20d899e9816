// Package egress is the parent's half of an enclave's connections: the enclave asks on the Dial stream, and this host connects, to listed
// hosts only, and carries the bytes. What they say is not for this host to read: TLS begins in the enclave. Package parent/link runs it.
//
// Names are resolved by this host's resolver. Nothing here serves governed agents, whose names and packets the guard decides.
package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
)

// Bounds; those of the enclave, package enclave/conduit, hold besides.
const (
	MaxConnections = 16
	MaxCarried     = 2048             // to providers of models, besides
	MaxAllowed     = 64               // hosts on the list
	ConnectTimeout = 10 * time.Second // of TCP, with the name's resolution
	StallTimeout   = 30 * time.Second // until the host has to take bytes
	chunkSize      = 32 << 10         // bytes of one message
	firstRetry     = 500 * time.Millisecond
	lastRetry      = 15 * time.Second
)

// Options of Run.
type Options struct {
	Client  enclavev1.EnclaveClient
	Allowed []string // host:port, as the enclave names them
	// Providers lists those of the cost control in force; they are asked for when the enclave wants one. Open opens the connection that carries
	// such a one, by the number of the request. nil, both: none is carried.
	Providers func(context.Context) ([]string, error)
	Open      func(ctx context.Context, number uint64) (net.Conn, error)
	// InstanceDocument gets the document of this instance's NitroTPM over a nonce; nil: there is none.
	InstanceDocument func(ctx context.Context, nonce []byte) ([]byte, error)
	Log              *slog.Logger
}

// CheckAllowed holds that a list is one of host:port.
func CheckAllowed(list []string) error {
	if len(list) > MaxAllowed {
		return fmt.Errorf("%d hosts for the enclave, at most %d", len(list), MaxAllowed)
	}
	for _, a := range list {
		if _, port, err := startconf.SplitAddress(a); err != nil || port == 0 {
			return fmt.Errorf("host for the enclave %.80q: use host:port, as kms.eu-central-1.amazonaws.com:443", a)
		}
	}
	return nil
}

// Run serves an enclave's connections until ctx ends, and then ends them. It opens the stream again when it breaks.
func Run(ctx context.Context, o Options) {
	for wait := firstRetry; ctx.Err() == nil; wait = min(2*wait, lastRetry) {
		started := time.Now()
		err := serve(ctx, o)
		switch {
		case ctx.Err() != nil:
			return
		case status.Code(err) == codes.Unimplemented: // an older enclave, which asks for nothing
			wait = lastRetry
		case time.Since(started) > lastRetry:
			wait = firstRetry
		}
		o.Log.Debug("the enclave's stream of connections ended, opening it again", "reason", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// serve runs one Dial stream; connections end with it.
func serve(ctx context.Context, o Options) error {
	ctx, cancel := context.WithCancel(ctx)
	var connections sync.WaitGroup
	defer connections.Wait()
	defer cancel()
	stream, err := o.Client.Dial(ctx)
	if err != nil {
		return err
	}
	var sending sync.Mutex
	send := func(r *enclavev1.DialResult) {
		sending.Lock()
		defer sending.Unlock()
		_ = stream.Send(r) // Recv says why it failed
	}
	send(&enclavev1.DialResult{})
	few, many := make(chan struct{}, MaxConnections), make(chan struct{}, MaxCarried)
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		places := few
		if r.GetCarrier() {
			places = many
		}
		select {
		case places <- struct{}{}:
		default:
			send(&enclavev1.DialResult{Number: r.GetNumber(), Error: fmt.Sprintf("%d connections are open, no more are carried", cap(places))})
			continue
		}
		connections.Add(1)
		go func() {
			defer connections.Done()
			defer func() { <-places }()
			if nonce := r.GetNitroTpmNonce(); len(nonce) > 0 {
				send(document(ctx, o, r.GetNumber(), nonce))
				return
			}
			do := carry
			if r.GetCarrier() {
				do = carryProvider
			}
			if err := do(ctx, o, r); err != nil {
				o.Log.Warn("the enclave's connection was not made", "host", r.GetHost(), "port", r.GetPort(), "reason", err)
				send(&enclavev1.DialResult{Number: r.GetNumber(), Error: err.Error()})
			}
		}()
	}
}

// nonceSize is that of a controller's challenge, in bytes.
const nonceSize = 32

// document answers the enclave's wish for the document of the NitroTPM.
func document(ctx context.Context, o Options, number uint64, nonce []byte) *enclavev1.DialResult {
	r := &enclavev1.DialResult{Number: number}
	switch {
	case o.InstanceDocument == nil:
		r.Error = "raypherd was started without --tpm-device: this host shows no NitroTPM"
	case len(nonce) != nonceSize:
		r.Error = fmt.Sprintf("a nonce of %d bytes, expected %d", len(nonce), nonceSize)
	default:
		got, err := o.InstanceDocument(ctx, nonce)
		if err != nil {
			o.Log.Warn("the NitroTPM gave no document: the enclave is attested without it", "reason", err)
			r.Error = err.Error()
		}
		r.NitroTpmDocument = got
	}
	return r
}

// carry connects and carries bytes until the connection is over. An error means that it was never made.
func carry(ctx context.Context, o Options, r *enclavev1.DialRequest) error {
	address := addressOf(r)
	if !slices.Contains(o.Allowed, address) {
		return notListed(address)
	}
	tcp, err := connect(ctx, address)
	if err != nil {
		return err
	}
	defer tcp.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := o.Client.Connect(ctx)
	if err == nil {
		err = stream.Send(&enclavev1.Bytes{Number: r.GetNumber()})
	}
	if err != nil {
		return err
	}
	var once sync.Once
	end := func(err error) {
		once.Do(func() {
			if err != nil {
				_ = tcp.SetLinger(0) // the host sees a reset, as the enclave does
			}
			cancel()
			tcp.Close()
		})
	}
	var both sync.WaitGroup
	both.Go(func() { end(toHost(stream, tcp)) })
	both.Go(func() {
		if err := toEnclave(tcp, stream); err != nil {
			end(err)
		}
	})
	both.Wait()
	return nil
}

func addressOf(r *enclavev1.DialRequest) string {
	return net.JoinHostPort(r.GetHost(), strconv.FormatUint(uint64(r.GetPort()), 10))
}

func notListed(address string) error {
	return fmt.Errorf("%.300s is not on this host's list: start raypherd with --enclave-egress %.300s, if it should be", address, address)
}

func connect(ctx context.Context, address string) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, ConnectTimeout)
	defer cancel()
	host, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return host.(*net.TCPConn), nil // network "tcp"
}

// toHost carries what the enclave sends, until it closed the connection (nil) or either side broke. An empty message means that nothing
// more comes, and the other direction goes on.
func toHost(stream enclavev1.Enclave_ConnectClient, tcp *net.TCPConn) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(m.GetChunk()) == 0 {
			err = tcp.CloseWrite()
		} else if err = tcp.SetWriteDeadline(time.Now().Add(StallTimeout)); err == nil {
			_, err = tcp.Write(m.GetChunk())
		}
		if err != nil {
			return err
		}
	}
}

// toEnclave carries what the host sends, until its end, which it passes on.
func toEnclave(tcp *net.TCPConn, stream enclavev1.Enclave_ConnectClient) error {
	buffer := make([]byte, chunkSize)
	for {
		n, err := tcp.Read(buffer)
		if n > 0 {
			if sendErr := stream.Send(&enclavev1.Bytes{Chunk: buffer[:n]}); sendErr != nil {
				return sendErr
			}
		}
		if errors.Is(err, io.EOF) {
			return stream.CloseSend()
		}
		if err != nil {
			return err
		}
	}
}
