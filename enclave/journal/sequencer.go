// Package sequencer is the one writer of the journal. It gathers what callers append, adds it to the Merkle tree, signs one
// head for all of it, sends it to the parent's store over the Persist stream, and releases the callers only when the store
// has synced it (group commit). It keeps the right edge of the tree and the batches that are not acknowledged yet, so its
// memory does not grow with the journal.
//
// The parent that stores the journal is not trusted: it may refuse, forget, reorder and lie, which stops the journal or is
// refused, and never releases anything that was not sent to it.
package sequencer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Bounds.
const (
	MaxQueued       = 4096     // calls of Append that wait for a batch
	MaxQueuedBytes  = 32 << 20 // of entries, waiting or unacknowledged; more callers wait
	MaxBatchEntries = 4096
	MaxBatchBytes   = 2 << 20 // of entries in one batch; one message on the stream
	MaxAppend       = 256     // entries of one call
	// Window is how many batches may be unacknowledged. One: while it is synced everything that arrives gathers for the next.
	// Two made more and smaller batches and measured no faster.
	Window = 1
)

// How long the other side may take.
const (
	AttachTimeout = 10 * time.Second // until the first message of a stream
	AckTimeout    = 30 * time.Second // for the oldest batch sent
	signTimeout   = 30 * time.Second
)

// Errors that callers tell apart.
var (
	// ErrNoStore: no Persist stream is attached, so nothing can be made durable and nothing is accepted.
	ErrNoStore = errors.New("the journal has no store: no Persist stream is attached: start raypherd, or wait until it has connected again")
	// ErrClosed: the enclave is shutting down.
	ErrClosed = errors.New("the journal is closed")
	// ErrTooLarge: more entries or bytes in one call than a batch may hold.
	ErrTooLarge = errors.New("too much for one call")
	// ErrStore: the parent's store contradicts this journal.
	ErrStore = errors.New("the parent's store contradicts the journal")
	// ErrProtocol: a message that the Persist stream does not allow.
	ErrProtocol = errors.New("persist stream")
)

// Options of a sequencer.
type Options struct {
	Signer        signer.Signer
	Epoch         journal.EpochID // random
	Configuration journal.Hash    // of the start configuration
	// Predecessors are the keys, besides the signer's own, whose journal this epoch may follow.
	Predecessors [][32]byte
	// NitroRoots are roots of attestation that it believes besides AWS's when it follows the journal of its own image.
	NitroRoots [][32]byte
	// Opening returns entries that follow entry 0 in the first batch, such as the ceiling in force. May be nil.
	Opening func() ([][]byte, error)
	// Began is told once what this epoch follows, which was verified; nil: the store was empty. It must not call the sequencer. May be nil.
	Began func(*journal.Predecessor)
	Log   *slog.Logger
}

// Sequencer writes one epoch. Its methods are safe for concurrent use.
type Sequencer struct {
	opts     Options
	key      *journal.Key
	evidence *journal.KeyEvidence
	queue    chan *pending
	start    chan *pending // entry 0, once
	wanted   atomic.Int64  // calls in the queue for which the writer waits; 0: it does not
	enough   chan struct{} // holds one token when they are there
	room     *semaphore.Weighted
	stop     context.CancelFunc
	stopped  context.Context
	wait     sync.WaitGroup

	gate      sync.RWMutex // held for writing by Close, for reading while TryAppend queues
	beginning sync.Mutex   // one stream at a time attaches; taken before mu

	mu          sync.Mutex
	changed     chan struct{} // closed and replaced when something below changes
	closed      bool
	stream      *attachment
	detached    time.Time // since when stream is nil
	began       *origin   // what entry 0 says; nil before the first Attach
	carry       *pending  // taken from the queue and too large for the last batch; it begins the next one
	unacked     []*commit // oldest first; at most Window
	sent        uint64    // entries that any stream was sent
	acked       uint64    // entries that the store has
	lastHead    []byte    // signed head of acked
	expected    int       // calls that the last batch released and those that waited then: as many may come back
	released    time.Time // when that was
	generations uint64    // of streams, for the log
}

// origin is what the first Attach said, which later ones of the same epoch must not contradict.
type origin struct {
	epoch journal.EpochID
	size  uint64 // 0: the store was empty
}

// pending is one call of Append.
type pending struct {
	entries [][]byte
	leaves  []journal.Hash
	bytes   int64
	done    chan struct{}  // closed when commit or err is set; nil with then
	then    func(*pending) // called instead, with the sequencer's lock held
	commit  *commit
	first   uint64
	err     error

	namespace *Namespace // nil: no head for a namespace is wanted
}

// commit is one signed batch.
type commit struct {
	batch   *journal.Batch
	head    []byte
	heads   map[string][]byte // the same head by the keys of namespaces
	message *enclavev1.Batch
	callers []*pending
	sentAt  time.Time
}

// New makes the sequencer of one epoch and starts its writer. The epoch itself begins with the first Attach.
func New(opts Options) (*Sequencer, error) {
	key, err := journal.NewKey(opts.Signer.Public())
	if err != nil {
		return nil, fmt.Errorf("journal: signing key: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), signTimeout)
	defer cancel()
	evidence, err := opts.Signer.Evidence(ctx, nil, signer.Binding{Epoch: opts.Epoch, Configuration: opts.Configuration})
	if err != nil {
		return nil, fmt.Errorf("journal: evidence of the signing key: %w", err)
	}
	s := &Sequencer{
		opts: opts, key: key, evidence: evidence,
		queue:   make(chan *pending, MaxQueued),
		start:   make(chan *pending),
		enough:  make(chan struct{}, 1),
		room:    semaphore.NewWeighted(MaxQueuedBytes),
		changed: make(chan struct{}),
	}
	s.stopped, s.stop = context.WithCancel(context.Background())
	s.wait.Add(1)
	go s.write()
	return s, nil
}

// Close stops the writer and cuts the stream. Callers that wait get ErrClosed. It is idempotent.
func (s *Sequencer) Close() {
	s.gate.Lock()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.gate.Unlock()
	s.stop()
	s.wait.Wait()

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != nil {
		s.stream.cut(ErrClosed)
		s.stream = nil
	}
	s.abandon(ErrClosed)
	s.unacked = nil
	s.notify()
}

// abandon ends every call that waits; s.mu is held. Batches stay and are sent to the next store.
func (s *Sequencer) abandon(err error) {
	end := func(p *pending) {
		s.room.Release(p.bytes)
		p.finish(nil, err)
	}
	for _, c := range s.unacked {
		for _, p := range c.callers {
			end(p)
		}
		c.callers = nil
	}
	if s.carry != nil {
		end(s.carry)
		s.carry = nil
	}
	for {
		select {
		case p := <-s.queue:
			end(p)
		default:
			return
		}
	}
}

// Size is how many entries of this epoch the store has acknowledged.
func (s *Sequencer) Size() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// NewestHead is the SHA-256 of the newest signed tree head, acknowledged or not; zero: the epoch has not begun.
func (s *Sequencer) NewestHead() journal.Hash {
	s.mu.Lock()
	defer s.mu.Unlock()
	head := s.lastHead
	if n := len(s.unacked); n > 0 {
		head = s.unacked[n-1].head
	}
	if head == nil {
		return journal.Hash{}
	}
	return sha256.Sum256(head)
}

// Attached says whether a store is connected, which is when Append accepts entries.
func (s *Sequencer) Attached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream != nil
}

// Placed says where the entries of one Append lie. It is immutable.
type Placed struct {
	Epoch journal.EpochID
	First uint64 // index of the first entry; the others follow
	Head  []byte // signed head of the batch
	// NamespaceHead is the same head by the key of the namespace that the call named; nil where it named none.
	NamespaceHead []byte
	batch         *journal.Batch
}

// Receipt proves entry number i of the call.
func (p *Placed) Receipt(i int) journal.Receipt {
	index := p.First + uint64(i)
	return journal.Receipt{Epoch: p.Epoch, Index: index, Path: p.batch.Proof(index), SignedHead: p.Head}
}

// Append adds encoded entries, 1 to MaxAppend, in this order and side by side, and returns when the store has synced them.
// When ctx ends first its error is returned and the entries may or may not become part of the journal.
func (s *Sequencer) Append(ctx context.Context, entries ...[]byte) (*Placed, error) {
	return s.AppendFor(ctx, nil, entries...)
}

func (s *Sequencer) append(ctx context.Context, p *pending) (*Placed, error) {
	p.done = make(chan struct{})
	if err := s.open(); err != nil {
		return nil, err
	}
	if err := s.room.Acquire(ctx, p.bytes); err != nil {
		return nil, fmt.Errorf("journal: wait for room: %w", err)
	}
	select {
	case s.queue <- p: // nearly always, and much cheaper than the other select
	default:
		select {
		case s.queue <- p:
		case <-ctx.Done():
			s.room.Release(p.bytes)
			return nil, fmt.Errorf("journal: wait for room: %w", ctx.Err())
		case <-s.stopped.Done():
			s.room.Release(p.bytes)
			return nil, ErrClosed
		}
	}
	s.queued()
	select {
	case <-p.done:
	case <-ctx.Done():
		return nil, fmt.Errorf("journal: wait for the store: %w", ctx.Err())
	case <-s.stopped.Done():
		return nil, ErrClosed
	}
	return s.placed(p)
}

func (s *Sequencer) placed(p *pending) (*Placed, error) {
	if p.err != nil {
		return nil, p.err
	}
	placed := &Placed{Epoch: s.opts.Epoch, First: p.first, Head: p.commit.head, batch: p.commit.batch}
	if p.namespace != nil {
		placed.NamespaceHead = p.commit.heads[p.namespace.Name]
	}
	return placed, nil
}

// Pending is what TryAppend began.
type Pending struct {
	s *Sequencer
	p *pending
}

// Placed is the outcome, once then was called.
func (p *Pending) Placed() (*Placed, error) { return p.s.placed(p.p) }

// TryAppend is Append for a caller that does not want to wait: then is called once the outcome is known, within twice
// AckTimeout. It must not block nor call the sequencer. taken is false, and then is not called, when there is no room at the
// moment; an error likewise means that nothing was begun.
func (s *Sequencer) TryAppend(then func(*Pending), entries ...[]byte) (taken bool, err error) {
	return s.TryAppendFor(nil, then, entries...)
}

func (s *Sequencer) tryAppend(then func(*Pending), p *pending) (taken bool, err error) {
	p.then = func(*pending) { then(&Pending{s, p}) }
	// The gate keeps Close from missing what is queued here.
	s.gate.RLock()
	defer s.gate.RUnlock()
	if err := s.open(); err != nil {
		return false, err
	}
	if !s.room.TryAcquire(p.bytes) {
		return false, nil
	}
	select {
	case s.queue <- p:
		s.queued()
		return true, nil
	default:
		s.room.Release(p.bytes)
		return false, nil
	}
}

func newPending(entries [][]byte) (*pending, error) {
	if len(entries) == 0 || len(entries) > MaxAppend {
		return nil, fmt.Errorf("journal: %d entries, expected 1 to %d: %w", len(entries), MaxAppend, ErrTooLarge)
	}
	p := &pending{entries: entries, leaves: make([]journal.Hash, len(entries))}
	for i, e := range entries {
		if len(e) > journal.MaxEntrySize {
			return nil, fmt.Errorf("journal: entry of %d bytes, at most %d: %w", len(e), journal.MaxEntrySize, ErrTooLarge)
		}
		p.bytes += int64(len(e))
		p.leaves[i] = journal.LeafHash(e)
	}
	if p.bytes > MaxBatchBytes {
		return nil, fmt.Errorf("journal: %d bytes, at most %d: %w", p.bytes, MaxBatchBytes, ErrTooLarge)
	}
	return p, nil
}

// open says whether entries are accepted now.
func (s *Sequencer) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.stream == nil:
		return ErrNoStore
	}
	return nil
}

// finish tells the caller the outcome. It is called once.
func (p *pending) finish(c *commit, err error) {
	p.commit, p.err = c, err
	if p.then != nil {
		p.then(p)
		return
	}
	close(p.done)
}

// notify wakes everyone who waits for a change; s.mu is held.
func (s *Sequencer) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}
