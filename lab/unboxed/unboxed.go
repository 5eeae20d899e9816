// Package unboxed runs an enclave of tier nitro without its machine: the trusted service in this process, with the laboratory's module, behind
// a socket that speaks like the one of a machine's vsock device. What package machine boots in seconds is there at once, and can be
// changed where a test needs it. Whoever reads this process has its keys.
package unboxed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/raypher/raypher/attest/eif"
	"github.com/raypher/raypher/enclave"
	"github.com/raypher/raypher/enclave/boot"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/nitro"
	"github.com/raypher/raypher/lab/nsm"
)

// Options of an enclave.
type Options struct {
	Socket string // path of the device's socket; an old one is replaced
	Image  eif.Measurements
	Before *nsm.Module // whose root vouches for this one too; nil: a root of its own
	// Signer may put something before the signer, as an enclave does that lies about itself; nil: nothing.
	Signer func(signer.Signer) signer.Signer
	Log    *slog.Logger // nil: nowhere
}

// Enclave is a running one.
type Enclave struct {
	Module *nsm.Module

	listener net.Listener
	ports    map[string]*port
	cancel   context.CancelFunc
	done     sync.WaitGroup
	err      error // how it ended
}

// Start starts an enclave, which waits for its start configuration. Whoever starts one calls Close.
func Start(o Options) (*Enclave, error) {
	module, err := nsm.New(nsm.Options{Image: o.Image, Before: o.Before})
	if err != nil {
		return nil, err
	}
	if err := os.Remove(o.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	listener, err := net.Listen("unix", o.Socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	e := &Enclave{
		Module: module, listener: listener, cancel: cancel,
		ports: map[string]*port{"CONNECT 5000\n": newPort(listener), "CONNECT 5001\n": newPort(listener)},
	}
	e.done.Go(e.connect)
	e.done.Go(func() { e.err = e.run(ctx, o) })
	return e, nil
}

// Close ends the enclave as a machine that is switched off: its keys and its state are gone. The error is why it did not run until then.
func (e *Enclave) Close() error {
	e.cancel()
	e.listener.Close()
	for _, p := range e.ports {
		p.Close()
	}
	e.done.Wait()
	return e.err
}

// run is the enclave's life.
func (e *Enclave) run(ctx context.Context, o Options) error {
	configuration, err := boot.ReceiveConfiguration(ctx, e.ports["CONNECT 5001\n"], o.Log)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	state, err := os.MkdirTemp("", "raypher-unboxed-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(state)
	var key signer.Signer
	if key, err = nitro.Open(ctx, nitro.NewDevice(e.Module.Session()), configuration.Hash()); err != nil {
		return err
	}
	defer key.Close()
	if o.Signer != nil {
		key = o.Signer(key)
	}
	server, err := enclave.New(enclave.Options{Signer: key, Configuration: configuration, State: state, Version: "unboxed", Log: o.Log})
	if err != nil {
		return err
	}
	return server.Serve(ctx, e.ports["CONNECT 5000\n"])
}

// connect gives connections to the port that they ask for.
func (e *Enclave) connect() {
	for {
		conn, err := e.listener.Accept()
		if err != nil {
			return
		}
		e.done.Go(func() {
			// Nobody sends more before the answer.
			line, err := bufio.NewReader(conn).ReadString('\n')
			if p := e.ports[line]; err != nil || p == nil || !p.take(conn) {
				conn.Close()
			}
		})
	}
}

// port is a listener within the enclave.
type port struct {
	net.Listener // for its address
	waiting      chan net.Conn
	once         sync.Once
	closed       chan struct{}
}

func newPort(l net.Listener) *port {
	return &port{Listener: l, waiting: make(chan net.Conn), closed: make(chan struct{})}
}

// take greets a connection and hands it over; false: nobody listens.
func (p *port) take(conn net.Conn) bool {
	select {
	case <-p.closed:
		return false
	default:
	}
	if _, err := fmt.Fprint(conn, "OK 1073741824\n"); err != nil {
		return false
	}
	select {
	case p.waiting <- conn:
		return true
	case <-p.closed:
		return false
	}
}

// Accept implements net.Listener.
func (p *port) Accept() (net.Conn, error) {
	select {
	case conn := <-p.waiting:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}
