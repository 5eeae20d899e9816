// Package server carries the controller's services: gRPC, and HTTP with JSON beside it, both over TLS 1.3 with client certificates, both through
// the same authentication, bounds and error codes. What a caller may do, each service asks for itself (package caller).
//
// Whoever connects is hostile until a service knows its key: sizes, counts and times are bounded, and a panic in a call fails that call only.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/internal/grpcfields"
)

// Bounds of the transport.
const (
	MaxReceive       = 2 << 20 // bytes of a request; a signed list of golden measurements is the largest
	MaxSend          = 8 << 20 // bytes of a reply
	MaxFields        = 4096    // of a request, elements of a repeated field each for itself
	MaxStreams       = 64      // calls at once on one connection; more wait at the caller
	MaxConnections   = 4096    // on each address
	HandshakeTimeout = 10 * time.Second
	CallTimeout      = 30 * time.Second
	maxMessage       = 8 << 10  // bytes of an error message
	maxHeaders       = 16 << 10 // bytes of the metadata of a call
	idleTimeout      = 5 * time.Minute
	graceTimeout     = 10 * time.Second // for the calls that are being answered when Serve is to end
)

// Options of a server.
type Options struct {
	Certificate tls.Certificate
	// Register registers the services. They are given to gRPC and to HTTP.
	Register func(grpc.ServiceRegistrar)
	// JWKS is the text of /.well-known/jwks.json.
	JWKS []byte
	// Healthy says for /healthz why the controller cannot work; nil: it can.
	Healthy func(context.Context) error
	Log     *slog.Logger

	callTimeout time.Duration // 0: CallTimeout; tests are more impatient
}

// Server is a controller's front. Serve may be called once.
type Server struct {
	opts  Options
	grpc  *grpc.Server
	http  *http.Server
	local *local

	arriving arriving
	room     *semaphore.Weighted // of MaxLarge
}

// New prepares everything up to the listeners.
func New(opts Options) (*Server, error) {
	if opts.callTimeout == 0 {
		opts.callTimeout = CallTimeout
	}
	s := &Server{opts: opts, local: &local{}, room: semaphore.NewWeighted(MaxLarge)}
	s.grpc = grpc.NewServer(
		grpc.Creds(credentials.NewTLS(s.tls(tls.RequireAnyClientCert, "h2"))),
		grpc.MaxRecvMsgSize(MaxReceive), grpc.MaxSendMsgSize(MaxSend),
		grpc.MaxConcurrentStreams(MaxStreams), grpc.MaxHeaderListSize(maxHeaders),
		grpc.ConnectionTimeout(HandshakeTimeout), grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout, Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.InTapHandle(s.begin), grpc.ForceServerCodecV2(grpcfields.Codec(MaxFields)),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(refuseStream), // the services have none
	)
	opts.Register(s.grpc)
	s.local.intercept = s.answer
	opts.Register(s.local)
	handler, err := s.handler()
	if err != nil {
		return nil, err
	}
	s.http = &http.Server{
		Handler: handler, TLSConfig: s.tls(tls.RequestClientCert, "h2", "http/1.1"), MaxHeaderBytes: maxHeaders,
		ReadHeaderTimeout: HandshakeTimeout, ReadTimeout: CallTimeout, WriteTimeout: 2 * CallTimeout, IdleTimeout: idleTimeout,
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: MaxStreams},
		ErrorLog: slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

func (s *Server) tls(auth tls.ClientAuthType, protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{s.opts.Certificate}, ClientAuth: auth,
		SessionTicketsDisabled: true, // each connection proves the caller's key again
		NextProtos:             protocols,
		VerifyConnection: func(state tls.ConnectionState) error {
			if auth == tls.RequestClientCert && len(state.PeerCertificates) == 0 {
				return nil
			}
			_, err := peer.FromTLS(state)
			return err
		},
	}
}

// Serve answers on two listeners until ctx ends: calls that are being answered then have some seconds. It closes both. web may be nil.
func (s *Server) Serve(ctx context.Context, rpc, web net.Listener) error {
	failed := make(chan error, 2)
	running := 1
	go func() { failed <- s.grpc.Serve(netutil.LimitListener(rpc, MaxConnections)) }()
	if web != nil {
		running++
		go func() { failed <- s.http.ServeTLS(netutil.LimitListener(web, MaxConnections), "", "") }()
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		running--
	}
	s.stop()
	for range running {
		<-failed
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// stop lets the calls that are being answered end, for a while.
func (s *Server) stop() {
	grace, cancel := context.WithTimeout(context.Background(), graceTimeout)
	defer cancel()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.grpc.GracefulStop()
	}()
	s.http.Shutdown(grace)
	select {
	case <-drained:
	case <-grace.Done():
		s.grpc.Stop()
		<-drained
	}
	s.http.Close()
}

func refuseStream(any, grpc.ServerStream, *grpc.StreamServerInfo, grpc.StreamHandler) error {
	return status.Error(codes.Unimplemented, "there are no streams")
}

// begin bounds a call in time from its headers on, and counts it as arriving: gRPC reads the request, as slowly as the caller sends it, before
// any interceptor runs.
func (s *Server) begin(ctx context.Context, _ *tap.Info) (context.Context, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.callTimeout)
	in := s.arriving.begin(cancel)
	context.AfterFunc(ctx, func() { in(); cancel() }) // gRPC ends the context above with the call
	return context.WithValue(ctx, inKey{}, in), nil
}

// unary authenticates a call over gRPC.
func (s *Server) unary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	arrived(ctx)
	from, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "no connection")
	}
	transport, ok := from.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return nil, status.Error(codes.Unauthenticated, "no TLS")
	}
	p, err := peer.FromTLS(transport.State)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return s.answer(peer.With(ctx, p), request, info, handler)
}

// answer bounds a call in time, turns a panic into an error of that call, and gives errors their codes.
func (s *Server) answer(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	defer func() {
		if r := recover(); r != nil {
			s.opts.Log.Error("a call panicked: this is a bug", "method", info.FullMethod, "panic", r, "stack", string(debug.Stack()))
			reply, err = nil, status.Error(codes.Internal, "internal error: see the controller's log")
		}
	}()
	give, err := takeRoom(s.room, request)
	if err != nil {
		return nil, err
	}
	defer give()
	ctx, cancel := context.WithTimeout(ctx, s.opts.callTimeout)
	defer cancel()
	reply, err = handler(ctx, request)
	if err != nil {
		return nil, s.asStatus(info.FullMethod, err)
	}
	return reply, nil
}

func (s *Server) asStatus(method string, err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	message := err.Error()
	code := codes.Internal
	switch {
	case errors.Is(err, store.ErrFull), errors.Is(err, store.ErrBudget):
		code = codes.ResourceExhausted
	case errors.Is(err, store.ErrUnavailable):
		code = codes.Unavailable
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	default: // for the operator's eyes: it may quote the database
		s.opts.Log.Error("a call failed", "method", method, "error", message)
		message = "internal error: see the controller's log"
	}
	if code == codes.ResourceExhausted || code == codes.Unavailable {
		s.opts.Log.Warn("a call was refused", "method", method, "error", message)
	}
	return status.Error(code, message[:min(len(message), maxMessage)])
}
