package server

import (
	"container/list"
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// What all callers together may take of this process's memory: gRPC and HTTP have room for a request of MaxReceive on each stream of each
// connection.
const (
	// MaxArriving is how many requests may be on their way in at once. Another one makes the oldest end: an honest one is in within
	// moments, so the oldest is that of somebody who sends slowly, or not at all.
	MaxArriving = 256
	// largeRequest is the size from which on a request needs room while it is answered, and MaxLarge the room for all of them, in bytes.
	largeRequest = 64 << 10
	MaxLarge     = 64 << 20
)

// arriving are the requests that are on their way in, oldest first.
type arriving struct {
	mu    sync.Mutex
	order list.List // of func(): what ends it
}

// begin counts a request until in is called, which may happen more than once. end is called if it has to make room before.
func (a *arriving) begin(end func()) (in func()) {
	a.mu.Lock()
	mine := a.order.PushBack(end)
	var oldest func()
	if a.order.Len() > MaxArriving {
		oldest = a.order.Remove(a.order.Front()).(func())
	}
	a.mu.Unlock()
	if oldest != nil {
		oldest()
	}
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.order.Remove(mine) // nothing, if it is out already
	}
}

// inKey is where the context of a call has what says that its request is in.
type inKey struct{}

// arrived says that the request of a call is in.
func arrived(ctx context.Context) {
	if in, ok := ctx.Value(inKey{}).(func()); ok {
		in()
	}
}

// takeRoom takes the room that a request needs while it is answered, and returns what gives it back.
func takeRoom(room *semaphore.Weighted, request any) (give func(), err error) {
	m, ok := request.(proto.Message)
	if !ok {
		return func() {}, nil
	}
	size := int64(proto.Size(m))
	if size < largeRequest {
		return func() {}, nil
	}
	if !room.TryAcquire(size) {
		return nil, status.Error(codes.ResourceExhausted, "too many large requests are being answered: try again")
	}
	return func() { room.Release(size) }, nil
}
