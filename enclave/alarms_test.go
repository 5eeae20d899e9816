package enclave

import (
	"testing"

	"github.com/raypher/raypher/enclave/gateway"
	"github.com/raypher/raypher/enclave/gateway/dialect"
	"github.com/raypher/raypher/enclave/ledger"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// TestObserve: a parent that looks sees what ended, refused calls too, and who waits for money; one that does not read holds nobody up, and is told how
// much it missed.
func TestObserve(t *testing.T) {
	r := serve(t)
	client, _ := r.good(t)
	stream, err := client.Observe(t.Context(), &enclavev1.ObserveRequest{})
	if err != nil {
		t.Fatal(err)
	}
	looks := func() bool {
		r.watch.mu.Lock()
		defer r.watch.mu.Unlock()
		return len(r.watch.all) == 1
	}
	for !looks() {
		if t.Context().Err() != nil {
			t.Fatal("nobody looks")
		}
	}
	r.ended(gateway.Record{
		Run: gateway.Run{Namespace: "n", Agent: "a", Run: "r"}, Provider: "p", Model: "m", Outcome: gateway.OutcomeSettled, Status: 200, Worst: 9, Cost: 5,
		Usage: dialect.Usage{Input: 1, CacheRead: 2, CacheWrite: 3, CacheWrite1h: 4, Output: 5, Reasoning: 6}, Disagreement: "d",
	})
	seen, err := stream.Recv()
	if c := seen.GetCall(); err != nil || c.GetNamespace() != "n" || c.GetRun() != "r" || c.GetCost() != 5 || c.GetWorst() != 9 || c.GetInput() != 1 || c.GetCacheRead() != 2 ||
		c.GetCacheWrite() != 7 || c.GetOutput() != 5 || c.GetReasoning() != 6 || c.GetOutcome() != "settled" || c.GetStatus() != 200 || c.GetDisagreement() != "d" {
		t.Errorf("%v, %v", seen, err)
	}
	r.waits(&ledger.Call{Namespace: "n", Agent: "a", Run: "r"}, &ledger.Refusal{Level: "agent", What: ledger.Budget})
	if seen, err = stream.Recv(); err != nil || seen.GetNotice().GetKind() != "alert" {
		t.Errorf("%v, %v", seen, err)
	}

	const many = 100_000
	for range many {
		r.ended(gateway.Record{Outcome: gateway.OutcomeRefused})
	}
	lost := uint64(0)
	for lost == 0 {
		if seen, err = stream.Recv(); err != nil {
			t.Fatal(err)
		}
		lost = seen.GetLost()
		r.watch.tell(&enclavev1.Observation{}) // what was lost is said with the next one that finds room
	}
	if lost > 2*many {
		t.Errorf("%d were lost", lost)
	}
}
