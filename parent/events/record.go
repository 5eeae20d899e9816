package events

import (
	"context"
	"errors"
	"time"

	"github.com/raypher/raypher/journal"
)

// Run folds, records and publishes until ctx ends; then it records what is left, or leaves it in the spool.
func (h *Hub) Run(ctx context.Context) error {
	ticker := time.NewTicker(foldTick)
	defer ticker.Stop()
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		h.write(ctx)
	}()
	for {
		select {
		case now := <-ticker.C:
			h.tick(now, false)
		case <-ctx.Done():
			<-writing
			h.tick(time.Now(), true)
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
			defer cancel()
			for h.next(last) {
			}
			return h.spool.close()
		}
	}
}

// write is the one goroutine that talks to the enclave. While a call is under way, what is reported gathers for the next.
func (h *Hub) write(ctx context.Context) {
	retry := time.NewTicker(retryAfter)
	defer retry.Stop()
	h.drain(ctx)
	for {
		select {
		case <-h.wake:
			for h.next(ctx) && ctx.Err() == nil {
			}
		case <-retry.C:
			h.drain(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// next records one batch and says whether there was one.
func (h *Hub) next(ctx context.Context) bool {
	h.mu.Lock()
	n := min(len(h.pending), maxBatch)
	batch := h.pending[:n:n]
	h.pending = h.pending[n:]
	if len(h.pending) == 0 {
		h.pending = nil
	}
	if len(batch) > 0 && h.spool.count() == 0 {
		batch = append(batch, h.loss()...)
	}
	h.mu.Unlock()
	if len(batch) == 0 {
		return false
	}
	batch, encoded := h.encode(batch)
	// What lies in the spool is older and goes first.
	if h.spool.count() > 0 {
		h.keep(batch, encoded)
		return true
	}
	epoch, first, err := h.call(ctx, encoded)
	switch {
	case err == nil:
		h.count("verdicts_recorded", len(batch))
		h.publish(batch, epoch, first)
	case errors.Is(err, ErrRefused):
		h.oneByOne(ctx, batch, encoded)
	default:
		h.count("record_failures", 1)
		h.options.Log.Warn("verdicts wait in the spool: the enclave does not record them", "verdicts", len(batch), "error", err)
		h.keep(batch, encoded)
	}
	return true
}

func (h *Hub) call(ctx context.Context, encoded [][]byte) ([]byte, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return h.options.Record(ctx, encoded)
}

// encode drops what is no verdict; that is a mistake of this program, so it is said.
func (h *Hub) encode(batch []journal.Verdict) (good []journal.Verdict, encoded [][]byte) {
	for _, v := range batch {
		data, err := journal.EncodeVerdict(v)
		if err != nil {
			h.count("verdicts_invalid", 1)
			h.options.Log.Error("a verdict cannot be encoded and is dropped", "agent", v.AgentID, "error", err)
			continue
		}
		good, encoded = append(good, v), append(encoded, data)
	}
	return good, encoded
}

// oneByOne records a batch of which the enclave refuses a part.
func (h *Hub) oneByOne(ctx context.Context, batch []journal.Verdict, encoded [][]byte) {
	for i := range batch {
		epoch, first, err := h.call(ctx, encoded[i:i+1])
		switch {
		case err == nil:
			h.count("verdicts_recorded", 1)
			h.publish(batch[i:i+1], epoch, first)
		case errors.Is(err, ErrRefused):
			h.count("verdicts_refused", 1)
			h.options.Log.Error("the enclave refuses a verdict; it is dropped", "agent", batch[i].AgentID, "error", err)
		default:
			h.keep(batch[i:], encoded[i:])
			return
		}
	}
}

// keep puts a batch into the spool and publishes it without a place in the journal.
func (h *Hub) keep(batch []journal.Verdict, encoded [][]byte) {
	if err := h.spool.append(encoded); err != nil {
		h.options.Log.Error("verdicts are lost: the enclave does not record them and the spool takes no more", "verdicts", len(batch), "error", err)
		h.mu.Lock()
		for _, v := range batch {
			h.lose(v)
		}
		h.mu.Unlock()
	}
	h.publish(batch, nil, 0)
}

// drain records what lies in the spool, as long as the enclave takes it.
func (h *Hub) drain(ctx context.Context) {
	for h.spool.count() > 0 && ctx.Err() == nil {
		encoded, err := h.spool.peek(maxBatch)
		if err != nil {
			h.options.Log.Error("the spool is damaged; what follows in it is lost", "error", err)
			h.mu.Lock()
			h.lost["host"] += h.spool.count()
			h.mu.Unlock()
			h.spool.drop(int(h.spool.count()))
			return
		}
		_, _, err = h.call(ctx, encoded)
		if errors.Is(err, ErrRefused) {
			err = h.drainOneByOne(ctx, encoded)
		}
		if err != nil {
			return // the enclave is still away: the next tick tries again
		}
		h.count("verdicts_recorded_late", len(encoded))
		h.spool.drop(len(encoded))
	}
	h.mu.Lock()
	waiting := len(h.lost) > 0 && h.spool.count() == 0
	if waiting {
		h.pending = append(h.pending, h.loss()...)
	}
	h.mu.Unlock()
	if waiting {
		h.next(ctx)
	}
}

func (h *Hub) drainOneByOne(ctx context.Context, encoded [][]byte) error {
	for i := range encoded {
		_, _, err := h.call(ctx, encoded[i:i+1])
		if errors.Is(err, ErrRefused) {
			h.count("verdicts_refused", 1)
			continue
		}
		if err != nil {
			h.spool.drop(i)
			return errors.New("not all recorded")
		}
	}
	return nil
}

func (h *Hub) count(name string, n int) { h.Count(name, uint64(n)) }
