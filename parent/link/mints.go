package link

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// Bounds of one message of the MintStream; they lie within those of package enclave.
const (
	maxBundled   = 256
	bundledBytes = 256 << 10       // a message is closed when it exceeds this
	maxRequest   = maxSend - 1<<10 // bytes of one request
)

// mints carries the calls of Mint over one MintStream: what is asked while a message is on its way goes into the next one
// together. The stream is opened when there is something to ask and opened again after it broke.
type mints struct {
	client enclavev1.EnclaveClient
	wanted chan struct{} // holds one token when there is something to ask

	mu      sync.Mutex
	asked   []*mintCall // not sent yet
	waiting map[uint64]*mintCall
	next    uint64
}

// mintCall is one caller of Mint. It gets one result, unless it has given up.
type mintCall struct {
	number  uint64
	request *enclavev1.MintRequest
	size    int                        // of the request, in bytes
	result  chan *enclavev1.MintResult // room for one
}

func newMints(client enclavev1.EnclaveClient) *mints {
	return &mints{client: client, wanted: make(chan struct{}, 1), waiting: make(map[uint64]*mintCall)}
}

// mint asks and waits. Its error is one of gRPC's.
func (m *mints) mint(ctx context.Context, r *enclavev1.MintRequest) (*enclavev1.MintReply, error) {
	size := proto.Size(r)
	if size > maxRequest {
		return nil, status.Errorf(codes.InvalidArgument, "mint: a request of %d bytes, at most %d", size, maxRequest)
	}
	call := &mintCall{request: r, size: size, result: make(chan *enclavev1.MintResult, 1)}
	m.mu.Lock()
	m.next++
	call.number = m.next
	m.waiting[call.number] = call
	m.asked = append(m.asked, call)
	m.mu.Unlock()
	m.wake()
	select {
	case result := <-call.result:
		if result.GetCode() != 0 {
			return nil, status.Error(codes.Code(result.GetCode()), result.GetMessage())
		}
		return result.GetReply(), nil
	case <-ctx.Done():
		m.mu.Lock()
		delete(m.waiting, call.number) // the enclave's answer, if there is one, is dropped
		m.mu.Unlock()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (m *mints) wake() {
	select {
	case m.wanted <- struct{}{}:
	default:
	}
}

// run keeps a stream for as long as there is something to ask, until ctx ends.
func (m *mints) run(ctx context.Context) {
	for {
		select {
		case <-m.wanted:
			err := m.stream(ctx)
			if ctx.Err() != nil {
				err = status.Error(codes.Unavailable, "the link is closed")
			}
			m.fail(err)
		case <-ctx.Done():
			m.fail(status.Error(codes.Unavailable, "the link is closed"))
			return
		}
	}
}

// stream opens a stream, sends what is asked and hands out results until it breaks.
func (m *mints) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := m.client.MintStream(ctx)
	if err != nil {
		return err
	}
	received := make(chan error, 1)
	go func() {
		err := m.receive(s)
		received <- err
	}()
	for {
		// Whoever asks wakes this goroutine, which would run before the next one asks, and send each request by itself. Those who
		// can run, as all that one group commit has served, ask first.
		runtime.Gosched()
		for bundle := m.take(); bundle != nil; bundle = m.take() {
			if err := s.Send(bundle); err != nil {
				return <-received // Send says only that the stream ended; Recv says why
			}
		}
		select {
		case <-m.wanted:
		case err := <-received:
			return err
		}
	}
}

// take returns the next message, nil when nobody asks.
func (m *mints) take() *enclavev1.MintRequests {
	m.mu.Lock()
	defer m.mu.Unlock()
	var bundle *enclavev1.MintRequests
	bytes, taken := 0, 0
	for _, call := range m.asked {
		if taken == maxBundled || bytes > bundledBytes {
			break
		}
		taken++
		if m.waiting[call.number] == nil {
			continue // has given up
		}
		if bundle == nil {
			bundle = new(enclavev1.MintRequests)
		} else if bytes+call.size > maxRequest {
			taken--
			break
		}
		bytes += call.size
		bundle.Requests = append(bundle.Requests, &enclavev1.NumberedMintRequest{Number: call.number, Request: call.request})
	}
	m.asked = append(m.asked[:0:0], m.asked[taken:]...)
	return bundle
}

// receive hands out results until the stream breaks.
func (m *mints) receive(s enclavev1.Enclave_MintStreamClient) error {
	for {
		bundle, err := s.Recv()
		if err != nil {
			return err
		}
		for _, result := range bundle.GetResults() {
			if result.GetCode() == 0 && result.GetReply() == nil {
				return fmt.Errorf("%w: a result without reply and status", ErrPeer)
			}
			m.mu.Lock()
			call := m.waiting[result.GetNumber()]
			delete(m.waiting, result.GetNumber())
			m.mu.Unlock()
			if call != nil {
				call.result <- result
			}
		}
	}
}

// fail ends every call that waits, with the reason why the stream broke. Whether the enclave has granted anything meanwhile is
// not known; what it has granted and nobody got simply expires.
func (m *mints) fail(err error) {
	told := status.Convert(err)
	if told.Code() == codes.OK || errors.Is(err, ErrPeer) {
		told = status.New(codes.Unavailable, "the stream of visas ended: "+told.Message())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for number, call := range m.waiting {
		call.result <- &enclavev1.MintResult{Code: uint32(told.Code()), Message: told.Message()}
		delete(m.waiting, number)
	}
	m.asked = nil
}
