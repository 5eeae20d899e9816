package link

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// persist keeps a Persist stream running until ctx ends.
func (l *Link) persist(ctx context.Context) {
	wait := firstRetry
	for ctx.Err() == nil {
		started := time.Now()
		err := l.stream(ctx)
		if ctx.Err() != nil || l.ending.Load() {
			break
		}
		l.setAttached(false, err)
		if time.Since(started) > lastRetry {
			wait = firstRetry
		}
		l.opts.Log.Warn("the enclave's journal stream ended, connecting again", "reason", err, "wait", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, lastRetry)
	}
	l.setAttached(false, errors.New("closed"))
}

// stream runs one Persist stream: Attach, then an acknowledgement for each batch that the store has synced.
func (l *Link) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var preparing sync.WaitGroup
	defer preparing.Wait()
	defer cancel()
	s, err := l.client.Persist(ctx)
	if err != nil {
		return errors.New(status.Convert(err).Message())
	}
	if err := s.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Attach{Attach: l.opts.Store.Attach()}}); err != nil {
		return streamError(s, err)
	}
	// The server sends its header when it has accepted Attach.
	if _, err := s.Header(); err != nil {
		return errors.New(status.Convert(err).Message())
	}
	preparing.Go(func() { l.replay(ctx) })
	if l.opts.Prepare == nil {
		l.setAttached(true, nil)
	} else {
		l.setAttached(false, errors.New("it was connected just now and is being prepared"))
		preparing.Go(func() { // what it asks for may have to be stored below
			l.opts.Prepare(ctx, l)
			if ctx.Err() == nil {
				l.setAttached(true, nil)
			}
		})
	}
	for {
		batch, err := s.Recv()
		if err != nil {
			return errors.New(status.Convert(err).Message())
		}
		if err := l.opts.Store.Append(batch); err != nil {
			return fmt.Errorf("%w: %w", errStoreFailed, err)
		}
		ack := &enclavev1.PersistAck{Epoch: batch.GetEpoch(), Size: batch.GetFirstIndex() + uint64(len(batch.GetEntries()))}
		if err := s.Send(&enclavev1.PersistRequest{Message: &enclavev1.PersistRequest_Ack{Ack: ack}}); err != nil {
			return streamError(s, err)
		}
	}
}

// streamError finds out why a stream ended on which sending failed.
func streamError(s enclavev1.Enclave_PersistClient, err error) error {
	if _, recvErr := s.Recv(); recvErr != nil {
		err = recvErr
	}
	return errors.New(status.Convert(err).Message())
}
