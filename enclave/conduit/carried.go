package conduit

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/raypher/raypher/internal/carrier"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// DialCarried is DialContext for a connection that the parent carries on one of its own, of protocol carrier.Provider, and hands to Carry.
// There may be MaxCarried of them.
func (d *Dialer) DialCarried(ctx context.Context, host string, port uint16) (net.Conn, error) {
	got, err := d.open(ctx, d.places, &enclavev1.DialRequest{Host: host, Port: uint32(port), Carrier: true})
	if err != nil {
		return nil, err
	}
	return &carriedConn{Conn: got.carried, free: sync.OnceFunc(func() { <-d.places })}, nil
}

// Carry takes a connection of an authenticated parent that begins with the number of a request. One that nobody waits for is closed, and so is
// one too many whose number does not come.
func (d *Dialer) Carry(c net.Conn) {
	select {
	case d.begun <- struct{}{}:
		defer func() { <-d.begun }()
	default:
		c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(firstTimeout)) // a connection on which it fails fails below too
	number, err := carrier.ReadNumber(c)
	if err == nil {
		err = c.SetReadDeadline(time.Time{})
	}
	if err != nil || !d.connected(number, answer{carried: c}) {
		c.Close()
	}
}

// carriedConn gives its place back.
type carriedConn struct {
	net.Conn
	free func()
}

// Close implements net.Conn.
func (c *carriedConn) Close() error {
	c.free()
	return c.Conn.Close()
}
