package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/enclave/lease"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// How a step is repeated whose answer did not come.
const (
	takeAttempt = 5 * time.Second
	takePause   = 200 * time.Millisecond
)

// Anchor is the counter of leases at the controller, for enclaves without one of their own. It belongs to the host: an enclave
// that was started anew, or a clone, finds it where it is.
type Anchor struct {
	client *Client
	tier   string

	mu sync.Mutex
	id [32]byte // as read last
}

// Anchor is the controller's counter for this enclave.
func (c *Client) Anchor() *Anchor { return &Anchor{client: c, tier: c.opts.Signer.Tier()} }

// ID implements lease.Anchor. Zero before the first Read.
func (a *Anchor) ID() [32]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.id
}

// Tier implements lease.Anchor: that of the enclave, whose evidence it counts for.
func (a *Anchor) Tier() string { return a.tier }

// Read implements lease.Anchor.
func (a *Anchor) Read(ctx context.Context) (lease.Reading, error) {
	token, err := a.token()
	if err != nil {
		return lease.Reading{}, err
	}
	counter, err := a.client.leases.Read(ctx, &controllerv1.ReadLeaseRequest{Result: token})
	if err != nil {
		return lease.Reading{}, anchorError("read", err)
	}
	if err := a.remember(counter); err != nil {
		return lease.Reading{}, err
	}
	return lease.Reading{Counter: counter.GetCounter(), Version: counter.GetVersion()}, nil
}

// Take implements lease.Anchor: compare and swap from the value that it reads first. When somebody else counts in between it is
// ErrContended, and nothing was counted by this call. A call whose answer was lost is repeated with the same request id, which counts once.
func (a *Anchor) Take(ctx context.Context) (uint64, error) {
	before, err := a.Read(ctx)
	if err != nil {
		return 0, err
	}
	request := &controllerv1.TakeLeaseRequest{Expected: before.Counter, RequestId: make([]byte, 16)}
	rand.Read(request.RequestId) // never fails (crypto/rand)
	for {
		counter, err := a.take(ctx, request)
		switch status.Code(err) {
		case codes.OK:
			if counter.GetCounter() != before.Counter+1 {
				return 0, fmt.Errorf("%w: the controller counted from %d to %d", lease.ErrAnchor, before.Counter, counter.GetCounter())
			}
			return counter.GetCounter(), a.remember(counter)
		case codes.Aborted:
			return 0, fmt.Errorf("%w: %w: %s", lease.ErrAnchor, lease.ErrContended, words(err))
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		default:
			return 0, anchorError("count", err)
		}
		select {
		case <-time.After(takePause):
		case <-ctx.Done():
			return 0, anchorError("count", errors.Join(err, ctx.Err()))
		}
	}
}

func (a *Anchor) take(ctx context.Context, request *controllerv1.TakeLeaseRequest) (*controllerv1.LeaseCounter, error) {
	token, err := a.token()
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	request.Result = token
	ctx, cancel := context.WithTimeout(ctx, takeAttempt)
	defer cancel()
	return a.client.leases.Take(ctx, request)
}

// Raise implements lease.Anchor.
func (a *Anchor) Raise(ctx context.Context, version uint64) error {
	token, err := a.token()
	if err != nil {
		return err
	}
	counter, err := a.client.leases.Raise(ctx, &controllerv1.RaiseLeaseRequest{Result: token, Version: version})
	if err != nil {
		return anchorError("raise", err)
	}
	return a.remember(counter)
}

// token is the result that entitles to the counter.
func (a *Anchor) token() (string, error) {
	if h := a.client.valid(); h != nil {
		return h.token, nil
	}
	_, err := a.client.Attested()
	if err == nil {
		err = errors.New("the attestation result is over")
	}
	return "", fmt.Errorf("%w lies at the controller: %w", lease.ErrAnchor, err)
}

func (a *Anchor) remember(counter *controllerv1.LeaseCounter) error {
	if n := len(counter.GetAnchor()); n != 32 {
		return fmt.Errorf("%w: the controller names it with %d bytes, expected 32", lease.ErrAnchor, n)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.id = [32]byte(counter.GetAnchor())
	return nil
}

// anchorError tells what the controller said in words: its codes are not those of the enclave.
func anchorError(what string, err error) error {
	return fmt.Errorf("%w at the controller: %s: %s", lease.ErrAnchor, what, words(err))
}
