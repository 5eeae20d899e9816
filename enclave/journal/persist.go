package sequencer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/raypher/raypher/enclave/predecessor"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Stream is the enclave's end of a Persist stream (enclavev1.Enclave_PersistServer).
type Stream interface {
	Context() context.Context
	SendHeader(metadata.MD) error // sent when Attach was accepted, so that the parent knows
	Send(*enclavev1.Batch) error
	Recv() (*enclavev1.PersistRequest, error)
}

// attachment is one Persist stream after its Attach was found good.
type attachment struct {
	ctx  context.Context
	cut  context.CancelCauseFunc
	next uint64 // index of the first entry that this stream was not sent; guarded by Sequencer.mu
}

var errReplaced = errors.New("another Persist stream has taken over")

// Serve runs one Persist stream until it ends, is replaced, or the parent breaks the protocol, and returns why. A good
// Attach replaces the stream that was attached before.
func (s *Sequencer) Serve(stream Stream) error {
	received := make(chan *enclavev1.PersistRequest)
	failed := make(chan error, 1)
	ctx, cut := context.WithCancelCause(stream.Context())
	defer cut(nil)
	// Recv blocks until the stream's context ends, which is when the handler that called Serve returns.
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				failed <- err
				return
			}
			select {
			case received <- m:
			case <-ctx.Done():
				return
			}
		}
	}()

	attach, err := firstMessage(ctx, received, failed)
	if err != nil {
		return err
	}
	a := &attachment{ctx: ctx, cut: cut}
	if err := s.attach(a, attach); err != nil {
		return err
	}
	defer s.detach(a)
	if err := stream.SendHeader(nil); err != nil {
		return err
	}

	sender := make(chan error, 1)
	go func() { sender <- s.send(a, stream) }()
	// The sender ends with ctx, except while Send blocks on a parent that reads nothing: that ends with the handler.
	tick := time.NewTicker(AckTimeout / 4)
	defer tick.Stop()
	for {
		select {
		case m := <-received:
			if err := s.acknowledge(a, m.GetAck()); err != nil {
				return err
			}
		case err := <-failed:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case err := <-sender:
			return err
		case <-tick.C:
			if err := s.overdue(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func firstMessage(ctx context.Context, received <-chan *enclavev1.PersistRequest, failed <-chan error) (*enclavev1.Attach, error) {
	timer := time.NewTimer(AttachTimeout)
	defer timer.Stop()
	select {
	case m := <-received:
		if attach := m.GetAttach(); attach != nil {
			return attach, nil
		}
		return nil, fmt.Errorf("%w: the first message is not Attach", ErrProtocol)
	case err := <-failed:
		return nil, err
	case <-timer.C:
		return nil, fmt.Errorf("%w: no Attach within %s", ErrProtocol, AttachTimeout)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// attach checks what the parent says of its store against what this epoch knows, begins the epoch if this is the first
// stream, and makes a the current stream.
func (s *Sequencer) attach(a *attachment, m *enclavev1.Attach) error {
	claim, err := readClaim(m)
	if err != nil {
		return err
	}
	s.beginning.Lock()
	defer s.beginning.Unlock()
	s.mu.Lock()
	closed, begun := s.closed, s.began != nil
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	if !begun {
		predecessor, err := s.predecessor(claim)
		if err != nil {
			return err
		}
		if err := s.begin(a.ctx, predecessor); err != nil {
			return fmt.Errorf("begin epoch: %w", err)
		}
		if s.opts.Began != nil {
			s.opts.Began(predecessor)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !begun {
		s.began = &origin{epoch: claim.epoch, size: claim.size}
	}
	return s.resume(a, claim)
}

// claim is a checked form of Attach. What it says is believed only as far as it was signed.
type claim struct {
	empty    bool
	epoch    journal.EpochID
	size     uint64
	head     []byte
	evidence []byte
}

func readClaim(m *enclavev1.Attach) (claim, error) {
	if len(m.GetEpoch()) == 0 {
		if m.GetSize() != 0 || len(m.GetSignedHead()) != 0 {
			return claim{}, fmt.Errorf("%w: Attach of an empty store names a size or a head", ErrProtocol)
		}
		return claim{empty: true}, nil
	}
	epoch, err := journal.ParseEpochID(m.GetEpoch())
	if err != nil {
		return claim{}, fmt.Errorf("%w: Attach: %v", ErrProtocol, err)
	}
	if m.GetSize() == 0 || len(m.GetSignedHead()) == 0 {
		return claim{}, fmt.Errorf("%w: Attach names an epoch without entries or without a signed head", ErrProtocol)
	}
	return claim{epoch: epoch, size: m.GetSize(), head: m.GetSignedHead(), evidence: m.GetKeyEvidence()}, nil
}

// predecessor verifies the head that the store ends with, by the evidence of its key, and returns what entry 0 says of it.
func (s *Sequencer) predecessor(c claim) (*journal.Predecessor, error) {
	if c.empty {
		return nil, nil
	}
	if c.epoch == s.opts.Epoch {
		return nil, fmt.Errorf("%w: it names this epoch, which has not begun", ErrStore)
	}
	p, err := predecessor.Verify(predecessor.Claim{Epoch: c.epoch, Size: c.size, SignedHead: c.head, KeyEvidence: c.evidence},
		predecessor.Own{Key: s.key, Evidence: s.evidence, Allowed: s.opts.Predecessors, Roots: s.opts.NitroRoots})
	if err != nil {
		return nil, fmt.Errorf("%w: its last epoch: %w", ErrStore, err)
	}
	return p, nil
}

// resume makes a the current stream of an epoch that has begun; s.mu is held. The store must hold exactly what was
// acknowledged, or one of the batches that were sent and not acknowledged yet.
func (s *Sequencer) resume(a *attachment, c claim) error {
	var held uint64
	switch {
	case c.epoch == s.opts.Epoch && !c.empty:
		held = c.size
	case s.acked == 0 && *s.began == (origin{epoch: c.epoch, size: c.size}):
		// It never got the first batch.
	default:
		return fmt.Errorf("%w: it ends with %d entries of epoch %s, this epoch %s has %d acknowledged entries: the store lost entries or was replaced: restart the enclave to begin a new epoch on it",
			ErrStore, c.size, c.epoch, s.opts.Epoch, s.acked)
	}
	if err := s.holds(held, c.head); err != nil {
		return err
	}
	if s.stream != nil {
		s.stream.cut(errReplaced)
	}
	s.release(held)
	a.next = held
	s.stream = a
	s.generations++
	s.opts.Log.Info("journal store attached", "epoch", s.opts.Epoch, "entries", held, "stream", s.generations)
	s.notify()
	return nil
}

// holds checks a store that says it has size entries, the last under that head; s.mu is held.
func (s *Sequencer) holds(size uint64, head []byte) error {
	if size == s.acked {
		if size > 0 && !bytes.Equal(head, s.lastHead) {
			return fmt.Errorf("%w: another head at %d entries of this epoch", ErrStore, size)
		}
		return nil
	}
	for _, c := range s.unacked {
		if c.batch.Size() == size && size <= s.sent && bytes.Equal(head, c.head) {
			return nil
		}
	}
	return fmt.Errorf("%w: it holds %d entries of this epoch, of which %d are acknowledged and %d were sent", ErrStore, size, s.acked, s.sent)
}

func (s *Sequencer) detach(a *attachment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream == a {
		s.stream, s.detached = nil, time.Now()
		s.opts.Log.Warn("journal store detached: nothing is minted until it is back", "epoch", s.opts.Epoch, "unacknowledged", len(s.unacked))
		s.notify()
		time.AfterFunc(AckTimeout, s.expire)
	}
}

// expire ends the calls that wait for a store that has been gone for AckTimeout.
func (s *Sequencer) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream == nil && time.Since(s.detached) >= AckTimeout {
		s.abandon(ErrNoStore)
	}
}

// send sends batches in order as they are made, beginning with those that an earlier stream left unacknowledged.
func (s *Sequencer) send(a *attachment, stream Stream) error {
	for {
		s.mu.Lock()
		var batch *enclavev1.Batch
		for _, c := range s.unacked {
			if c.batch.First() == a.next {
				batch = c.message
				a.next = c.batch.Size()
				s.sent = max(s.sent, a.next)
				c.sentAt = time.Now()
				break
			}
		}
		changed := s.changed
		s.mu.Unlock()
		if batch != nil {
			if err := stream.Send(batch); err != nil {
				return err
			}
			continue
		}
		select {
		case <-changed:
		case <-a.ctx.Done():
			return context.Cause(a.ctx)
		}
	}
}

// acknowledge takes one PersistAck. It must name the end of a batch that this stream was sent, and go forwards.
func (s *Sequencer) acknowledge(a *attachment, ack *enclavev1.PersistAck) error {
	if ack == nil {
		return fmt.Errorf("%w: a second Attach, or an empty message", ErrProtocol)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stream != a {
		return errReplaced
	}
	size := ack.GetSize()
	if !bytes.Equal(ack.GetEpoch(), s.opts.Epoch[:]) {
		return fmt.Errorf("%w: acknowledges another epoch", ErrProtocol)
	}
	if size <= s.acked {
		return fmt.Errorf("%w: acknowledges %d entries after %d: goes backwards", ErrProtocol, size, s.acked)
	}
	if size > a.next {
		return fmt.Errorf("%w: acknowledges %d entries, %d were sent", ErrProtocol, size, a.next)
	}
	if !slices.ContainsFunc(s.unacked, func(c *commit) bool { return c.batch.Size() == size }) {
		return fmt.Errorf("%w: acknowledges %d entries, which is not the end of a batch", ErrProtocol, size)
	}
	s.release(size)
	s.notify()
	return nil
}

// release lets the callers of all batches up to size go; s.mu is held.
func (s *Sequencer) release(size uint64) {
	for len(s.unacked) > 0 && s.unacked[0].batch.Size() <= size {
		c := s.unacked[0]
		s.unacked = slices.Delete(s.unacked, 0, 1)
		s.expected, s.released = len(c.callers)+len(s.queue), time.Now()
		s.acked, s.lastHead = c.batch.Size(), c.head
		for _, p := range c.callers {
			s.room.Release(p.bytes)
			p.finish(c, nil)
		}
	}
}

// overdue is an error when the oldest batch was sent longer than AckTimeout ago.
func (s *Sequencer) overdue() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unacked) == 0 || s.unacked[0].sentAt.IsZero() || time.Since(s.unacked[0].sentAt) < AckTimeout {
		return nil
	}
	return fmt.Errorf("%w: no acknowledgement within %s", ErrProtocol, AckTimeout)
}
