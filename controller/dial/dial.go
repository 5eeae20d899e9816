// Package dial connects to a controller, which is known by its key: for operators, and for tests that play the others.
package dial

import (
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/raypher/raypher/startconf"
)

// ErrKey: who answers has another key than the controller's.
var ErrKey = errors.New("not the controller that is expected")

// TLS is the client's side of a connection: TLS 1.3, and a server with the pinned key or none. Names and dates in its certificate mean
// nothing.
func TLS(controller startconf.KeyHash, certificate tls.Certificate) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{certificate},
		InsecureSkipVerify: true, // VerifyConnection compares the key, which is all that counts
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return fmt.Errorf("%w: it shows no certificate", ErrKey)
			}
			if got := startconf.KeyHash(sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo)); got != controller {
				return fmt.Errorf("%w: its key is %s, not %s", ErrKey, got, controller)
			}
			return nil
		},
	}
}

// Connect returns a connection to host:port, or to another target of gRPC. It does not wait for an answer. Close it in the end.
func Connect(target string, controller startconf.KeyHash, certificate tls.Certificate, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	options := append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(TLS(controller, certificate))), grpc.WithAuthority("raypher-controller"),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(8 << 20)), // as the controller's server sends
	}, more...)
	conn, err := grpc.NewClient(target, options...)
	if err != nil {
		return nil, fmt.Errorf("connecting to the controller at %s: %w", target, err)
	}
	return conn, nil
}
