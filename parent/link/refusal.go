package link

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"
)

// refusalWait bounds how long the reason of a cut connection is waited for: the enclave wrote it before it closed.
const refusalWait = time.Second

// transport is TLS for a connection to the enclave. In TLS 1.3 a client is done before the server has looked at its certificate (RFC 8446
// section 2), so a parent that the enclave refuses may find the connection closed while it writes, with the alert that says why
// still unread: writing then fails with the alert.
func transport(config *tls.Config) credentials.TransportCredentials {
	return refusals{credentials.NewTLS(config)}
}

type refusals struct {
	credentials.TransportCredentials
}

func (r refusals) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := r.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, err
	}
	return refusable{conn}, info, nil
}

func (r refusals) Clone() credentials.TransportCredentials {
	return refusals{r.TransportCredentials.Clone()}
}

type refusable struct{ net.Conn }

func (c refusable) Write(data []byte) (int, error) {
	n, err := c.Conn.Write(data)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		if alert := c.alert(); alert != nil {
			err = alert
		}
	}
	return n, err
}

// alert is what the peer said before it closed; nil: nothing. Another reader takes nothing from it: a TLS connection that has received
// an alert returns it for good.
func (c refusable) alert() error {
	if c.SetReadDeadline(time.Now().Add(refusalWait)) != nil {
		return nil
	}
	_, err := c.Read(make([]byte, 1))
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" { // as crypto/tls marks alerts
		return err
	}
	return nil
}
