package enclave

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Bounds of MintStream.
const (
	MaxBundled   = 256     // requests in one message
	MaxMinting   = 1024    // requests of all streams that are being answered; more wait unread
	keptWorkers  = 128     // goroutines that wait for the next request
	bundledBytes = 1 << 20 // of results in one message, as soon as they exceed it; one result is much smaller
)

// MintStream implements the service. Each request is answered on its own: one that is slow, refused or runs into a bug does not
// touch the others. Results that are ready together, as a group commit makes them, travel together.
func (s *Server) MintStream(stream enclavev1.Enclave_MintStreamServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	results := &outbox{changed: make(chan struct{}, 1), room: make(chan struct{}, MaxMinting)}
	sent := make(chan error, 1)
	go func() {
		err := results.send(ctx, stream)
		cancel()
		sent <- err
	}()
	var workers sync.WaitGroup
	err := s.receive(ctx, stream, results, &workers)
	workers.Wait() // each ends with its own deadline, or earlier with the stream
	results.close()
	sendErr := <-sent
	cancel()
	if errors.Is(err, io.EOF) {
		return sendErr
	}
	return err
}

// receive reads bundles and starts a worker for each request.
func (s *Server) receive(ctx context.Context, stream enclavev1.Enclave_MintStreamServer, results *outbox, workers *sync.WaitGroup) error {
	for {
		bundle, err := stream.Recv()
		if err != nil {
			return err
		}
		requests := bundle.GetRequests()
		if len(requests) == 0 || len(requests) > MaxBundled {
			return status.Errorf(codes.InvalidArgument, "mint stream: %d requests in one message, use 1 to %d", len(requests), MaxBundled)
		}
		if err := s.answer(ctx, requests, results, workers); err != nil {
			return err
		}
	}
}

// answer starts a worker for each request of a bundle. They came together and share one deadline.
func (s *Server) answer(ctx context.Context, requests []*enclavev1.NumberedMintRequest, results *outbox, workers *sync.WaitGroup) error {
	deadline, cancel := context.WithTimeout(ctx, CallTimeout)
	left := new(atomic.Int64)
	left.Store(int64(len(requests)))
	done := func(n int) {
		if left.Add(int64(-n)) == 0 {
			cancel()
		}
	}
	for i, request := range requests {
		if !acquire(ctx, results.room) || !acquire(ctx, s.minting) {
			done(len(requests) - i)
			return ctx.Err()
		}
		workers.Add(1)
		s.work(func() {
			defer workers.Done()
			results.put(s.mintOne(deadline, request))
			<-s.minting
			done(1)
		})
	}
	return nil
}

func acquire(ctx context.Context, tokens chan struct{}) bool {
	select {
	case tokens <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// work runs a job beside the caller, on a goroutine that has nothing to do where there is one: growing the stack of a new one
// costs a twentieth of a visa.
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

// mintOne answers one request of a bundle as Mint would have.
func (s *Server) mintOne(ctx context.Context, request *enclavev1.NumberedMintRequest) *enclavev1.MintResult {
	reply, err := s.mintGuarded(ctx, request.GetRequest())
	result := &enclavev1.MintResult{Number: request.GetNumber(), Reply: reply}
	if err != nil {
		told := status.Convert(asStatus(err))
		result.Reply, result.Code, result.Message = nil, uint32(told.Code()), told.Message()
	}
	return result
}

func (s *Server) mintGuarded(ctx context.Context, request *enclavev1.MintRequest) (reply *enclavev1.MintReply, err error) {
	defer s.recovered(enclavev1.Enclave_MintStream_FullMethodName, &err)
	return s.mint.Mint(ctx, request)
}

// outbox gathers results until the stream can take them.
type outbox struct {
	changed chan struct{} // holds one token when there is something to look at
	// room holds a token for each request whose result was not sent yet: a parent that asks and does not read is not read
	// either.
	room chan struct{}

	mu     sync.Mutex
	ready  []*enclavev1.MintResult
	closed bool
}

func (o *outbox) put(r *enclavev1.MintResult) {
	o.mu.Lock()
	o.ready = append(o.ready, r)
	o.mu.Unlock()
	o.wake()
}

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

func (o *outbox) take() (ready []*enclavev1.MintResult, closed bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	ready, o.ready = o.ready, nil
	return ready, o.closed
}

// send sends what is ready until the outbox is closed and empty, or the stream ends.
func (o *outbox) send(ctx context.Context, stream enclavev1.Enclave_MintStreamServer) error {
	for {
		ready, closed := o.take()
		for len(ready) > 0 {
			n := bundle(ready)
			if err := stream.Send(&enclavev1.MintResults{Results: ready[:n]}); err != nil {
				return err
			}
			for range n {
				<-o.room
			}
			ready = ready[n:]
		}
		if closed {
			return nil
		}
		select {
		case <-o.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// bundle is how many results fit into one message.
func bundle(ready []*enclavev1.MintResult) int {
	bytes := 0
	for i, r := range ready {
		if bytes += proto.Size(r); i == MaxBundled || i > 0 && bytes > bundledBytes {
			return i
		}
	}
	return len(ready)
}
