package lease_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/caller/callertest"
	"github.com/raypher/raypher/controller/lease"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/controller/store/storetest"
	enclavelease "github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// replica opens the database as another process of the controller would.
func replica(t *testing.T, url string, fleet *callertest.Fleet) (*lease.Service, *store.DB) {
	db := storetest.Open(t, url)
	return lease.New(lease.Options{DB: db, Callers: fleet}), db
}

func id() []byte {
	b := make([]byte, lease.RequestID)
	rand.Read(b)
	return b
}

func take(s *lease.Service, e *callertest.Enclave, expected uint64, request []byte) (*controllerv1.LeaseCounter, error) {
	return s.Take(e.Context(context.Background()), &controllerv1.TakeLeaseRequest{Result: e.Result, Expected: expected, RequestId: request})
}

func read(t *testing.T, s *lease.Service, e *callertest.Enclave) *controllerv1.LeaseCounter {
	t.Helper()
	c, err := s.Read(e.Context(t.Context()), &controllerv1.ReadLeaseRequest{Result: e.Result})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// anchor is what an enclave makes of the service: enclave/lease.Anchor.
type anchor struct {
	service *lease.Service
	enclave *callertest.Enclave
}

func (a anchor) ctx(ctx context.Context) context.Context { return a.enclave.Context(ctx) }

func (a anchor) ID() [32]byte {
	c, err := a.service.Read(a.ctx(context.Background()), &controllerv1.ReadLeaseRequest{Result: a.enclave.Result})
	if err != nil {
		return [32]byte{}
	}
	return [32]byte(c.GetAnchor())
}

func (a anchor) Tier() string { return journal.TierNitro }

func (a anchor) Read(ctx context.Context) (enclavelease.Reading, error) {
	c, err := a.service.Read(a.ctx(ctx), &controllerv1.ReadLeaseRequest{Result: a.enclave.Result})
	return enclavelease.Reading{Counter: c.GetCounter(), Version: c.GetVersion()}, err
}

func (a anchor) Take(ctx context.Context) (uint64, error) {
	for {
		r, err := a.Read(ctx)
		if err != nil {
			return 0, err
		}
		c, err := take(a.service, a.enclave, r.Counter, id())
		if status.Code(err) != codes.Aborted {
			return c.GetCounter(), err
		}
	}
}

func (a anchor) Raise(ctx context.Context, version uint64) error {
	_, err := a.service.Raise(a.ctx(ctx), &controllerv1.RaiseLeaseRequest{Result: a.enclave.Result, Version: version})
	return err
}

// TestAnchorContract: what every anchor promises, over two replicas, and each opening is an enclave with another key on one host.
func TestAnchorContract(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		fleet := &callertest.Fleet{}
		first, _ := replica(t, url, fleet)
		second, _ := replica(t, url, fleet)
		replicas, opened := []*lease.Service{first, second}, 0
		leasetest.Run(t, func(t *testing.T) enclavelease.Anchor {
			opened++
			return anchor{replicas[opened%2], callertest.NewEnclave(t, "build-1", journal.TierNitro)}
		})
	})
}

// TestClonesNeverShareACount: clones of a host's enclave count on one counter, through two replicas, from many goroutines. No two
// get the same value, none is lost, and another host's counter stands still.
func TestClonesNeverShareACount(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		fleet := &callertest.Fleet{}
		first, _ := replica(t, url, fleet)
		second, db := replica(t, url, fleet)
		const clones, each = 8, 6
		var (
			all  sync.WaitGroup
			mu   sync.Mutex
			seen = map[uint64]int{}
		)
		for clone := range clones {
			service, enclave := first, callertest.NewEnclave(t, "build-1", journal.TierNitro)
			if clone%2 == 1 {
				service = second
			}
			all.Go(func() {
				for range each {
					n, err := anchor{service, enclave}.Take(context.Background())
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					if before, given := seen[n]; given {
						t.Errorf("clones %d and %d both have count %d", before, clone, n)
					}
					seen[n] = clone
					mu.Unlock()
				}
			})
		}
		all.Wait()
		e := callertest.NewEnclave(t, "build-1", journal.TierNitro)
		if c := read(t, first, e); c.GetCounter() != clones*each || len(seen) != clones*each {
			t.Errorf("counter %d after %d steps, %d given", c.GetCounter(), clones*each, len(seen))
		}
		if c := read(t, second, callertest.NewEnclave(t, "build-2", journal.TierNitro)); c.GetCounter() != 0 {
			t.Errorf("another host's counter is at %d", c.GetCounter())
		}
		var entries int
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			return tx.Get([]any{&entries}, `SELECT COUNT(*) FROM audit WHERE action = 'lease.take' AND outcome = 'ok'`)
		}); err != nil || entries != clones*each {
			t.Errorf("%d steps on record, %v", entries, err)
		}
	})
}

// TestTakeIsIdempotent: a call whose answer was lost is repeated, at another replica and after others counted, and gets its own
// count. Many repetitions at once take one step.
func TestTakeIsIdempotent(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		fleet := &callertest.Fleet{}
		first, _ := replica(t, url, fleet)
		second, db := replica(t, url, fleet)
		e := callertest.NewEnclave(t, "build-1", journal.TierNitro)
		request := id()
		var all sync.WaitGroup
		for i := range 8 {
			service := first
			if i%2 == 1 {
				service = second
			}
			all.Go(func() {
				if c, err := take(service, e, 0, request); err != nil || c.GetCounter() != 1 {
					t.Errorf("%v, %v", c, err)
				}
			})
		}
		all.Wait()
		if c, err := take(first, e, 1, id()); err != nil || c.GetCounter() != 2 {
			t.Fatalf("%v, %v", c, err)
		}
		if c, err := take(second, e, 0, request); err != nil || c.GetCounter() != 1 {
			t.Errorf("repeated after others counted: %v, %v", c, err)
		}
		clone := callertest.NewEnclave(t, "build-1", journal.TierNitro)
		for name, c := range map[string]struct {
			who      *callertest.Enclave
			expected uint64
			request  []byte
		}{
			"a clone with the id of another": {clone, 0, request}, "the id for another step": {e, 2, request}, "a short id": {e, 2, request[:8]}, "no id": {e, 2, nil},
		} {
			if got, err := take(first, c.who, c.expected, c.request); status.Code(err) != codes.InvalidArgument {
				t.Errorf("%s: %v, %v", name, got, err)
			}
		}
		if c := read(t, first, e); c.GetCounter() != 2 {
			t.Errorf("counter %d", c.GetCounter())
		}
		// Ids are kept for so many steps and no longer.
		if err := db.Update(t.Context(), func(tx *store.Tx) error {
			return tx.Exec(`UPDATE lease_counters SET counter = ?`, lease.Retained)
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := take(first, e, lease.Retained, id()); err != nil {
			t.Fatal(err)
		}
		if _, err := take(first, e, 0, request); status.Code(err) != codes.Aborted {
			t.Errorf("an id of %d steps ago: %v", lease.Retained, err)
		}
		if c, err := take(first, e, 1, request); status.Code(err) != codes.Aborted {
			t.Errorf("%v, %v", c, err)
		}
	})
}

// TestAborted: whoever expects another count gets the one that is, and takes nothing.
func TestAborted(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		s, _ := replica(t, url, &callertest.Fleet{})
		e := callertest.NewEnclave(t, "build-1", journal.TierNitro)
		if _, err := take(s, e, 0, id()); err != nil {
			t.Fatal(err)
		}
		for _, expected := range []uint64{0, 2, 1 << 63, 1<<64 - 1} {
			_, err := take(s, e, expected, id())
			st := status.Convert(err)
			if st.Code() != codes.Aborted || len(st.Details()) != 1 {
				t.Fatalf("expected %d: %v", expected, err)
			}
			if c, ok := st.Details()[0].(*controllerv1.LeaseCounter); !ok || c.GetCounter() != 1 || !bytes.Equal(c.GetAnchor(), read(t, s, e).GetAnchor()) {
				t.Errorf("expected %d: detail %v", expected, c)
			}
		}
		if c := read(t, s, e); c.GetCounter() != 1 {
			t.Errorf("counter %d", c.GetCounter())
		}
	})
}

// TestOnlyAttestedEnclavesCount: nobody else reads or moves a counter, and nobody that of another host.
func TestOnlyAttestedEnclavesCount(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		fleet := &callertest.Fleet{}
		s, _ := replica(t, url, fleet)
		good, expired := callertest.NewEnclave(t, "build-1", journal.TierNitro), callertest.NewEnclave(t, "build-1", journal.TierNitro)
		fleet.Expire(expired)
		for name, c := range map[string]struct {
			ctx    context.Context
			result string
		}{
			"an operator":               {callertest.Operator(t.Context()), good.Result},
			"the host's parent":         {callertest.Parent(t.Context(), "build-1"), good.Result},
			"nobody":                    {t.Context(), good.Result},
			"an expired result":         {expired.Context(t.Context()), expired.Result},
			"the result of another key": {callertest.NewEnclave(t, "build-1", journal.TierNitro).Context(t.Context()), good.Result},
		} {
			_, readErr := s.Read(c.ctx, &controllerv1.ReadLeaseRequest{Result: c.result})
			_, takeErr := s.Take(c.ctx, &controllerv1.TakeLeaseRequest{Result: c.result, RequestId: id()})
			_, raiseErr := s.Raise(c.ctx, &controllerv1.RaiseLeaseRequest{Result: c.result, Version: 9})
			for _, err := range []error{readErr, takeErr, raiseErr} {
				if status.Code(err) != codes.PermissionDenied {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		if c := read(t, s, good); c.GetCounter() != 0 || c.GetVersion() != 0 {
			t.Errorf("%v", c)
		}
	})
}

// TestRenewedDatabase: after a backup was put back and the database renewed, grants that were signed before open no credit: their
// counter is another one, at all replicas at once.
func TestRenewedDatabase(t *testing.T) {
	storetest.Each(t, func(t *testing.T, url string) {
		fleet := &callertest.Fleet{}
		first, db := replica(t, url, fleet)
		second, _ := replica(t, url, fleet)
		e := callertest.NewEnclave(t, "build-1", journal.TierNitro)
		at := anchor{first, e}
		operator, clock := leasetest.NewOperator(t), new(leasetest.Clock)
		signed := operator.Sign(t, leasetest.Grant(t, at, 1, 100, 10))
		ledger := operator.Ledger(t.TempDir(), at, new(leasetest.Journal), clock.Now)
		if _, err := ledger.Install(t.Context(), signed); err != nil {
			t.Fatal(err)
		}
		if err := ledger.Spend(t.Context(), "any", enclavelease.Visas, 5); err != nil {
			t.Fatal(err)
		}
		before := at.ID()
		if err := lease.Renew(t.Context(), db, "test"); err != nil {
			t.Fatal(err)
		}
		if (anchor{second, e}).ID() == before || at.ID() != (anchor{second, e}).ID() {
			t.Error("the counter has the same name, or replicas differ in it")
		}
		again := operator.Ledger(t.TempDir(), anchor{second, e}, new(leasetest.Journal), clock.Now)
		if _, err := again.Install(t.Context(), signed); err == nil {
			t.Error("a grant for the counter before is installed")
		}
		if err := again.Spend(t.Context(), "any", enclavelease.Visas, 1); !errors.Is(err, enclavelease.ErrNoCredit) {
			t.Errorf("it spends: %v", err)
		}
		// A grant that is signed anew counts from where the counter is.
		if _, err := again.Install(t.Context(), operator.Sign(t, leasetest.Grant(t, anchor{second, e}, 2, 100, 10))); err != nil {
			t.Error(err)
		}
	})
}

// TestID: another database or host is another counter, and the name is part of the protocol.
func TestID(t *testing.T) {
	one := lease.ID(bytes.Repeat([]byte{1}, 16), "build-1")
	if one == lease.ID(bytes.Repeat([]byte{2}, 16), "build-1") || one == lease.ID(bytes.Repeat([]byte{1}, 16), "build-2") {
		t.Error("two counters of one name")
	}
	if one != lease.ID(bytes.Repeat([]byte{1}, 16), "build-1") {
		t.Error("a counter of two names")
	}
}
