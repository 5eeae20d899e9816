package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/controllertest"
	"github.com/raypher/raypher/controller/store/storetest"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// Two replicas on one PostgreSQL are killed in turn under load. Each lease is taken once, in order; every result that somebody got is in the audit;
// and the audit has no gap.
func TestReplicasKilledInTurn(t *testing.T) {
	const enclaves, kills = 6, 6
	self := program(t)
	f := controllertest.New(t, storetest.Postgres(t))
	var replicas [2]*controllertest.Replica
	var begin sync.WaitGroup
	for i := range replicas { // both at once, on an empty database
		begin.Go(func() {
			var err error
			if replicas[i], err = f.Run(self); err != nil {
				t.Error(err)
			}
		})
	}
	begin.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(replicas[0].Kill)
	t.Cleanup(replicas[1].Kill)
	operator := f.AsOperator(t, replicas[0])

	var results atomic.Int64
	var load sync.WaitGroup
	enough := make(chan struct{})
	taken := make([]uint64, enclaves)
	for i := range enclaves {
		e := newEnclave(t, fmt.Sprintf("host-%d", i))
		add(t, operator, e)
		conns := [2]grpc.ClientConnInterface{f.Connect(t, replicas[0].RPC, e.Certificate), f.Connect(t, replicas[1].RPC, e.Certificate)}
		load.Go(func() { taken[i] = work(t, e, conns, enough, &results) })
	}
	for killed := range kills {
		before := results.Load()
		for deadline := time.Now().Add(time.Minute); results.Load() < before+enclaves && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond) // until the load goes on, with both
		}
		i := killed % 2
		replicas[i].Kill()
		again, err := f.Run(self, "--listen", replicas[i].RPC)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(again.Kill)
		replicas[i] = again
	}
	close(enough)
	load.Wait()
	t.Logf("%d kills, %d results", kills, results.Load())
	check(t, f.AsOperator(t, replicas[0]), taken, results.Load())
}

// work attests at one replica with a challenge of the other, and takes a lease, again and again. It returns how many it has taken.
func work(t *testing.T, e *controllertest.Enclave, conns [2]grpc.ClientConnInterface, enough <-chan struct{}, results *atomic.Int64) (taken uint64) {
	for {
		select {
		case <-enough:
			return taken
		default:
		}
		a, b := conns[taken%2], conns[(taken+1)%2]
		var result string
		if !retry(t, func(ctx context.Context) (err error) {
			result, err = e.Attest(ctx, a, b)
			return err
		}) {
			return taken
		}
		results.Add(1)
		request := &controllerv1.TakeLeaseRequest{Result: result, Expected: taken, RequestId: make([]byte, 16)}
		rand.Read(request.RequestId)
		var counter *controllerv1.LeaseCounter
		if !retry(t, func(ctx context.Context) (err error) {
			a, b = b, a
			counter, err = controllerv1.NewLeasesClient(a).Take(ctx, request, grpc.WaitForReady(true))
			return err
		}) {
			return taken
		}
		taken++
		if counter.GetCounter() != taken {
			t.Errorf("%s: lease %d where %d was to come", e.Host, counter.GetCounter(), taken)
			return taken
		}
	}
}

// retry repeats a call that a killed replica did not answer. Of an attestation the nonce may have been used up meanwhile.
func retry(t *testing.T, call func(context.Context) error) bool {
	var err error
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		err = call(ctx)
		cancel()
		switch status.Code(err) {
		case codes.OK:
			return true
		case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		default:
			t.Errorf("%v", err)
			return false
		}
	}
	t.Errorf("no answer: %v", err)
	return false
}

func check(t *testing.T, operator grpc.ClientConnInterface, taken []uint64, results int64) {
	t.Helper()
	fleet := controllerv1.NewFleetClient(operator)
	hosts, err := fleet.Hosts(context.Background(), &controllerv1.HostsRequest{}, grpc.WaitForReady(true))
	if err != nil || len(hosts.GetHosts()) != len(taken) {
		t.Fatalf("%v, %v", hosts, err)
	}
	for i, h := range hosts.GetHosts() { // by name
		if h.GetLeaseCounter() != taken[i] || h.GetVerdict() != "affirming" {
			t.Errorf("%v: want %d leases", h, taken[i])
		}
	}
	var attested int64
	var next uint64 = 1
	for {
		page, err := fleet.Audit(context.Background(), &controllerv1.AuditRequest{From: next})
		if err != nil {
			t.Fatal(err)
		}
		if len(page.GetEntries()) == 0 {
			break
		}
		for _, entry := range page.GetEntries() {
			if entry.GetNumber() != next {
				t.Fatalf("entry %d where %d was expected", entry.GetNumber(), next)
			}
			next++
			if (entry.GetAction() == "attest" || entry.GetAction() == "attest.bind") && entry.GetOutcome() == "ok" {
				attested++
			}
		}
	}
	if attested < results {
		t.Errorf("%d results were given, %d are in the audit", results, attested)
	}
}
