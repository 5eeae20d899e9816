package sequencer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/signer/software"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// patience bounds waits in these tests; nothing is asserted about time.
const patience = 20 * time.Second

// parent is one end of a Persist stream as a parent holds it. Tests decide what it says.
type parent struct {
	ctx      context.Context
	cancel   context.CancelFunc
	up       chan *enclavev1.PersistRequest
	down     chan *enclavev1.Batch
	accepted chan struct{}
	result   chan error // of Serve
}

func (p *parent) Context() context.Context { return p.ctx }

func (p *parent) SendHeader(metadata.MD) error {
	close(p.accepted)
	return nil
}

func (p *parent) Send(b *enclavev1.Batch) error {
	select {
	case p.down <- b:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p *parent) Recv() (*enclavev1.PersistRequest, error) {
	select {
	case m, ok := <-p.up:
		if !ok {
			return nil, io.EOF
		}
		return m, nil
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	}
}

// connect starts a stream; the test plays the parent.
func connect(t testing.TB, s *Sequencer) *parent {
	t.Helper()
	p := &parent{
		up: make(chan *enclavev1.PersistRequest), down: make(chan *enclavev1.Batch), accepted: make(chan struct{}), result: make(chan error, 1),
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	t.Cleanup(p.cancel)
	go func() {
		p.result <- s.Serve(p)
		p.cancel() // as gRPC does when a handler returns
	}()
	return p
}

func (p *parent) attach(a *enclavev1.Attach) {
	p.say(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: a}})
}

func (p *parent) ack(epoch journal.EpochID, size uint64) {
	p.say(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Ack{Ack: &enclavev1.PersistAck{Epoch: epoch[:], Size: size}}})
}

func (p *parent) say(m *enclavev1.PersistRequest) {
	select {
	case p.up <- m:
	case <-p.ctx.Done():
	}
}

func (p *parent) batch(t testing.TB) *enclavev1.Batch {
	t.Helper()
	select {
	case b := <-p.down:
		return b
	case err := <-p.result:
		t.Fatalf("stream ended: %v", err)
	case <-time.After(patience):
		t.Fatal("no batch")
	}
	return nil
}

func (p *parent) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-p.result:
		return err
	case <-time.After(patience):
		t.Fatal("the stream goes on")
	}
	return nil
}

func end(b *enclavev1.Batch) uint64 { return b.GetFirstIndex() + uint64(len(b.GetEntries())) }

func newKey(t testing.TB) *software.Key {
	t.Helper()
	k, _, err := software.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newSequencer(t testing.TB, key signer.Signer, allowed ...[32]byte) *Sequencer {
	t.Helper()
	var epoch journal.EpochID
	rand.Read(epoch[:])
	s, err := New(Options{
		Signer: key, Epoch: epoch, Configuration: journal.Hash{1}, Predecessors: allowed, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// begun is a sequencer whose entry 0 is acknowledged, with its stream.
func begun(t *testing.T) (*Sequencer, *parent, *enclavev1.Batch) {
	t.Helper()
	s := newSequencer(t, newKey(t))
	p := connect(t, s)
	p.attach(&enclavev1.Attach{})
	first := p.batch(t)
	p.ack(s.opts.Epoch, end(first))
	waitSize(t, s, 1)
	return s, p, first
}

func waitSize(t *testing.T, s *Sequencer, size uint64) {
	t.Helper()
	for deadline := time.Now().Add(patience); s.Size() != size; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d entries acknowledged, want %d", s.Size(), size)
		}
	}
}

type outcome struct {
	placed *Placed
	err    error
}

// appendOne starts an Append and returns where its outcome will come.
func appendOne(t *testing.T, s *Sequencer, text string) (entry []byte, result chan outcome) {
	t.Helper()
	entry, err := journal.NewEntry(journal.TypeVerdict, time.Unix(1, 0), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	result = make(chan outcome, 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	go func() {
		placed, err := s.Append(ctx, entry)
		result <- outcome{placed, err}
	}()
	return entry, result
}

func held(t *testing.T, result chan outcome, why string) {
	t.Helper()
	select {
	case o := <-result:
		t.Fatalf("%s: a caller was released: %+v", why, o)
	case <-time.After(50 * time.Millisecond):
	}
}

func released(t *testing.T, result chan outcome) outcome {
	t.Helper()
	select {
	case o := <-result:
		return o
	case <-time.After(patience):
		t.Fatal("the caller was not released")
	}
	return outcome{}
}

// An epoch begins with entry 0, and every entry is provable under the head of its batch.
func TestEntriesAreProvable(t *testing.T) {
	s, p, first := begun(t)
	zero, err := journal.Decode(first.GetEntries()[0])
	if err != nil || zero.Type != journal.TypeEpoch {
		t.Fatalf("entry 0: %v, %v", zero.Type, err)
	}
	start, err := journal.DecodeEpochStart(zero.Payload)
	if err != nil || start.Epoch != s.opts.Epoch || start.Predecessor != nil {
		t.Fatalf("entry 0: %+v, %v", start, err)
	}
	go func() { // an honest store
		for {
			select {
			case b := <-p.down:
				p.ack(s.opts.Epoch, end(b))
			case <-p.ctx.Done():
				return
			}
		}
	}()
	const callers, each = 50, 20
	var wait sync.WaitGroup
	seen := make([]sync.Map, 1)
	for c := range callers {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for i := range each {
				entries := make([][]byte, 1+i%3)
				for n := range entries {
					entries[n], _ = journal.NewEntry(journal.TypeVerdict, time.Unix(1, 0), fmt.Appendf(nil, "%d %d %d", c, i, n))
				}
				placed, err := s.Append(context.Background(), entries...)
				if err != nil {
					t.Error(err)
					return
				}
				for n, e := range entries {
					receipt := placed.Receipt(n)
					if _, err := receipt.Verify(e, s.key); err != nil {
						t.Errorf("entry %d: %v", receipt.Index, err)
					}
					if _, twice := seen[0].LoadOrStore(receipt.Index, true); twice {
						t.Errorf("index %d was given twice", receipt.Index)
					}
				}
			}
		}()
	}
	wait.Wait()
}

func TestNothingIsAcceptedWithoutAStore(t *testing.T) {
	s := newSequencer(t, newKey(t))
	if _, err := s.Append(context.Background(), []byte("x")); !errors.Is(err, ErrNoStore) {
		t.Errorf("before the first stream: %v", err)
	}
	s, p, _ := begun(t)
	p.cancel()
	p.end(t)
	if _, err := s.Append(context.Background(), []byte("x")); !errors.Is(err, ErrNoStore) {
		t.Errorf("after the stream ended: %v", err)
	}
	s.Close()
	if _, err := s.Append(context.Background(), []byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestBoundsOfOneCall(t *testing.T) {
	s, _, _ := begun(t)
	for name, entries := range map[string][][]byte{
		"none": {}, "too many": make([][]byte, MaxAppend+1), "one too large": {make([]byte, journal.MaxEntrySize+1)},
		"too large together": slicesOf(40, journal.MaxEntrySize),
	} {
		if _, err := s.Append(context.Background(), entries...); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func slicesOf(n, size int) [][]byte {
	out := make([][]byte, n)
	for i := range out {
		out[i] = make([]byte, size)
	}
	return out
}

// Close releases nothing: callers that wait get an error, and none is left behind.
func TestCloseReleasesWithAnError(t *testing.T) {
	s, p, _ := begun(t)
	_, first := appendOne(t, s, "sent, never acknowledged")
	p.batch(t)
	_, second := appendOne(t, s, "queued")
	s.Close()
	for _, r := range []chan outcome{first, second} {
		if o := released(t, r); !errors.Is(o.err, ErrClosed) {
			t.Errorf("%+v", o)
		}
	}
	if err := p.end(t); !errors.Is(err, ErrClosed) {
		t.Errorf("stream ended with %v", err)
	}
}

// A caller that gives up is not answered, and its entry may be in the journal all the same.
func TestCallerGivesUp(t *testing.T) {
	s, p, _ := begun(t)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	entry, _ := journal.NewEntry(journal.TypeVerdict, time.Unix(1, 0), nil)
	go func() {
		_, err := s.Append(ctx, entry)
		result <- err
	}()
	b := p.batch(t)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	p.ack(s.opts.Epoch, end(b))
	waitSize(t, s, 2)
}

// While the window is full, what arrives gathers and goes out as one batch under one signature.
func TestGroupCommit(t *testing.T) {
	s, p, _ := begun(t)
	var results []chan outcome
	var batches []*enclavev1.Batch
	for i := range Window {
		_, r := appendOne(t, s, fmt.Sprint("fills the window ", i))
		results = append(results, r)
		batches = append(batches, p.batch(t))
	}
	const waiting = 30
	for i := range waiting {
		_, r := appendOne(t, s, fmt.Sprint("waits ", i))
		results = append(results, r)
	}
	for deadline := time.Now().Add(patience); len(s.queue) < waiting; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d in the queue", len(s.queue))
		}
	}
	p.ack(s.opts.Epoch, end(batches[len(batches)-1])) // one acknowledgement may cover several batches
	b := p.batch(t)
	if len(b.GetEntries()) != waiting {
		t.Errorf("%d entries in the batch, want %d", len(b.GetEntries()), waiting)
	}
	p.ack(s.opts.Epoch, end(b))
	for _, r := range results {
		if o := released(t, r); o.err != nil {
			t.Error(o.err)
		}
	}
}

// failing is a signer whose device fails when told so.
type failing struct {
	*software.Key
	mu  sync.Mutex
	bad bool
}

func (f *failing) set(bad bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bad = bad
}

func (f *failing) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bad {
		return nil, signer.ErrDevice
	}
	return f.Key.Sign(ctx, digest)
}

// A device that fails costs the callers of that batch an error, and the tree is as if they had never asked.
func TestSignerFails(t *testing.T) {
	key := &failing{Key: newKey(t)}
	s := newSequencer(t, key)
	key.set(true)
	p := connect(t, s)
	p.attach(&enclavev1.Attach{})
	if err := p.end(t); !errors.Is(err, signer.ErrDevice) {
		t.Fatalf("begin with a failing device: %v", err)
	}
	key.set(false)
	p = connect(t, s)
	p.attach(&enclavev1.Attach{})
	p.ack(s.opts.Epoch, end(p.batch(t)))
	waitSize(t, s, 1)

	key.set(true)
	_, r := appendOne(t, s, "lost")
	if o := released(t, r); !errors.Is(o.err, signer.ErrDevice) {
		t.Fatalf("%+v", o)
	}
	key.set(false)
	entry, r := appendOne(t, s, "kept")
	b := p.batch(t)
	if b.GetFirstIndex() != 1 || len(b.GetEntries()) != 1 {
		t.Fatalf("batch from %d with %d entries", b.GetFirstIndex(), len(b.GetEntries()))
	}
	p.ack(s.opts.Epoch, end(b))
	o := released(t, r)
	if o.err != nil {
		t.Fatal(o.err)
	}
	receipt := o.placed.Receipt(0)
	if _, err := receipt.Verify(entry, s.key); err != nil {
		t.Error(err)
	}
}

// tryOne begins a TryAppend and returns where its outcome will come.
func tryOne(t *testing.T, s *Sequencer, text string) (entry []byte, result chan outcome) {
	t.Helper()
	entry, err := journal.NewEntry(journal.TypeVerdict, time.Unix(1, 0), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	result = make(chan outcome, 1)
	taken, err := s.TryAppend(func(p *Pending) {
		placed, err := p.Placed()
		result <- outcome{placed, err}
	}, entry)
	if err != nil || !taken {
		t.Fatalf("taken %v, %v", taken, err)
	}
	return entry, result
}

// Who does not wait gets the same: nothing before the acknowledgement, then a receipt that proves the entry.
func TestTryAppend(t *testing.T) {
	s, p, _ := begun(t)
	entry, result := tryOne(t, s, "one")
	b := p.batch(t)
	held(t, result, "before the acknowledgement")
	p.ack(s.opts.Epoch, end(b))
	o := released(t, result)
	if o.err != nil {
		t.Fatal(o.err)
	}
	receipt := o.placed.Receipt(0)
	if _, err := receipt.Verify(entry, s.key); err != nil {
		t.Error(err)
	}

	_, result = tryOne(t, s, "closed before it was acknowledged")
	s.Close()
	if o := released(t, result); !errors.Is(o.err, ErrClosed) {
		t.Errorf("%+v", o)
	}
	if taken, err := s.TryAppend(nil, entry); taken || !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: taken %v, %v", taken, err)
	}
}

// A full queue is said at once, and nothing was begun.
func TestTryAppendWithoutRoom(t *testing.T) {
	s, p, _ := begun(t)
	_, first := tryOne(t, s, "fills the window")
	b := p.batch(t)
	for len(s.queue) < MaxQueued {
		tryOne(t, s, "waits")
	}
	if taken, err := s.TryAppend(func(*Pending) { t.Error("called") }, []byte("x")); taken || err != nil {
		t.Errorf("taken %v, %v", taken, err)
	}
	p.ack(s.opts.Epoch, end(b))
	if o := released(t, first); o.err != nil {
		t.Error(o.err)
	}
}

// Calls do not wait for ever for a store that does not come back, and their batch is not lost when it does.
func TestStoreGoneForLong(t *testing.T) {
	s, p, _ := begun(t)
	_, sent := appendOne(t, s, "sent")
	b := p.batch(t)
	_, queued := tryOne(t, s, "queued")
	p.cancel()
	p.end(t)
	s.expire()
	held(t, sent, "gone for a moment")
	s.mu.Lock()
	s.detached = s.detached.Add(-AckTimeout)
	s.mu.Unlock()
	s.expire()
	for _, r := range []chan outcome{sent, queued} {
		if o := released(t, r); !errors.Is(o.err, ErrNoStore) {
			t.Errorf("%+v", o)
		}
	}
	p = connect(t, s)
	p.attach(&enclavev1.Attach{Epoch: s.opts.Epoch[:], Size: 1, SignedHead: s.lastHead})
	again := p.batch(t)
	if end(again) != end(b) {
		t.Error("the batch was lost")
	}
	p.ack(s.opts.Epoch, end(again))
	waitSize(t, s, end(b))
}
