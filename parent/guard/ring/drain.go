// Package ring lets somebody wait until the reader of a kernel's ring buffer has reported what is in it: an agent that has ended is
// forgotten only when what it did last was told under its name. The guards' Run is who reads.
package ring

import (
	"context"
	"fmt"
	"sync"
)

// Flusher is a reader of which one read returns an error after everything that was there; ringbuf.Reader is one.
type Flusher interface{ Flush() error }

// Drains are who waits until a ring buffer is empty. The zero value is ready. Safe for concurrent use.
type Drains struct {
	mu     sync.Mutex
	reader Flusher         // nil: nobody reads
	fresh  []chan struct{} // came when a flush may have been under way
	ripe   []chan struct{} // the next flush began after them
}

// Open is called by who begins to read.
func (d *Drains) Open(r Flusher) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reader = r
}

// Close is called when nothing will be read any more, and lets everybody go.
func (d *Drains) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, done := range append(d.fresh, d.ripe...) {
		close(done)
	}
	d.reader, d.fresh, d.ripe = nil, nil, nil
}

// Flushed is called when a read says that a flush is done, and what came before it is reported. Who came while it was under way may
// have something behind its end: another one is for them.
func (d *Drains) Flushed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, done := range d.ripe {
		close(done)
	}
	d.ripe, d.fresh = d.fresh, nil
	if len(d.ripe) > 0 && d.reader != nil {
		_ = d.reader.Flush() // it fails when the reader is closed, and then Close lets them go
	}
}

// Wait returns when everything that was in the ring buffer at the call is reported, or ctx has ended. Where nobody reads it returns at
// once.
func (d *Drains) Wait(ctx context.Context) error {
	done := make(chan struct{})
	d.mu.Lock()
	if d.reader == nil {
		d.mu.Unlock()
		return nil
	}
	d.fresh = append(d.fresh, done)
	err := d.reader.Flush()
	d.mu.Unlock()
	if err != nil {
		return fmt.Errorf("reading what waits in the ring buffer: %w", err)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("reading what waits in the ring buffer: %w", ctx.Err())
	}
}
