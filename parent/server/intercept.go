package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/parent/agents"
	"github.com/raypher/raypher/parent/agents/task"
	"github.com/raypher/raypher/parent/approvals"
	"github.com/raypher/raypher/parent/link"
	"github.com/raypher/raypher/parent/namespaces"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// allow decides by service who may call. Which agent is calling is looked up again by the Agent service itself.
func (s *Server) allow(ctx context.Context, method string) error {
	c, err := callerOf(ctx)
	if err != nil {
		return err
	}
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch service {
	case parentv1.Operator_ServiceDesc.ServiceName:
		return s.asOperator(c)
	case parentv1.Agent_ServiceDesc.ServiceName:
		_, err := s.asAgent(c)
		return err
	}
	return c.refused // health
}

func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	defer func() { err = s.finish(info.FullMethod, recover(), err) }()
	if err := s.allow(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, request)
}

func (s *Server) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() { err = s.finish(info.FullMethod, recover(), err) }()
	if err := s.allow(stream.Context(), info.FullMethod); err != nil {
		return err
	}
	return handler(service, stream)
}

// finish turns panics and errors into a status. A panic ends one call, not the guard of all agents.
func (s *Server) finish(method string, panicked any, err error) error {
	if panicked != nil {
		s.options.Log.Error("a call panicked", "method", method, "panic", panicked, "stack", string(debug.Stack()))
		s.options.Events.Count("panics", 1)
		return status.Error(codes.Internal, "raypherd failed at this call: its log says where")
	}
	if err == nil {
		return nil
	}
	return status.Error(code(err), words(err))
}

// code finds the status code for an error of this program or of the enclave.
func code(err error) codes.Code {
	for _, c := range []struct {
		is   error
		code codes.Code
	}{
		{errNotGoverned, codes.Unauthenticated},
		{agents.ErrNotAllowed, codes.PermissionDenied},
		{agents.ErrInvalid, codes.InvalidArgument},
		{agents.ErrNoAgent, codes.NotFound},
		{agents.ErrFull, codes.ResourceExhausted},
		{namespaces.ErrNoRoom, codes.ResourceExhausted},
		{fs.ErrNotExist, codes.NotFound},
		{approvals.ErrNone, codes.NotFound},
		{approvals.ErrInvalid, codes.InvalidArgument},
		{approvals.ErrRecorded, codes.Unavailable},
		{approvals.ErrWatchers, codes.ResourceExhausted},
		{approvals.ErrSlow, codes.Aborted},
		{task.ErrGone, codes.FailedPrecondition},
		{errEnding, codes.Unavailable},
		{link.ErrDenied, codes.PermissionDenied},
		{link.ErrInvalid, codes.InvalidArgument},
		{link.ErrBusy, codes.ResourceExhausted},
		{link.ErrUnreachable, codes.Unavailable},
		{context.Canceled, codes.Canceled},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
	} {
		if errors.Is(err, c.is) {
			return c.code
		}
	}
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	if errors.Is(err, agents.ErrEnclave) {
		return codes.Unavailable
	}
	return codes.Internal
}

// words is the error's text without the wrapping that gRPC puts around a status, and without the word that the status code says
// already: a mistake in a file begins with its place.
func words(err error) string {
	text := strings.TrimPrefix(err.Error(), agents.ErrInvalid.Error()+": ")
	var inner interface{ GRPCStatus() *status.Status }
	if errors.As(err, &inner) {
		if wrapped, ok := inner.(error); ok {
			text = strings.Replace(text, wrapped.Error(), inner.GRPCStatus().Message(), 1)
		}
	}
	const longest = 8 << 10
	if len(text) > longest {
		text = fmt.Sprintf("%s … (%d bytes more)", strings.ToValidUTF8(text[:longest], ""), len(text)-longest)
	}
	return strings.ToValidUTF8(text, "�")
}
