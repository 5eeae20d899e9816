package fleet

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	_ "github.com/raypher/raypher/internal/grpcbuffers"
	"github.com/raypher/raypher/startconf"
)

const maxReceive = 8 << 20 // bytes; a reply with secrets is the largest message

// connection prepares the connection to the controller. gRPC connects when something is called, and again when it is lost.
func connection(o Options) (*grpc.ClientConn, error) {
	host, port, err := startconf.SplitAddress(o.Configuration.Controller)
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	return grpc.NewClient("passthrough:///"+o.Configuration.Controller,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return o.Dial(ctx, host, port) }),
		grpc.WithTransportCredentials(credentials.NewTLS(o.Configuration.ControllerTLS(o.Certificate))),
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
