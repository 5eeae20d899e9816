package sequencer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
)

// counting is a signer that counts, and fails when told so.
type counting struct {
	failing
	signed int
}

func (c *counting) Sign(ctx context.Context, digest []byte) ([]byte, error) {
	c.mu.Lock()
	c.signed++
	c.mu.Unlock()
	return c.failing.Sign(ctx, digest)
}

func (c *counting) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.signed
}

// appendFor starts an AppendFor.
func appendFor(t *testing.T, s *Sequencer, of *Namespace, text string) (entry []byte, result chan outcome) {
	t.Helper()
	entry, err := journal.NewEntry(journal.TypeVisa, time.Unix(1, 0), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	result = make(chan outcome, 1)
	taken, err := s.TryAppendFor(of, func(p *Pending) {
		go func() {
			placed, err := p.Placed()
			result <- outcome{placed, err}
		}()
	}, entry)
	if err != nil || !taken {
		t.Fatalf("taken %v, %v", taken, err)
	}
	return entry, result
}

// One batch costs one signature for each namespace in it. Each call gets its own namespace's head, and none another's.
func TestNamespaceHeadsOfABatch(t *testing.T) {
	s, p, _ := begun(t)
	devKey, prodKey := &counting{failing: failing{Key: newKey(t)}}, &counting{failing: failing{Key: newKey(t)}}
	dev, prod := &Namespace{"dev", devKey}, &Namespace{"prod", prodKey}
	_, r := appendFor(t, s, nil, "first") // while it is not acknowledged, the others gather
	b := p.batch(t)
	var (
		entries [][]byte
		results []chan outcome
		of      = []*Namespace{dev, prod, nil, dev}
	)
	for _, n := range of {
		entry, result := appendFor(t, s, n, "x")
		entries, results = append(entries, entry), append(results, result)
	}
	p.ack(s.opts.Epoch, end(b))
	released(t, r)
	b = p.batch(t)
	if len(b.GetEntries()) != len(of) {
		t.Fatalf("%d entries in the batch", len(b.GetEntries()))
	}
	for _, result := range results {
		held(t, result, "before the acknowledgement")
	}
	p.ack(s.opts.Epoch, end(b))
	for i, result := range results {
		o := released(t, result)
		if o.err != nil {
			t.Fatal(o.err)
		}
		receipt := o.placed.Receipt(0)
		if _, err := receipt.Verify(entries[i], s.key); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
		if of[i] == nil {
			if o.placed.NamespaceHead != nil {
				t.Errorf("call %d: a head that it did not ask for", i)
			}
			continue
		}
		key, err := journal.NewKey(of[i].Key.Public())
		if err != nil {
			t.Fatal(err)
		}
		h, err := journal.VerifyNamespaceHead(o.placed.NamespaceHead, key)
		if err != nil || h.Namespace != of[i].Name {
			t.Fatalf("call %d: %+v, %v", i, h, err)
		}
		if err := receipt.VerifyUnder(entries[i], &h.Head); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if devKey.count() != 1 || prodKey.count() != 1 {
		t.Errorf("%d and %d signatures, want one for each namespace", devKey.count(), prodKey.count())
	}
}

// A namespace's key that fails costs its own calls an error, and nobody else anything.
func TestNamespaceKeyFails(t *testing.T) {
	s, p, _ := begun(t)
	bad := &counting{failing: failing{Key: newKey(t), bad: true}}
	_, r := appendFor(t, s, nil, "first")
	b := p.batch(t)
	_, lost := appendFor(t, s, &Namespace{"dev", bad}, "lost")
	entry, kept := appendFor(t, s, &Namespace{"prod", newKey(t)}, "kept")
	p.ack(s.opts.Epoch, end(b))
	released(t, r)
	if o := released(t, lost); !errors.Is(o.err, signer.ErrDevice) {
		t.Errorf("%+v", o)
	}
	b = p.batch(t)
	p.ack(s.opts.Epoch, end(b))
	o := released(t, kept)
	if o.err != nil || o.placed.NamespaceHead == nil {
		t.Fatalf("%+v", o)
	}
	receipt := o.placed.Receipt(0)
	if _, err := receipt.Verify(entry, s.key); err != nil {
		t.Error(err)
	}
	waitSize(t, s, end(b))
	if !s.room.TryAcquire(MaxQueuedBytes) {
		t.Error("room was not given back")
	}
}
