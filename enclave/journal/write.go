package sequencer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// write is the writer: the only goroutine that touches the tree. What arrives while it signs, or while the window is full,
// waits in the queue and goes into the next batch together.
func (s *Sequencer) write() {
	defer s.wait.Done()
	var (
		tree journal.Tree
		last pace
	)
	for begun := false; !begun; {
		select {
		case p := <-s.start:
			begun = s.commit(&tree, []*pending{p})
		case <-s.stopped.Done():
			return
		}
	}
	for s.waitForWindow() {
		first := s.takeCarry()
		if first == nil {
			select {
			case first = <-s.queue:
			case <-s.stopped.Done():
				return
			}
		}
		if !s.linger(last) {
			first.finish(nil, ErrClosed)
			return
		}
		calls := s.gather(first)
		began := time.Now()
		s.commit(&tree, calls)
		last = pace{signing: time.Since(began), calls: len(calls)}
	}
}

// takeCarry returns the call that was too large for the last batch, if there is one.
func (s *Sequencer) takeCarry() *pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.carry
	s.carry = nil
	return p
}

// waitForWindow returns when another batch may be made; false: the sequencer is closed.
func (s *Sequencer) waitForWindow() bool {
	for {
		s.mu.Lock()
		full, changed := len(s.unacked) >= Window, s.changed
		s.mu.Unlock()
		if !full {
			return s.stopped.Err() == nil
		}
		select {
		case <-changed:
		case <-s.stopped.Done():
			return false
		}
	}
}

// gather takes what waits already, up to the bounds of a batch.
func (s *Sequencer) gather(first *pending) []*pending {
	calls := []*pending{first}
	entries, bytes := len(first.entries), first.bytes
	for {
		select {
		case p := <-s.queue:
			if entries+len(p.entries) > MaxBatchEntries || bytes+p.bytes > MaxBatchBytes {
				s.mu.Lock()
				s.carry = p
				s.mu.Unlock()
				return calls
			}
			calls = append(calls, p)
			entries += len(p.entries)
			bytes += p.bytes
		default:
			return calls
		}
	}
}

// commit adds the calls to the tree, signs the head and queues the batch for the stream. When signing fails the tree is as
// before and the callers get the error. It returns whether the batch was made.
func (s *Sequencer) commit(tree *journal.Tree, calls []*pending) bool {
	before := *tree
	var (
		leaves  []journal.Hash
		entries [][]byte
	)
	for _, p := range calls {
		p.first = before.Size() + uint64(len(leaves))
		leaves = append(leaves, p.leaves...)
		entries = append(entries, p.entries...)
	}
	batch := tree.Append(leaves)
	head := journal.Head{
		Epoch: s.opts.Epoch, Size: batch.Size(), Root: batch.Root(), Time: time.Now().UnixNano(),
		Tier: s.opts.Signer.Tier(), ConfigurationHash: s.opts.Configuration,
	}
	signed, err := s.sign(head)
	if err != nil {
		*tree = before
		s.fail(calls, fmt.Errorf("journal: sign tree head: %w", err))
		return false
	}
	heads, calls := s.signNamespaces(head, calls)
	c := &commit{batch: batch, head: signed, heads: heads, callers: calls, message: &enclavev1.Batch{
		Epoch: s.opts.Epoch[:], FirstIndex: batch.First(), Entries: entries, SignedHead: signed,
	}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unacked = append(s.unacked, c)
	s.notify()
	return true
}

func (s *Sequencer) sign(head journal.Head) ([]byte, error) {
	ctx, cancel := context.WithTimeout(s.stopped, signTimeout)
	defer cancel()
	return journal.SignHead(head, signer.ForJournal(ctx, s.opts.Signer))
}

func (s *Sequencer) fail(calls []*pending, err error) {
	if errors.Is(err, context.Canceled) && s.stopped.Err() != nil {
		err = ErrClosed
	}
	for _, p := range calls {
		s.room.Release(p.bytes)
		p.finish(nil, err)
	}
}

// begin makes entry 0 and hands it to the writer. It is called once per epoch that begins, by the first good Attach, and
// returns when the batch is made.
func (s *Sequencer) begin(ctx context.Context, predecessor *journal.Predecessor) error {
	payload, err := (&journal.EpochStart{
		Epoch: s.opts.Epoch, PublicKey: s.key.PKIX(), Tier: s.opts.Signer.Tier(),
		ConfigurationHash: s.opts.Configuration, KeyEvidence: *s.evidence, Predecessor: predecessor,
	}).Encode()
	if err != nil {
		return err
	}
	entry, err := journal.NewEntry(journal.TypeEpoch, time.Now(), payload)
	if err != nil {
		return err
	}
	entries := [][]byte{entry}
	if s.opts.Opening != nil {
		more, err := s.opts.Opening()
		if err != nil {
			return err
		}
		entries = append(entries, more...)
	}
	p, err := newPending(entries)
	if err != nil {
		return err
	}
	p.done = make(chan struct{})
	if err := s.room.Acquire(ctx, p.bytes); err != nil {
		return err
	}
	select {
	case s.start <- p:
	case <-ctx.Done():
		s.room.Release(p.bytes)
		return ctx.Err()
	case <-s.stopped.Done():
		s.room.Release(p.bytes)
		return ErrClosed
	}
	// The writer answers with a batch, or with p's error when it cannot sign.
	for {
		s.mu.Lock()
		made, changed := len(s.unacked) > 0, s.changed
		s.mu.Unlock()
		if made {
			return nil
		}
		select {
		case <-changed:
		case <-p.done:
			return p.err
		case <-s.stopped.Done():
			return ErrClosed
		}
	}
}
