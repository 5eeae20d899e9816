// Package link is the parent's side of its connection to the enclave: it dials, checks the enclave's key, keeps the Persist
// stream running into the audit store, and connects again when the connection is lost. raypherd uses it, for an enclave that
// runs already (Dial) or one that it starts itself in development (StartLocal).
//
// There is no other way to the enclave, and no shortcut in process.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	_ "github.com/raypher/raypher/internal/grpcbuffers"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/parent/egress"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
)

// Limits of the transport; they match package enclave.
const (
	maxReceive  = 4 << 20 // bytes; a batch of the journal is the largest message
	maxSend     = 1 << 20 // bytes
	maxVerdicts = 256     // of one Record call
	// window and connWindow are what the enclave may send before it is read, in bytes. Fixed: gRPC otherwise measures the
	// line with a ping for every burst and announces each change, which were a third of all system calls.
	window     = 1 << 20
	connWindow = 4 << 20
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Errors that callers tell apart.
var (
	// ErrUnreachable: the enclave does not answer, or has no store for its journal yet. Nothing was granted. The message
	// says what to do.
	ErrUnreachable = errors.New("enclave is unreachable")
	// ErrDenied: the enclave refused; the message lists every item that is beyond what was granted.
	ErrDenied = errors.New("the enclave refused")
	// ErrInvalid: the request is malformed.
	ErrInvalid = errors.New("the enclave found the request invalid")
	// ErrBusy: too many requests; later the same one may succeed.
	ErrBusy = errors.New("the enclave is busy")
	// ErrPeer: whoever answers at the enclave's socket is not the enclave that was expected.
	ErrPeer = errors.New("not the expected enclave")
)

// errStoreFailed: this host could not keep the journal.
var errStoreFailed = errors.New("the journal of this host cannot be written")

// Store keeps the journal; audit.Store is one. Append returns when the batch is on disk.
type Store interface {
	Append(*enclavev1.Batch) error
	Attach() *enclavev1.Attach
	// Replay hands out the entries up to the end of an epoch, from where an enclave can begin to read them.
	Replay(last journal.EpochID, begins func(id journal.EpochID, first uint64, edge []journal.Hash) error, entries func(raw [][]byte) error) error
}

// Options say where the enclave is, who calls and who must answer.
type Options struct {
	Address string // unix:PATH, vsock:CID:PORT, or vsock-uds:PATH:PORT
	// ConfigureAt is where an enclave without a start configuration waits for one, in the form of Address, and Configuration what it is sent.
	// Empty: it has one.
	ConfigureAt   string
	Configuration []byte
	Caller        *Caller
	// Enclave is the SHA-256 of the enclave's signing key (PKIX DER). Nil: the key in PinFile, and where there is no such
	// file, whichever key answers first, which is then written to it.
	Enclave *[32]byte
	PinFile string
	// Vouch is what the enclave has to show before each connection; nil: its key decides alone.
	Vouch *Vouch
	// Prepare is called whenever the enclave has taken the store, before Reachable says so, until ctx ends; nil: nothing is to be done first.
	Prepare func(context.Context, *Link)
	// Attached is called whenever the enclave was connected; nil: nobody is. It must not block.
	Attached func()
	// Egress lists the hosts, host:port, that the enclave may be connected to through this one, besides those that Configuration needs.
	Egress []string
	// InstanceDocument gets the document of this instance's NitroTPM over a nonce; nil: the host shows none.
	InstanceDocument func(ctx context.Context, nonce []byte) ([]byte, error)
	Store            Store
	Log              *slog.Logger
}

// Link is one connection to one enclave. Its methods are safe for concurrent use.
type Link struct {
	opts   Options
	pin    *pin
	carry  dialFunc // a connection besides that of conn
	conn   *grpc.ClientConn
	client enclavev1.EnclaveClient
	mints  *mints
	stop   context.CancelFunc
	done   sync.WaitGroup
	ending atomic.Bool // the enclave is told to end: nothing connects to it again

	mu       sync.Mutex
	attached bool
	cause    error // why it is not attached
	unread   error // why the enclave does not know what was spent before
	changed  chan struct{}
}

// Dial prepares the connection and keeps the Persist stream running until Close. It does not wait for the enclave: use Wait.
// An error means that the options are wrong.
func Dial(opts Options) (*Link, error) {
	if opts.Caller == nil || opts.Store == nil || opts.Log == nil {
		return nil, errors.New("link: caller key, store and log are needed")
	}
	if err := egress.CheckAllowed(opts.Egress); err != nil {
		return nil, err
	}
	dial, err := dialer(opts.Address)
	if err != nil {
		return nil, err
	}
	carry := dial
	pin, err := openPin(opts.Enclave, opts.PinFile)
	if err != nil {
		return nil, err
	}
	var configuration *[32]byte
	if opts.ConfigureAt != "" {
		parsed, err := startconf.Parse(startconf.FileName, opts.Configuration)
		if err != nil {
			return nil, fmt.Errorf("link: %w", err)
		}
		hash := parsed.Hash()
		configuration = &hash
		opts.Egress = withConfigured(opts.Egress, parsed)
	}
	if opts.Vouch != nil {
		dial = vouching(opts.Vouch, opts.Caller, pin, configuration, dial, opts.Log)
	}
	if opts.ConfigureAt != "" {
		configure, err := dialer(opts.ConfigureAt)
		if err != nil {
			return nil, err
		}
		dial = configuring(configure, dial, opts.Configuration)
	}
	l := &Link{opts: opts, pin: pin, carry: carry, changed: make(chan struct{}), cause: errors.New("not connected yet")}
	l.conn, err = grpc.NewClient("passthrough:///raypher-enclave",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithTransportCredentials(transport(clientTLS(opts.Caller, pin.check))),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive), grpc.MaxCallSendMsgSize(maxSend)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstRetry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastRetry},
			MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // callers retry, with words
	)
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	l.client = enclavev1.NewEnclaveClient(l.conn)
	l.mints = newMints(l.client)
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.done.Add(3)
	go func() {
		defer l.done.Done()
		l.mints.run(ctx)
	}()
	go func() {
		defer l.done.Done()
		l.persist(ctx)
	}()
	go func() {
		defer l.done.Done()
		egress.Run(ctx, egress.Options{
			Client: l.client, Allowed: opts.Egress, Providers: l.providers, Open: l.openProvider, InstanceDocument: opts.InstanceDocument, Log: opts.Log,
		})
	}()
	return l, nil
}

// withConfigured is a list of hosts with those that a start configuration needs.
func withConfigured(list []string, c *startconf.Configuration) []string {
	all := slices.Clone(list)
	for _, address := range c.Egress() {
		if !slices.Contains(all, address) {
			all = append(all, address)
		}
	}
	return all
}

// Close ends the stream and the connection and waits for both. What was synced is acknowledged or will be sent again.
func (l *Link) Close() error {
	l.stop()
	err := l.conn.Close()
	l.done.Wait()
	if err != nil {
		return fmt.Errorf("link: %w", err)
	}
	return nil
}

// Reachable says whether the enclave is connected and stores its journal here, which is when it mints. The error says why
// not and what to do; it wraps ErrUnreachable.
func (l *Link) Reachable() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.attached {
		return nil
	}
	return l.unreachable(l.cause)
}

// Wait returns when the enclave is reachable, or with the reason why it is not when ctx ends.
func (l *Link) Wait(ctx context.Context) error {
	for {
		l.mu.Lock()
		attached, changed := l.attached, l.changed
		l.mu.Unlock()
		if attached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return l.Reachable()
		}
	}
}

// EnclaveKey is the key that the enclave is held to: what was given, stored, or answered first; nil before that.
func (l *Link) EnclaveKey() *[32]byte { return l.pin.hash() }

// Describe asks what the enclave is.
func (l *Link) Describe(ctx context.Context) (*enclavev1.Description, error) {
	d, err := l.client.Describe(ctx, &enclavev1.DescribeRequest{})
	return d, l.explain(err)
}

// Mint asks for a visa. Calls at the same time travel together; each has its own outcome. r must not be changed before Mint
// returns, nor after ctx ended it early.
func (l *Link) Mint(ctx context.Context, r *enclavev1.MintRequest) (*enclavev1.MintReply, error) {
	if l.opts.Prepare != nil { // what it does has to be done first
		if err := l.Reachable(); err != nil {
			return nil, err
		}
	}
	reply, err := l.mints.mint(ctx, r)
	return reply, l.explain(err)
}

// Record puts encoded verdicts into the journal and returns where they lie, side by side. At most MaxRecord at once.
func (l *Link) Record(ctx context.Context, verdicts ...[]byte) (epoch journal.EpochID, first uint64, err error) {
	return l.recorded(l.client.Record(ctx, &enclavev1.RecordRequest{Verdicts: verdicts}))
}

func (l *Link) recorded(reply *enclavev1.RecordReply, err error) (epoch journal.EpochID, first uint64, _ error) {
	if err != nil {
		return epoch, 0, l.explain(err)
	}
	epoch, err = journal.ParseEpochID(reply.GetEpoch())
	if err != nil {
		return epoch, 0, fmt.Errorf("%w: its answer to Record: %w", ErrPeer, err)
	}
	return epoch, reply.GetFirstIndex(), nil
}

// RecordApproval puts an encoded approval into the journal and returns where it lies. When it returns, the entry is durable.
func (l *Link) RecordApproval(ctx context.Context, approval []byte) (epoch journal.EpochID, index uint64, err error) {
	return l.recorded(l.client.Record(ctx, &enclavev1.RecordRequest{Approvals: [][]byte{approval}}))
}

// MaxRecord is how many verdicts one Record takes.
const MaxRecord = maxVerdicts

// Attest asks for evidence of the enclave's key, fresh for a nonce of 8 to 64 bytes.
func (l *Link) Attest(ctx context.Context, nonce []byte) (*enclavev1.Evidence, error) {
	e, err := l.client.Attest(ctx, &enclavev1.AttestRequest{Nonce: nonce})
	return e, l.explain(err)
}

// InstallCeiling hands the enclave a ceiling bundle that an operator key has signed.
func (l *Link) InstallCeiling(ctx context.Context, bundle []byte) (*enclavev1.Description, error) {
	d, err := l.client.InstallCeiling(ctx, &enclavev1.InstallCeilingRequest{Bundle: bundle})
	return d, l.explain(err)
}

// InstallGrant hands the enclave a grant of credit that an operator key has signed.
func (l *Link) InstallGrant(ctx context.Context, grant []byte) (*enclavev1.GrantStatus, error) {
	s, err := l.client.InstallGrant(ctx, &enclavev1.InstallGrantRequest{Grant: grant})
	return s, l.explain(err)
}

// DescribeGrant asks how credit stands.
func (l *Link) DescribeGrant(ctx context.Context) (*enclavev1.GrantStatus, error) {
	s, err := l.client.DescribeGrant(ctx, &enclavev1.DescribeGrantRequest{})
	return s, l.explain(err)
}

// DescribeFleet asks how the enclave stands with its controller.
func (l *Link) DescribeFleet(ctx context.Context) (*enclavev1.FleetStatus, error) {
	s, err := l.client.DescribeFleet(ctx, &enclavev1.DescribeFleetRequest{})
	return s, l.explain(err)
}

// DescribeProviderKeys asks which keys of providers the enclave holds; recipient: to whom another one is encrypted too.
func (l *Link) DescribeProviderKeys(ctx context.Context, recipient bool) (*enclavev1.ProviderKeys, error) {
	k, err := l.client.DescribeProviderKeys(ctx, &enclavev1.DescribeProviderKeysRequest{Recipient: recipient})
	return k, l.explain(err)
}

// ChangeProviderKey hands the enclave a change of a provider's key that an operator key has signed.
func (l *Link) ChangeProviderKey(ctx context.Context, change []byte) (*enclavev1.ProviderKeys, error) {
	k, err := l.client.ChangeProviderKey(ctx, &enclavev1.ChangeProviderKeyRequest{Change: change})
	return k, l.explain(err)
}

// explain gives an error of a call its meaning for the parent.
func (l *Link) explain(err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	switch s.Code() {
	case codes.Unavailable:
		return l.unreachable(errors.New(s.Message()))
	case codes.PermissionDenied:
		return fmt.Errorf("%w: %s", ErrDenied, s.Message())
	case codes.InvalidArgument:
		return fmt.Errorf("%w: %s", ErrInvalid, s.Message())
	case codes.ResourceExhausted:
		return fmt.Errorf("%w: %s", ErrBusy, s.Message())
	case codes.DeadlineExceeded:
		return fmt.Errorf("enclave: %s: %w", s.Message(), context.DeadlineExceeded)
	case codes.Canceled:
		return fmt.Errorf("enclave: %s: %w", s.Message(), context.Canceled)
	}
	return fmt.Errorf("enclave: %s: %s", s.Code(), s.Message())
}

// unreachable adds the next step to a reason.
func (l *Link) unreachable(cause error) error {
	reason := strings.TrimPrefix(cause.Error(), "connection error: desc = ")
	switch {
	case strings.Contains(reason, ErrEvidence.Error()):
		_, check, _ := strings.Cut(reason, ErrEvidence.Error()+": ")
		return fmt.Errorf("%w: %w: %s", ErrUnreachable, ErrEvidence, strings.TrimSuffix(check, `"`))
	case strings.Contains(reason, ErrPeer.Error()):
		return fmt.Errorf("%w: %w: %s: if the enclave was replaced on purpose, remove %s", ErrUnreachable, ErrPeer, reason, l.opts.PinFile)
	case strings.Contains(reason, "bad certificate"): // the TLS alert for a caller that the enclave does not know
		return fmt.Errorf("%w: it does not know this parent: put `caller_key = %s` into its ibev.conf and restart it", ErrUnreachable, l.opts.Caller.Hash())
	case errors.Is(cause, errStoreFailed), strings.Contains(reason, "contradicts the journal"), strings.Contains(reason, "has no store"):
		return fmt.Errorf("%w: %s", ErrUnreachable, reason) // the reason says what to do
	}
	return fmt.Errorf("%w: %s: see that raypher-enclave runs and listens on %s", ErrUnreachable, reason, l.opts.Address)
}

func (l *Link) setAttached(attached bool, cause error) {
	l.mu.Lock()
	l.attached, l.cause = attached, cause
	close(l.changed)
	l.changed = make(chan struct{})
	l.mu.Unlock()
	if attached && l.opts.Attached != nil {
		l.opts.Attached()
	}
}
