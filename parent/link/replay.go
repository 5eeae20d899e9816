package link

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// What one message of a replay holds at most: what the enclave takes.
const (
	replayEntries = 512
	replayBytes   = 512 << 10
)

// replay shows the enclave what this host's journal holds of the epochs before the enclave's own, if it asks. Money waits for this, and
// nothing else does.
func (l *Link) replay(ctx context.Context) {
	entries, err := l.show(ctx)
	if ctx.Err() != nil || l.ending.Load() {
		return
	}
	l.mu.Lock()
	l.unread = err
	l.mu.Unlock()
	switch {
	case err != nil:
		l.opts.Log.Error("the enclave does not take the journal of this host: nothing can be spent on models", "reason", err)
	case entries > 0:
		l.opts.Log.Info("the enclave knows what was spent before", "entries", entries)
	}
}

// Unread is why the enclave does not know what was spent before; nil: it does, or is being told.
func (l *Link) Unread() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unread
}

// show sends what the enclave has to know, and returns how many entries it read.
func (l *Link) show(ctx context.Context) (entries uint64, err error) {
	wanted, err := l.DescribeSpending(ctx, &enclavev1.DescribeSpendingRequest{})
	if err != nil || !wanted.GetUnread() || len(wanted.GetFollowsEpoch()) == 0 {
		return 0, err
	}
	last, err := journal.ParseEpochID(wanted.GetFollowsEpoch())
	if err != nil {
		return 0, fmt.Errorf("%w: what it follows: %w", ErrPeer, err)
	}
	stream, err := l.client.Replay(ctx)
	if err != nil {
		return 0, l.explain(err)
	}
	err = l.opts.Store.Replay(last, func(id journal.EpochID, first uint64, edge []journal.Hash) error {
		begin := &enclavev1.ReplayEpoch{Epoch: id[:], FirstIndex: first}
		for _, h := range edge {
			begin.Edge = append(begin.Edge, append([]byte(nil), h[:]...))
		}
		return stream.Send(&enclavev1.ReplayRequest{Epoch: begin})
	}, func(raw [][]byte) error { return sendEntries(stream, raw) })
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the enclave has ended the stream, and says why below
		return 0, err
	}
	reply, err := stream.CloseAndRecv()
	return reply.GetEntries(), l.explain(err)
}

// sendEntries sends entries in messages that the enclave takes.
func sendEntries(stream enclavev1.Enclave_ReplayClient, raw [][]byte) error {
	for len(raw) > 0 {
		n, size := 0, 0
		for n < len(raw) && n < replayEntries && (n == 0 || size+len(raw[n]) <= replayBytes) {
			size += len(raw[n])
			n++
		}
		if err := stream.Send(&enclavev1.ReplayRequest{Entries: raw[:n]}); err != nil {
			return err
		}
		raw = raw[n:]
	}
	return nil
}
