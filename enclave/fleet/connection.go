package fleet

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	_ "github.com/raypher/raypher/internal/grpcbuffers"
	"github.com/raypher/raypher/startconf"
)

const maxReceive = 8 << 20 // bytes; a reply with secrets is the largest message

// ErrController: whoever answers at the controller's address is not the controller.
var ErrController = errors.New("not the controller of the start configuration")

// connection prepares the connection to the controller. gRPC connects when something is called, and again when it is lost.
func connection(o Options) (*grpc.ClientConn, error) {
	host, port, err := startconf.SplitAddress(o.Configuration.Controller)
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	keys := slices.Clone(o.Configuration.ControllerKeys)
	secured := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{o.Certificate},
		ServerName:   host,
		NextProtos:   []string{"h2"},
		// No name and no authority is trusted: VerifyConnection checks the key instead.
		InsecureSkipVerify: true,
		VerifyConnection:   func(state tls.ConnectionState) error { return verifyController(state, keys) },
	}
	return grpc.NewClient("passthrough:///"+o.Configuration.Controller,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return o.Dial(ctx, host, port) }),
		grpc.WithTransportCredentials(credentials.NewTLS(secured)),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 500 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 15 * time.Second},
			MinConnectTimeout: CallTimeout,
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // what is repeated is repeated here, with what makes it safe
	)
}

// verifyController compares the key that the handshake has proven with those of the start configuration.
func verifyController(state tls.ConnectionState, keys []startconf.KeyHash) error {
	if len(state.PeerCertificates) == 0 {
		return fmt.Errorf("%w: it shows no certificate", ErrController)
	}
	hash := startconf.KeyHash(sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo))
	if !slices.Contains(keys, hash) {
		return fmt.Errorf("%w: it has key %s, which is no controller_key", ErrController, hash)
	}
	return nil
}
