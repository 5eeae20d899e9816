package server

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// local is a connection to the services in this process: what HTTP asks goes through the interceptor of gRPC, and the caller's identity
// stays in the context, where no message from outside can put it.
type local struct {
	methods   map[string]func(ctx context.Context, decode func(any) error) (any, error)
	intercept grpc.UnaryServerInterceptor
}

var _ grpc.ClientConnInterface = (*local)(nil)

// RegisterService implements grpc.ServiceRegistrar.
func (l *local) RegisterService(desc *grpc.ServiceDesc, service any) {
	if l.methods == nil {
		l.methods = map[string]func(context.Context, func(any) error) (any, error){}
	}
	for _, m := range desc.Methods {
		l.methods["/"+desc.ServiceName+"/"+m.MethodName] = func(ctx context.Context, decode func(any) error) (any, error) {
			return m.Handler(service, ctx, decode, l.intercept)
		}
	}
}

// Invoke implements grpc.ClientConnInterface.
func (l *local) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	handler, ok := l.methods[method]
	if !ok {
		return status.Errorf(codes.Unimplemented, "no method %s", method)
	}
	if m, ok := args.(proto.Message); ok && proto.Size(m) > MaxReceive {
		return status.Errorf(codes.ResourceExhausted, "a request of %d bytes, at most %d", proto.Size(m), MaxReceive)
	}
	answer, err := handler(ctx, func(into any) error {
		return copied(into, args)
	})
	if err != nil {
		return err
	}
	return copied(reply, answer)
}

// copied makes into what from is. Messages are not shared between the two sides.
func copied(into, from any) error {
	a, ok := into.(proto.Message)
	b, ok2 := from.(proto.Message)
	if !ok || !ok2 {
		return fmt.Errorf("%T and %T are not messages", into, from)
	}
	proto.Reset(a)
	proto.Merge(a, b)
	return nil
}

// NewStream implements grpc.ClientConnInterface.
func (l *local) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "there are no streams")
}
