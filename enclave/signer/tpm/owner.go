package tpm

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/raypher/raypher/enclave/signer"
)

// owner is the one goroutine that talks to the TPM: commands are serial, handles belong to it, and a caller who gives up
// does not cut a command in two.
type owner struct {
	tpm   transport.TPMCloser
	jobs  chan *job
	stop  chan struct{}
	once  sync.Once
	ended chan struct{}
}

type job struct {
	ctx  context.Context
	run  func(transport.TPM) error
	done chan error // room for one
}

// own starts the goroutine. finish runs last in it, before the TPM is closed.
func own(tpm transport.TPMCloser, finish func(transport.TPM)) *owner {
	o := &owner{tpm: tpm, jobs: make(chan *job), stop: make(chan struct{}), ended: make(chan struct{})}
	go o.loop(finish)
	return o
}

func (o *owner) loop(finish func(transport.TPM)) {
	defer close(o.ended)
	for {
		select {
		case j := <-o.jobs:
			if err := j.ctx.Err(); err != nil {
				j.done <- err
				continue
			}
			j.done <- j.safely(o.tpm)
		case <-o.stop:
			finish(o.tpm)
			o.tpm.Close()
			return
		}
	}
}

// safely turns a panic, which garbage from the TPM may provoke in the library, into an error.
func (j *job) safely(tpm transport.TPM) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the TPM's answer cannot be read: %v", r)
		}
	}()
	return j.run(tpm)
}

// do runs one piece of work in the goroutine and waits for it, or for ctx; then the work may still be done.
func (o *owner) do(ctx context.Context, run func(transport.TPM) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	j := &job{ctx, run, make(chan error, 1)}
	select {
	case o.jobs <- j:
	case <-ctx.Done():
		return ctx.Err()
	case <-o.stop:
		return signer.ErrClosed
	}
	select {
	case err := <-j.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close waits for the running work and ends the goroutine.
func (o *owner) close() {
	o.once.Do(func() { close(o.stop) })
	<-o.ended
}

// deviceError wraps what failed with signer.ErrDevice, in words.
func deviceError(err error) error {
	if err == nil || errors.Is(err, signer.ErrClosed) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", signer.ErrDevice, inWords(err))
}
