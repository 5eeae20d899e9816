// Package fleet is raypherd's own exchange with the controller of its fleet: it fetches the signed policies for this host, and reports
// how the host does. The enclave's exchange, by which it is attested, is its own (enclave/fleet).
//
// The controller hands policies on and cannot make them: each counts with the signature of an operator key of the start configuration,
// and versions only go upwards. They are kept in the state folder, and for how long the host may work on with them without the
// controller, which the controller says.
package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// How often the controller is asked.
const (
	Poll        = time.Minute
	firstRetry  = 2 * time.Second
	lastRetry   = 2 * time.Minute
	callTimeout = 30 * time.Second
	maxReceive  = 32 << 20 // bytes of a reply
)

// Options of a client.
type Options struct {
	Configuration *startconf.Configuration // names a controller; its operator keys sign policies
	Certificate   tls.Certificate          // of the caller key
	State         string                   // folder of the kept policies; private
	// Report is what the controller is told of this host, without its policies.
	Report func(context.Context) *controllerv1.ReportRequest
	Log    *slog.Logger
}

// Client is one raypherd's. Its methods are safe for concurrent use.
type Client struct {
	opts         Options
	conn         *grpc.ClientConn
	distribution controllerv1.DistributionClient
	fleet        controllerv1.FleetClient
	now          func() time.Time

	mu      sync.RWMutex
	kept    *kept
	failure string
}

// Open reads what is kept and prepares the connection; nothing is connected before Run.
func Open(o Options) (*Client, error) {
	c := &Client{opts: o, now: time.Now}
	var err error
	if c.kept, err = load(o.State, o.Configuration.OperatorKeys); err != nil {
		return nil, err
	}
	c.conn, err = grpc.NewClient("dns:///"+o.Configuration.Controller,
		grpc.WithTransportCredentials(credentials.NewTLS(o.Configuration.ControllerTLS(o.Certificate))),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithDisableRetry(),
	)
	if err != nil {
		return nil, fmt.Errorf("controller: %w", err)
	}
	c.distribution, c.fleet = controllerv1.NewDistributionClient(c.conn), controllerv1.NewFleetClient(c.conn)
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Run keeps policies up to date and reports, until ctx ends.
func (c *Client) Run(ctx context.Context) {
	retry := firstRetry
	for {
		wait := Poll
		err := c.round(ctx)
		if ctx.Err() != nil {
			return
		}
		c.note(err)
		if err != nil {
			wait, retry = retry, min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		select {
		case <-time.After(wait - rand.N(wait/4+1)): // so that a fleet does not come at one moment
		case <-ctx.Done():
			return
		}
	}
}

// note keeps the reason of a failure for Status, and says it once.
func (c *Client) note(err error) {
	text := ""
	if err != nil {
		text = status.Convert(err).Message()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case text == c.failure:
	case text == "":
		c.opts.Log.Info("the controller answers", "controller", c.opts.Configuration.Controller)
	default:
		c.opts.Log.Warn("the controller does not answer, trying again; runs begin with the policies that are kept", "controller", c.opts.Configuration.Controller, "reason", text)
	}
	c.failure = text
}

func (c *Client) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return errors.Join(c.fetch(ctx), c.report(ctx))
}

func (c *Client) report(ctx context.Context) error {
	r := c.opts.Report(ctx)
	c.mu.RLock()
	r.Policies = c.kept.held()
	c.mu.RUnlock()
	_, err := c.fleet.Report(ctx, r)
	return err
}

// Status is what this host has of the controller.
type Status struct {
	Controller string
	Policies   []Policy
	Until      time.Time // until when runs begin with them; zero: never fetched
	Error      string    // why the last exchange failed; empty: it did not
}

// Policy is one kept release.
type Policy struct {
	Name    string
	Version uint64
	Canary  uint32 // percent of agents that get it
}

// Status says what is kept, and until when it serves.
func (c *Client) Status() Status {
	c.mu.RLock()
	defer c.mu.RUnlock()
	s := Status{Controller: c.opts.Configuration.Controller, Error: c.failure}
	if c.kept.Until != 0 {
		s.Until = time.Unix(c.kept.Until, 0)
	}
	for _, e := range c.kept.Policies {
		s.Policies = append(s.Policies, Policy{e.Name, e.Version, e.Canary})
	}
	return s
}
