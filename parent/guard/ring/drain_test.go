package ring_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/raypher/raypher/parent/guard/ring"
)

// TestWaitMeansReported: with several that put into a real ring buffer and wait, each finds what it put reported when Wait returns.
func TestWaitMeansReported(t *testing.T) {
	events, put := buffer(t)
	reader, err := ringbuf.NewReader(events)
	if err != nil {
		t.Fatal(err)
	}
	var drains ring.Drains
	if err := drains.Wait(t.Context()); err != nil {
		t.Errorf("where nobody reads: %v", err)
	}
	drains.Open(reader)
	var reported atomic.Uint64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer drains.Close()
		for {
			switch _, err := reader.Read(); {
			case err == nil:
				reported.Add(1)
			case errors.Is(err, ringbuf.ErrFlushed):
				drains.Flushed()
			default:
				return
			}
		}
	}()
	var submitted atomic.Uint64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				put()
				mine := submitted.Add(1)
				if err := drains.Wait(t.Context()); err != nil {
					t.Error(err)
				}
				if got := reported.Load(); got < mine {
					t.Errorf("%d reported of at least %d", got, mine)
					return
				}
			}
		})
	}
	all.Wait()
	reader.Close()
	<-ended
	if err := drains.Wait(t.Context()); err != nil {
		t.Errorf("after the reader has gone: %v", err)
	}
}

// asked is a reader that tells how often it was flushed.
type asked chan struct{}

func (a asked) Flush() error { a <- struct{}{}; return nil }

// TestSecondFlush: a flush that may have been under way when somebody came does not count for them, the next one does.
func TestSecondFlush(t *testing.T) {
	var drains ring.Drains
	flushes := make(asked, 8)
	drains.Open(flushes)
	ended := make(chan error, 1)
	go func() { ended <- drains.Wait(t.Context()) }()
	<-flushes
	drains.Flushed()
	select {
	case <-flushes:
	case err := <-ended:
		t.Fatalf("let go after the first flush: %v", err)
	}
	drains.Flushed()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestWaitEnds: who waits goes with its context, and when the reader goes.
func TestWaitEnds(t *testing.T) {
	var drains ring.Drains
	drains.Open(make(asked, 8))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := drains.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- drains.Wait(t.Context()) }()
	drains.Flushed()
	drains.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// buffer is a ring buffer, and a function that has the kernel put one record into it.
func buffer(t *testing.T) (*ebpf.Map, func()) {
	t.Helper()
	events, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: 1 << 20})
	if err != nil {
		t.Skipf("no ring buffer here (root?): %v", err)
	}
	t.Cleanup(func() { events.Close() })
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R1, 1), asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
		asm.LoadMapPtr(asm.R1, events.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -8),
		asm.Mov.Imm(asm.R3, 8),
		asm.Mov.Imm(asm.R4, 1), // BPF_RB_NO_WAKEUP: nobody but the flush wakes the reader
		asm.FnRingbufOutput.Call(),
		asm.Mov.Imm(asm.R0, 0), asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return events, func() {
		if _, _, err := program.Test(make([]byte, 14)); err != nil {
			t.Error(err)
		}
	}
}
