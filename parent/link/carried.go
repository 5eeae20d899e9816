package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/raypher/raypher/internal/carrier"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// carriedTimeout bounds the opening of a connection that carries bytes of others, handshake included.
const carriedTimeout = 10 * time.Second

// OpenAgent opens a connection to the enclave's gateway for an agent. What is written to it is what the agent says. The error wraps
// ErrUnreachable.
func (l *Link) OpenAgent(ctx context.Context, id string) (net.Conn, error) {
	preface, err := carrier.AgentPreface(id)
	if err != nil {
		return nil, err
	}
	return l.carried(ctx, carrier.Agents, preface)
}

// openProvider opens the connection that carries the bytes of a host which the enclave asked for.
func (l *Link) openProvider(ctx context.Context, number uint64) (net.Conn, error) {
	return l.carried(ctx, carrier.Provider, carrier.NumberPreface(number))
}

// carried opens a connection of its own to the enclave that the link has found to be the right one.
func (l *Link) carried(ctx context.Context, protocol string, preface []byte) (net.Conn, error) {
	if err := l.Reachable(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, carriedTimeout)
	defer cancel()
	raw, err := l.carry(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	config := clientTLS(l.opts.Caller, func(key [32]byte) error {
		if known := l.pin.hash(); known == nil || *known != key {
			return fmt.Errorf("%w: another key than that of the connection for calls", ErrPeer)
		}
		return nil
	})
	config.NextProtos = []string{protocol}
	conn := tls.Client(raw, config)
	err = conn.HandshakeContext(ctx)
	if err == nil && conn.ConnectionState().NegotiatedProtocol != protocol {
		err = errors.New("it carries no connections: it is of an earlier release")
	}
	if err == nil {
		_, err = conn.Write(preface)
	}
	if err != nil {
		raw.Close()
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return conn, nil
}

// providers are the hosts, host:port, that the cost control in force in the enclave names: providers, and webhooks of its alerts.
func (l *Link) providers(ctx context.Context) ([]string, error) {
	d, err := l.client.Describe(ctx, &enclavev1.DescribeRequest{})
	if err != nil {
		return nil, l.explain(err)
	}
	var all []string
	for _, p := range d.GetProviders() {
		all = append(all, p.GetAddress())
	}
	return append(all, d.GetWebhooks()...), nil
}
