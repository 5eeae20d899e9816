package enclave

import (
	"context"
	"crypto/sha256"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/visa"
)

// shelf is a parent's store over several lives of an enclave.
type shelf struct {
	mu     sync.Mutex
	epochs []*shelved
}

type shelved struct {
	id      journal.EpochID
	entries [][]byte
	head    []byte
}

func (s *shelf) keep(b *enclavev1.Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := journal.EpochID(b.GetEpoch())
	if n := len(s.epochs); n == 0 || s.epochs[n-1].id != id {
		s.epochs = append(s.epochs, &shelved{id: id})
	}
	e := s.epochs[len(s.epochs)-1]
	e.entries, e.head = append(e.entries, b.GetEntries()...), b.GetSignedHead()
}

// attach is what the store says when a stream begins.
func (s *shelf) attach(t *testing.T) *enclavev1.Attach {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.epochs) == 0 {
		return &enclavev1.Attach{}
	}
	e := s.epochs[len(s.epochs)-1]
	first, err := journal.Decode(e.entries[0])
	if err != nil {
		t.Fatal(err)
	}
	start, err := journal.DecodeEpochStart(first.Payload)
	if err != nil {
		t.Fatal(err)
	}
	return &enclavev1.Attach{Epoch: e.id[:], Size: uint64(len(e.entries)), SignedHead: e.head, KeyEvidence: start.KeyEvidence.Encode()}
}

// life is one process of an enclave on a state folder, with its journal on a shelf.
func life(t *testing.T, state string, s *shelf) (*running, enclavev1.EnclaveClient) {
	t.Helper()
	r := serveWith(t, func(o *Options) {
		if state == "" {
			return
		}
		var err error
		if o.Signer, _, err = software.Open(state); err != nil {
			t.Fatal(err)
		}
		if o.Leases, err = lease.OpenSoftware(state); err != nil {
			t.Fatal(err)
		}
		o.State = state
	})
	client, _ := r.good(t)
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := client.Persist(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: s.attach(t)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			b, err := stream.Recv()
			if err != nil {
				return
			}
			s.keep(b)
			ack := &enclavev1.PersistAck{Epoch: b.GetEpoch(), Size: b.GetFirstIndex() + uint64(len(b.GetEntries()))}
			stream.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Ack{Ack: ack}})
		}
	})
	t.Cleanup(func() { cancel(); wait.Wait() })
	return r, client
}

// shows is a part of an epoch that is shown.
type shows struct {
	id      journal.EpochID
	first   uint64
	edge    []journal.Hash
	entries [][]byte
}

// whole is all that the shelf holds of the epochs before the one that runs.
func (s *shelf) whole(running journal.EpochID) (all []shows) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.epochs {
		if e.id != running {
			all = append(all, shows{id: e.id, entries: slices.Clone(e.entries)})
		}
	}
	return all
}

// show is a replay.
func show(t *testing.T, client enclavev1.EnclaveClient, all []shows) (*enclavev1.ReplayReply, error) {
	t.Helper()
	stream, err := client.Replay(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		begin := &enclavev1.ReplayEpoch{Epoch: e.id[:], FirstIndex: e.first}
		for _, h := range e.edge {
			begin.Edge = append(begin.Edge, h[:])
		}
		err := stream.Send(&enclavev1.ReplayRequest{Epoch: begin})
		if err == nil && len(e.entries) > 0 {
			err = stream.Send(&enclavev1.ReplayRequest{Entries: e.entries})
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return stream.CloseAndRecv()
}

func callOf(number byte, worst cost.Amount) *ledger.Call {
	return &ledger.Call{ID: journal.RequestID{number}, Namespace: "dev", Agent: "coder", Run: "run", Provider: "openai", Model: "m", Worst: worst, Tokens: 10}
}

// pay is a call from its reservation to its settlement.
func (r *running) pay(t *testing.T, number byte, worst, actual cost.Amount) {
	t.Helper()
	c := callOf(number, worst)
	if err := r.spends.Reserve(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := r.spends.Settle(t.Context(), c.ID, actual, 5); err != nil {
		t.Fatal(err)
	}
}

// TestReplay: an enclave that was started anew spends nothing before it was shown its whole journal; what is shown is believed only if it is
// the journal up to the head that the epoch follows; and then it goes on where it was.
func TestReplay(t *testing.T) {
	s := new(shelf)
	first, client := life(t, "", s)
	first.pay(t, 1, 100_000, 40_000)
	if err := first.spends.Reserve(t.Context(), callOf(2, 30_000)); err != nil { // nobody ever hears of it again
		t.Fatal(err)
	}
	before := balance(t, client)
	if before.GetSpent() != 40_000 || before.GetHeld() != 30_000 {
		t.Fatalf("%v", before)
	}
	first.end()

	second, client := life(t, first.opts.State, s)
	err := second.spends.Reserve(t.Context(), callOf(3, 1))
	if status, describeErr := client.DescribeSpending(t.Context(), &enclavev1.DescribeSpendingRequest{}); describeErr != nil || !status.GetUnread() || err == nil || !strings.Contains(err.Error(), "does not know yet what was spent") {
		t.Fatalf("%v, %v, %v", err, status, describeErr)
	}
	if _, err := client.InstallControl(t.Context(), &enclavev1.InstallControlRequest{Source: []byte("{version: 9, time_zone: UTC, monthly_budget_usd: 1}")}); status.Code(err) != codes.Unavailable {
		t.Errorf("a cost control before the replay: %v", err)
	}
	genuine := s.whole(second.epoch)
	if len(genuine) != 1 || len(genuine[0].entries) < 8 {
		t.Fatalf("%d epochs", len(genuine))
	}
	snapshot := slices.IndexFunc(genuine[0].entries, isType(journal.TypeSnapshot))
	if snapshot < 0 {
		t.Fatal("the epoch ended without a snapshot")
	}
	for name, all := range forgeries(t, genuine[0], snapshot, client) {
		if reply, err := show(t, client, all); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: %v, %v", name, reply, err)
		}
		if err := second.spends.Reserve(t.Context(), callOf(3, 1)); err == nil {
			t.Fatalf("%s: money is spent", name)
		}
	}
	fromSnapshot := []shows{from(genuine[0], snapshot)}
	if reply, err := show(t, client, fromSnapshot); err != nil || reply.GetEntries() != uint64(len(genuine[0].entries)-snapshot) {
		t.Fatalf("%v, %v", reply, err)
	}
	after := balance(t, client)
	if after.GetSpent() != 70_000 || after.GetHeld() != 0 { // what was held is kept
		t.Errorf("%v", after)
	}
	second.pay(t, 4, 1000, 1000)
	if _, err := show(t, client, genuine); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second replay: %v", err)
	}
	second.end()

	// Several epochs, from the beginning.
	third, client := life(t, first.opts.State, s)
	all := s.whole(third.epoch)
	if _, err := show(t, client, all[1:]); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without the first epoch: %v", err)
	}
	if _, err := show(t, client, []shows{all[1], all[0]}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("in another order: %v", err)
	}
	if _, err := show(t, client, all[:1]); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("without the last epoch: %v", err)
	}
	for name, earlier := range forgeries(t, all[0], snapshot, client) {
		if name == "twice" || name == "nothing" {
			continue
		}
		if _, err := show(t, client, append(slices.Clone(earlier), all[1])); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s, in an earlier epoch: %v", name, err)
		}
	}
	if _, err := show(t, client, all); err != nil {
		t.Fatal(err)
	}
	if got := balance(t, client); got.GetSpent() != 71_000 || got.GetLost() <= after.GetLost() { // one more lease was forfeited
		t.Errorf("%v", got)
	}
}

// TestTheBudgetOfARunIsShown: of a run the narrower of its own budget and the cost control's is shown; of one that this enclave knows nothing
// of, none, unless it is asked for.
func TestTheBudgetOfARunIsShown(t *testing.T) {
	r, client := life(t, "", new(shelf))
	text := "version: 2\ntime_zone: UTC\nmonthly_budget_usd: 20\nper_run: {budget_usd: 0.05}\n"
	if _, err := client.InstallControl(t.Context(), &enclavev1.InstallControlRequest{Source: []byte(text)}); err != nil {
		t.Fatal(err)
	}
	r.pay(t, 1, 1000, 400)
	shown := func(q *enclavev1.DescribeSpendingRequest) uint64 {
		s, err := client.DescribeSpending(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return s.GetAccounts()[len(s.GetAccounts())-1].GetBudget()
	}
	asked := &enclavev1.DescribeSpendingRequest{Namespace: "dev", Agent: "coder", Run: "run"}
	if all, own := shown(nil), shown(asked); all != 0 || own != 50_000 {
		t.Errorf("of a run that is not known: %d among all, %d asked for", all, own)
	}
	hash := sha256.Sum256([]byte("key"))
	for _, step := range []struct{ named, want uint64 }{{0, 50_000}, {90_000, 50_000}, {10_000, 10_000}} {
		r.runs.Granted(&visa.Claims{
			Subject: "spiffe://d/ns/dev/agent/coder", Namespace: "dev", Handle: hash[:], ExpiresAt: time.Now().Add(time.Hour).Unix(),
			Asserted: visa.Asserted{AgentID: "run"}, Budget: step.named,
		})
		if all, own := shown(nil), shown(asked); all != step.want || own != step.want {
			t.Errorf("a budget of %d: %d among all, %d asked for, want %d", step.named, all, own, step.want)
		}
	}
}

// balance is the host's account.
func balance(t *testing.T, client enclavev1.EnclaveClient) *enclavev1.SpendingAccount {
	t.Helper()
	s, err := client.DescribeSpending(t.Context(), &enclavev1.DescribeSpendingRequest{})
	if err != nil || len(s.GetAccounts()) == 0 || s.GetAccounts()[0].GetLevel() != "host" {
		t.Fatalf("%v, %v", s, err)
	}
	return s.GetAccounts()[0]
}

func isType(want journal.Type) func([]byte) bool {
	return func(raw []byte) bool {
		e, err := journal.Decode(raw)
		return err == nil && e.Type == want
	}
}

// from is an epoch from one of its entries on.
func from(e shows, index int) shows {
	var tree journal.Tree
	leaves := make([]journal.Hash, index)
	for i, raw := range e.entries[:index] {
		leaves[i] = journal.LeafHash(raw)
	}
	if index > 0 {
		tree.Append(leaves)
	}
	return shows{id: e.id, first: uint64(index), edge: tree.Edge(), entries: e.entries[index:]}
}

// forgeries are journals that a parent makes of a genuine one.
func forgeries(t *testing.T, e shows, snapshot int, client enclavev1.EnclaveClient) map[string][]shows {
	t.Helper()
	settlement := slices.IndexFunc(e.entries, isType(journal.TypeSettlement))
	reservation := slices.IndexFunc(e.entries, isType(journal.TypeReservation))
	change := func(edit func(entries [][]byte) [][]byte) []shows {
		return []shows{{id: e.id, entries: edit(slices.Clone(e.entries))}}
	}
	bent := from(e, snapshot)
	bent.edge = slices.Clone(bent.edge)
	bent.edge[0][0] ^= 1
	cheaper, err := (&journal.Settlement{ID: journal.RequestID{1}, Outcome: journal.Settled, Actual: 1}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := journal.NewEntry(journal.TypeSettlement, time.Now(), cheaper)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]shows{
		"nothing":                  {},
		"an epoch without entries": {{id: e.id}},
		"without its end":          change(func(all [][]byte) [][]byte { return all[:len(all)-1] }),
		"without an entry":         change(func(all [][]byte) [][]byte { return slices.Delete(all, settlement, settlement+1) }),
		"without a pair":           change(func(all [][]byte) [][]byte { return slices.Delete(all, reservation, settlement+1) }),
		"an entry twice":           change(func(all [][]byte) [][]byte { return slices.Insert(all, len(all)-1, all[len(all)-1]) }),
		"in another order": change(func(all [][]byte) [][]byte {
			all[len(all)-1], all[len(all)-2] = all[len(all)-2], all[len(all)-1]
			return all
		}),
		"a cheaper settlement":             change(func(all [][]byte) [][]byte { all[settlement] = raw; return all }),
		"an entry more":                    change(func(all [][]byte) [][]byte { return append(all, raw) }),
		"from its middle":                  {from(e, reservation)},
		"from the entry behind a snapshot": {from(e, snapshot+1)},
		"with another tree before":         {bent},
		"another epoch's name":             {{id: journal.EpochID{9}, entries: e.entries}},
		"twice":                            {e, e},
		"garbage":                          {{id: e.id, entries: [][]byte{[]byte("garbage")}}},
	}
}
