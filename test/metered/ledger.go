package metered

import (
	"context"
	"crypto/rand"
	"io"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/raypher/raypher/cost"
	sequencer "github.com/raypher/raypher/enclave/journal"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/lease/leasetest"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// What the operator has granted: more than any budget of a test, in leases that a test does not use up often.
const (
	granted = 1_000_000_000 // micro-dollars
	leased  = granted / 4
)

func (w *World) openLedger(control *cost.Control, o Options) {
	w.t.Helper()
	anchor, err := lease.OpenSoftware(w.t.TempDir())
	if err != nil {
		w.t.Fatal(err)
	}
	operator, clock := leasetest.NewOperator(w.t), new(leasetest.Clock)
	w.Ledger = ledger.New(ledger.Options{
		Journal: ledger.Sequenced(w.openJournal(o)), Control: control, Log: o.Log,
		Alarm: func(a ledger.Alarm) {
			w.Alarms.Add(1)
			if !o.Alarms {
				w.t.Error("alarm:", a.Words)
			}
		},
		Leases: lease.Options{State: w.t.TempDir(), OperatorKeys: [][]byte{operator.Public}, Anchor: anchor, Now: clock.Now},
	})
	w.t.Cleanup(w.Ledger.Close)
	grant := leasetest.Grant(w.t, anchor, 1, granted, leased)
	grant.Unit = lease.MicroUSD
	if _, err := w.Ledger.Install(w.t.Context(), operator.Sign(w.t, grant)); err != nil {
		w.t.Fatal(err)
	}
}

// openJournal has a store attached that keeps nothing and says at once that it did.
func (w *World) openJournal(o Options) *sequencer.Sequencer {
	w.t.Helper()
	key, _, err := software.Open(w.t.TempDir())
	if err != nil {
		w.t.Fatal(err)
	}
	var epoch journal.EpochID
	rand.Read(epoch[:])
	s, err := sequencer.New(sequencer.Options{Signer: key, Epoch: epoch, Configuration: journal.Hash{1}, Log: o.Log})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	ctx, cancel := context.WithCancel(context.Background())
	store := &store{ctx: ctx, acks: make(chan *enclavev1.PersistRequest, 64)}
	store.acks <- &enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: &enclavev1.Attach{}}}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(store) // until the store goes away
	}()
	w.t.Cleanup(func() { cancel(); <-served })
	for !s.Attached() {
		time.Sleep(time.Millisecond)
	}
	return s
}

// store is a parent at the other end of a Persist stream, which has synced whatever it was sent.
type store struct {
	ctx  context.Context
	acks chan *enclavev1.PersistRequest
}

func (s *store) Context() context.Context     { return s.ctx }
func (s *store) SendHeader(metadata.MD) error { return nil }

func (s *store) Send(b *enclavev1.Batch) error {
	size := b.GetFirstIndex() + uint64(len(b.GetEntries()))
	s.acks <- &enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Ack{Ack: &enclavev1.PersistAck{Epoch: b.GetEpoch(), Size: size}}}
	return nil
}

func (s *store) Recv() (*enclavev1.PersistRequest, error) {
	select {
	case m := <-s.acks:
		return m, nil
	case <-s.ctx.Done():
		return nil, io.EOF
	}
}
