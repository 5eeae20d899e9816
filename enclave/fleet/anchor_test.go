package fleet

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// attested is a client with a result.
func attested(t *testing.T, c *controller) *Client {
	t.Helper()
	client := c.client(nil)
	mustRound(t, client)
	return client
}

func TestAnchorConformance(t *testing.T) {
	controller := newController(t)
	leasetest.Run(t, func(t *testing.T) lease.Anchor { return attested(t, controller).Anchor() })
}

// A step whose answer was lost is one step.
func TestLostAnswer(t *testing.T) {
	controller := newController(t)
	a := attested(t, controller).Anchor()
	controller.lose = 2
	n, err := a.Take(t.Context())
	if err != nil || n != 1 || controller.counter.Counter != 1 {
		t.Errorf("%d, %v; the counter is at %d", n, err, controller.counter.Counter)
	}
	controller.lose = 1 << 30
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := a.Take(ctx); !errors.Is(err, lease.ErrAnchor) || errors.Is(err, lease.ErrContended) {
		t.Errorf("answers that never come: %v", err)
	}
	if r, err := a.Read(t.Context()); err != nil || r.Counter != 2 {
		t.Errorf("%v, %v: it may have been taken, once", r, err)
	}
}

// racing is a controller at which somebody else counts between Read and Take.
type racing struct {
	controllerv1.LeasesClient
	controller *controller
}

func (r *racing) Take(ctx context.Context, request *controllerv1.TakeLeaseRequest, options ...grpc.CallOption) (*controllerv1.LeaseCounter, error) {
	r.controller.mu.Lock()
	r.controller.counter.Counter++
	r.controller.mu.Unlock()
	return r.LeasesClient.Take(ctx, request, options...)
}

func TestContended(t *testing.T) {
	controller := newController(t)
	c := attested(t, controller)
	a := c.Anchor()
	before, err := a.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.leases = &racing{LeasesClient: c.leases, controller: controller}
	if _, err := a.Take(t.Context()); !errors.Is(err, lease.ErrContended) {
		t.Errorf("%v", err)
	}
	if r, err := a.Read(t.Context()); err != nil || r.Counter != before.Counter+1 {
		t.Errorf("%v, %v: only the other one counted", r, err)
	}
}

func TestAnchorWithoutResult(t *testing.T) {
	controller := newController(t)
	a := controller.client(nil).Anchor()
	_, read := a.Read(t.Context())
	_, take := a.Take(t.Context())
	for _, err := range []error{read, take, a.Raise(t.Context(), 1)} {
		if !errors.Is(err, lease.ErrAnchor) || !strings.Contains(err.Error(), "has not attested") {
			t.Errorf("%v", err)
		}
	}
	if controller.counter.Counter != 0 || controller.counter.Version != 0 {
		t.Error("it was asked nevertheless")
	}
}
