// Package connection connects to a controller, which is known by its key: for operators, and for tests that play the others.
package connection

import (
	"crypto/tls"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/raypher/raypher/startconf"
)

// Open returns a connection to host:port, or to another target of gRPC. It does not wait for an answer. Close it in the end. Calls to whoever has
// another key than the controller's end with UNAVAILABLE and the words of startconf.ErrController.
func Open(target string, controller startconf.KeyHash, certificate tls.Certificate, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(startconf.PinnedTLS(certificate, controller))), grpc.WithAuthority("raypher-controller"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8 << 20)), // as the controller's server sends
	}, more...)
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fmt.Errorf("connecting to the controller at %s: %w", target, err)
	}
	return conn, nil
}
