package enclave

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/enclave/mint"
	_ "github.com/raypher/raypher/internal/grpcbuffers"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Bounds of MintStream.
const (
	MaxBundled   = 256     // requests in one message
	MaxMinting   = 1024    // requests of all streams that are being answered; more wait unread
	keptWorkers  = 128     // goroutines that wait for the next request that needs one
	bundledBytes = 1 << 20 // of results in one message, as soon as they exceed it; one result is much smaller
)

// MintStream implements the service. Each request is answered on its own: one that is slow, refused or runs into a bug does not
// touch the others. Results that are ready together, as a group commit makes them, travel together.
func (s *Server) MintStream(stream enclavev1.Enclave_MintStreamServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	results := newOutbox()
	sent := make(chan error, 1)
	go func() {
		defer cancel()
		sent <- results.send(ctx, stream)
	}()
	err := s.receive(ctx, stream, results)
	if errors.Is(err, io.EOF) {
		results.close() // what was asked is answered first
		return <-sent
	}
	cancel()
	<-sent
	return err
}

// receive reads bundles and sees to each request in them.
func (s *Server) receive(ctx context.Context, stream enclavev1.Enclave_MintStreamServer, results *outbox) error {
	for {
		bundle, err := stream.Recv()
		if err != nil {
			return err
		}
		requests := bundle.GetRequests()
		if len(requests) == 0 || len(requests) > MaxBundled {
			return status.Errorf(codes.InvalidArgument, "mint stream: %d requests in one message, use 1 to %d", len(requests), MaxBundled)
		}
		for _, request := range requests {
			if !acquire(ctx, results.room) || !acquire(ctx, s.minting) {
				return ctx.Err()
			}
			taken, err := s.takeRoom(request)
			if err != nil {
				number := request.GetNumber()
				results.put(func() *enclavev1.MintResult { return result(number, nil, err) })
				<-s.minting
				continue
			}
			s.answer(ctx, request, taken, results)
		}
	}
}

func acquire(ctx context.Context, tokens chan struct{}) bool {
	select {
	case tokens <- struct{}{}: // nearly always, and much cheaper than the other select
		return true
	default:
	}
	select {
	case tokens <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// answer puts the result of a request into the outbox, sooner or later. A request like an earlier one goes into the journal
// from here; one that has to be narrowed first gets a goroutine. taken is the room that it has.
func (s *Server) answer(ctx context.Context, request *enclavev1.NumberedMintRequest, taken int64, results *outbox) {
	number := request.GetNumber()
	done := func() {
		s.giveRoom(taken)
		<-s.minting
	}
	begun, err := s.tryMint(request.GetRequest(), func(t *mint.Ticket) {
		results.put(func() *enclavev1.MintResult {
			reply, err := s.visa(t)
			return result(number, reply, err)
		})
		done()
	})
	if begun {
		return
	}
	if err != nil {
		results.put(func() *enclavev1.MintResult { return result(number, nil, err) })
		done()
		return
	}
	s.work(func() {
		ctx, cancel := context.WithTimeout(ctx, CallTimeout)
		defer cancel()
		reply, err := s.mintNow(ctx, request.GetRequest())
		results.put(func() *enclavev1.MintResult { return result(number, reply, err) })
		done()
	})
}

func result(number uint64, reply *enclavev1.MintReply, err error) *enclavev1.MintResult {
	if err != nil {
		told := status.Convert(asStatus(err))
		return &enclavev1.MintResult{Number: number, Code: uint32(told.Code()), Message: told.Message()}
	}
	return &enclavev1.MintResult{Number: number, Reply: reply}
}

// sizeOf is the size of a result in a message, in bytes, but for the few of its numbers; gRPC measures it exactly, once more.
func sizeOf(r *enclavev1.MintResult) int {
	return len(r.GetMessage()) + len(r.GetReply().GetVisa()) + len(r.GetReply().GetPermit())
}

// The next three turn a panic into an error of the one request. The interceptors see only the goroutine of the stream.

func (s *Server) tryMint(r *enclavev1.MintRequest, then func(*mint.Ticket)) (taken bool, err error) {
	defer s.recovered(enclavev1.Enclave_MintStream_FullMethodName, &err)
	return s.mint.TryMint(r, then)
}

func (s *Server) mintNow(ctx context.Context, r *enclavev1.MintRequest) (reply *enclavev1.MintReply, err error) {
	defer s.recovered(enclavev1.Enclave_MintStream_FullMethodName, &err)
	return s.mint.Mint(ctx, r)
}

func (s *Server) visa(t *mint.Ticket) (reply *enclavev1.MintReply, err error) {
	defer s.recovered(enclavev1.Enclave_MintStream_FullMethodName, &err)
	return t.Visa()
}

// work runs a job beside the caller, on a goroutine that has nothing to do where there is one, which has a stack of the right
// size already.
func (s *Server) work(job func()) {
	select {
	case s.jobs <- job:
	default:
		s.workers.Add(1)
		go func() {
			defer s.workers.Done()
			for {
				job()
				if s.idle.Add(1) > keptWorkers {
					s.idle.Add(-1)
					return
				}
				select {
				case job = <-s.jobs:
					s.idle.Add(-1)
				case <-s.closing:
					return
				}
			}
		}()
	}
}

// outbox gathers what makes the results of one stream until the stream can take them.
type outbox struct {
	changed chan struct{} // holds one token when there is something to look at
	// room holds a token for each request whose result was not sent yet: a parent that asks and does not read is not read
	// either.
	room chan struct{}

	mu     sync.Mutex
	ready  []func() *enclavev1.MintResult
	closed bool
}

func newOutbox() *outbox {
	return &outbox{changed: make(chan struct{}, 1), room: make(chan struct{}, MaxMinting)}
}

// put never blocks.
func (o *outbox) put(r func() *enclavev1.MintResult) {
	o.mu.Lock()
	o.ready = append(o.ready, r)
	o.mu.Unlock()
	o.wake()
}

// close says that nothing more is asked.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.wake()
}

func (o *outbox) wake() {
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// take returns what is ready; last: the outbox is closed and nothing else will come.
func (o *outbox) take() (ready []func() *enclavev1.MintResult, last bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ready, o.ready = o.ready, nil
	return ready, o.closed && len(o.room) == len(ready)
}

// send sends what is ready until the outbox is closed and everything was answered, or the stream ends.
func (o *outbox) send(ctx context.Context, stream enclavev1.Enclave_MintStreamServer) error {
	for {
		ready, last := o.take()
		for len(ready) > 0 {
			bundle := new(enclavev1.MintResults)
			for size := 0; len(bundle.Results) < min(len(ready), MaxBundled) && size <= bundledBytes; {
				r := ready[len(bundle.Results)]()
				size += sizeOf(r)
				bundle.Results = append(bundle.Results, r)
			}
			if err := stream.Send(bundle); err != nil {
				return err
			}
			ready = ready[len(bundle.Results):]
			for range bundle.Results {
				<-o.room
			}
		}
		if last {
			return nil
		}
		select {
		case <-o.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
