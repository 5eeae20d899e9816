// Package fleet is the enclave's part in a fleet: it attests itself to the controller of its start configuration, keeps the result, and
// fetches what an attested enclave gets: secrets, ceilings, and a counter of leases. Package enclave runs it.
//
// The controller is reached through connections that the parent carries (package enclave/conduit). TLS 1.3 begins here, and nobody counts
// as the controller but the holder of a controller_key; a result counts with the signature of a controller_result_key, over this
// enclave's key, epoch and configuration, and over a nonce of this process. So a parent can keep the controller away, and no more.
//
// # Time
//
// A result's life is counted on the monotonic clock, from before its nonce was asked for: setting the wall clock back prolongs
// nothing while the process lives, and a process that starts anew has no result. The wall clock can only shorten the life: it has to
// lie between the times in the result too. On tier nitro the clock is the hypervisor's; on the others root of the host sets it.
//
// # Secrets
//
// Values are in memory and nowhere else, under the versions that the controller gave them, until they expire or the controller says
// that they are gone. Names are told (DescribeFleet), values never.
package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/raypher/raypher/attest/result"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/recipient"
	"github.com/raypher/raypher/startconf"
)

// How often the controller is asked.
const (
	Poll       = time.Minute // for secrets and ceilings
	firstRetry = time.Second
	lastRetry  = time.Minute
	// CallTimeout bounds one call, evidence apart.
	CallTimeout = 30 * time.Second
	// MaxLife bounds what is taken of a result's life, whatever the controller says.
	MaxLife  = 24 * time.Hour
	maxError = 1024 // bytes, of what is told
)

// Options of a client.
type Options struct {
	Configuration *startconf.Configuration // names a controller
	// Dial connects through the parent.
	Dial func(ctx context.Context, host string, port uint16) (net.Conn, error)
	// InstanceDocument asks the parent for the document of the instance's NitroTPM, on tier nitro; nil: nobody is asked.
	InstanceDocument func(ctx context.Context, nonce []byte) ([]byte, error)
	// Certificate is what the enclave shows its parent too: a TLS key's, signed by the signing key, and the signing key's own.
	Certificate tls.Certificate
	Signer      signer.Signer
	Epoch       journal.EpochID
	State       string // folder of the activation record; private
	Host        string // what an operator may have named this host: asked for at enrolment only
	// Ceiling is that in force; version 0: none.
	Ceiling func() (version uint64, hash journal.Hash)
	// InstallCeiling puts a bundle in force, if an operator signed it and its version goes upwards.
	InstallCeiling func(ctx context.Context, bundle []byte) error
	Log            *slog.Logger

	now  func() time.Time // the monotonic clock; nil: time.Now, of which only differences count
	wall func() time.Time // nil: time.Now
	poll time.Duration    // 0: Poll
}

// Client is one enclave's. Its methods are safe for concurrent use.
type Client struct {
	opts       Options
	key        *journal.Key
	conf       journal.Hash
	resultKeys []*ecdsa.PublicKey
	started    time.Time

	conn         *grpc.ClientConn
	attestation  controllerv1.AttestationClient
	secretsOf    controllerv1.SecretsClient
	leases       controllerv1.LeasesClient
	distribution controllerv1.DistributionClient

	mu        sync.RWMutex
	current   *held // nil: none yet
	exchanged time.Time
	failure   error
	secrets   map[string]*secret
}

// held is a result in force, until its time is over.
type held struct {
	token  string
	result *result.Result
	begun  time.Time // before its nonce was asked for; on the monotonic clock

	// For secrets, by Run alone.
	recipient *recipient.Key // nil: not made yet
	signed    []byte         // its public half
	unsaid    bool           // the controller was not told what is held
}

// life is how long a result holds at most, from begun.
func (h *held) life() time.Duration { return min(h.result.Expires.Sub(h.result.Issued), MaxLife) }

// left is how long it holds yet: on the monotonic clock, and on the wall clock, whichever is less.
func (c *Client) left(h *held) time.Duration {
	wall := c.opts.wall().Round(0)
	if wall.Before(h.result.Issued.Add(-result.ClockSkew)) {
		return 0 // it was set back behind the result
	}
	return min(h.life()-c.opts.now().Sub(h.begun), h.result.Expires.Sub(wall))
}

// New prepares a client; nothing is connected before Run.
func New(o Options) (*Client, error) {
	if o.now == nil {
		o.now = time.Now
	}
	if o.wall == nil {
		o.wall = time.Now
	}
	if o.poll == 0 {
		o.poll = Poll
	}
	c := &Client{opts: o, conf: o.Configuration.Hash(), started: o.wall(), secrets: make(map[string]*secret)}
	var err error
	if c.key, err = journal.NewKey(o.Signer.Public()); err != nil {
		return nil, err
	}
	for _, der := range o.Configuration.ResultKeys {
		key, err := journal.ParseKey(der)
		if err != nil {
			return nil, fmt.Errorf("controller_result_key: %w", err)
		}
		c.resultKeys = append(c.resultKeys, key.Public())
	}
	if c.conn, err = connection(o); err != nil {
		return nil, err
	}
	c.attestation, c.secretsOf = controllerv1.NewAttestationClient(c.conn), controllerv1.NewSecretsClient(c.conn)
	c.leases, c.distribution = controllerv1.NewLeasesClient(c.conn), controllerv1.NewDistributionClient(c.conn)
	return c, nil
}

// Close ends the connection; for a client that is not run.
func (c *Client) Close() error { return c.conn.Close() }

// Run keeps a result in force and what comes with it up to date, until ctx ends.
func (c *Client) Run(ctx context.Context) {
	defer c.conn.Close()
	retry := firstRetry
	for {
		wait, err := c.round(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.failed(err)
			wait, retry = jittered(retry), min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// jittered is three quarters of d to all of it, so that a fleet does not come back at one moment.
func jittered(d time.Duration) time.Duration { return d - rand.N(d/4+1) }

// round does what is due and says when the next is.
func (c *Client) round(ctx context.Context) (time.Duration, error) {
	var failure error
	if c.renewal() <= 0 {
		failure = c.attest(ctx)
	}
	c.purge()
	h := c.valid()
	if h == nil {
		if failure == nil {
			failure = errors.New("the result was over when it came")
		}
		return 0, failure
	}
	installed, err := c.fetchCeiling(ctx)
	err = errors.Join(failure, err, c.fetchSecrets(ctx, h))
	if err != nil {
		return 0, err
	}
	c.exchangedNow()
	if installed { // the result names the ceiling before
		return 0, c.attest(ctx)
	}
	// The floor is for clocks that differ: a result that comes with little left of it is not asked for without a pause.
	return min(jittered(c.opts.poll), max(c.renewal(), h.life()/10)), nil
}

// renewal is the time until a result has to be renewed: when two thirds of its life are over.
func (c *Client) renewal() time.Duration {
	h := c.valid()
	if h == nil {
		return 0
	}
	return c.left(h) - h.life()/3
}

// valid is the result in force; nil: none.
func (c *Client) valid() *held {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.current == nil || c.left(c.current) <= 0 {
		return nil
	}
	return c.current
}

func (c *Client) exchangedNow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure != nil {
		c.opts.Log.Info("the controller is there again", "controller", c.opts.Configuration.Controller)
	}
	c.exchanged, c.failure = c.opts.wall(), nil
}

// failed keeps the reason for the status and says it once.
func (c *Client) failed(err error) {
	text := words(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure == nil || c.failure.Error() != text {
		c.opts.Log.Warn("exchange with the controller failed, trying again", "controller", c.opts.Configuration.Controller, "reason", text)
	}
	c.failure = errors.New(text)
}

// rpcError is what gRPC's errors begin with.
var rpcError = regexp.MustCompile(`rpc error: code = (\w+) desc = `)

// words is an error on one line, cut where it is too long.
func words(err error) string {
	text := strings.ReplaceAll(rpcError.ReplaceAllString(err.Error(), "$1: "), "\n", "; ")
	if len(text) > maxError {
		text = text[:maxError] + " ... (cut)"
	}
	return text
}

// Attested says for how long the result in force holds yet. The error says, in words for an operator, why there is none.
func (c *Client) Attested() (time.Duration, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.current != nil {
		if left := c.left(c.current); left > 0 {
			return left, nil
		}
	}
	last := ""
	if c.failure != nil {
		last = fmt.Sprintf(": the last attempt: %v", c.failure)
	}
	if c.current == nil {
		return 0, fmt.Errorf("the controller %s has not attested this enclave since it started, at %s%s",
			c.opts.Configuration.Controller, c.started.UTC().Format(time.RFC3339), last)
	}
	since := c.exchanged
	if since.IsZero() {
		since = c.current.result.Issued
	}
	return 0, fmt.Errorf("the attestation result of %s expired at %s, and the controller was not reached since %s%s",
		c.opts.Configuration.Controller, c.current.result.Expires.UTC().Format(time.RFC3339), since.UTC().Format(time.RFC3339), last)
}

// Status is what DescribeFleet tells.
func (c *Client) Status() *enclavev1.FleetStatus {
	h := c.valid()
	c.mu.RLock()
	defer c.mu.RUnlock()
	s := &enclavev1.FleetStatus{Controller: c.opts.Configuration.Controller, Secrets: c.names()}
	if h != nil {
		s.Result, s.ResultExpiresUnix = h.token, h.result.Expires.Unix()
	}
	if c.failure != nil {
		s.Error = c.failure.Error()
	}
	if !c.exchanged.IsZero() {
		s.ExchangedUnix = c.exchanged.Unix()
	}
	return s
}
