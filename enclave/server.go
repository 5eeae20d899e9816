// Package enclave is the trusted side: it serves the gRPC service Enclave to one authenticated parent, with the signing key,
// the journal's writer, the ceiling and the mint behind it. cmd/raypher-enclave gives it a listener and a sandbox. It
// connects to nobody but its controller, through the parent, and reads nothing but its state folder.
//
// Whoever connects is hostile until its TLS key was found in the start configuration, and what it sends is hostile after
// that: every size, count and wait is bounded, and a panic in a call fails that call only.
package enclave

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/cost"
	"github.com/raypher/raypher/enclave/agenttls"
	"github.com/raypher/raypher/enclave/alerts"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/enclave/conduit"
	"github.com/raypher/raypher/enclave/fleet"
	sequencer "github.com/raypher/raypher/enclave/journal"
	"github.com/raypher/raypher/enclave/keys"
	"github.com/raypher/raypher/enclave/kms"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/ledger"
	"github.com/raypher/raypher/enclave/mint"
	"github.com/raypher/raypher/enclave/providerkeys"
	"github.com/raypher/raypher/enclave/runs"
	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/enclave/spending"
	"github.com/raypher/raypher/internal/grpcfields"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	"github.com/raypher/raypher/startconf"
)

// Bounds of the transport.
const (
	MaxReceive     = 1 << 20             // bytes of one message from the parent
	MaxSend        = 4 << 20             // bytes of one message to the parent; a batch of the journal is the largest
	MaxFields      = 1024                // of a message from the parent, elements of a repeated field each for itself
	MaxStreams     = 32                  // calls at once on one connection; more wait at the caller
	MaxConnections = 16                  // whose handshake goes on; more wait
	MaxVerdicts    = sequencer.MaxAppend // of one Record
	MinNonce       = 8                   // bytes, of Attest
	maxMessage     = 16 << 10            // bytes of an error message
	maxHeaders     = 16 << 10            // bytes of the metadata of a call
	// streamWorkers are goroutines that are kept for calls, with the stacks that they have grown; a tenth of the time of a
	// call went into growing new ones.
	streamWorkers = 128
	// window and connWindow are what a parent may send before it is read, in bytes. Fixed: gRPC otherwise measures the line
	// with a ping for every burst and announces each change, which were a third of all system calls.
	window     = 1 << 20 // of one call
	connWindow = 4 << 20 // of one connection

	HandshakeTimeout = 10 * time.Second
	CallTimeout      = 30 * time.Second
)

// Options of a server.
type Options struct {
	Signer        signer.Signer
	Leases        lease.Anchor // where leases of credit are counted; nil: nowhere, so there is none
	Configuration *startconf.Configuration
	State         string // folder for the ceiling and the grant; exists, private
	Host          string // name of this machine, under which an operator may have named it to the controller
	Development   bool   // make what is missing: an operator key, and a ceiling that permits everything
	Version       string
	Log           *slog.Logger

	kmsRoots  *x509.CertPool // of KMS; nil: Amazon's
	handshake time.Duration  // 0: HandshakeTimeout; tests are more impatient
}

// Server is one enclave.
type Server struct {
	enclavev1.UnimplementedEnclaveServer

	opts    Options
	key     *journal.Key
	epoch   journal.EpochID
	conf    journal.Hash
	ceiling *ceiling.Store
	journal *sequencer.Sequencer
	mint    *mint.Mint
	spends  *spending.Spending
	follows atomic.Pointer[journal.Predecessor] // what this epoch follows; nil: nothing, or it has not begun
	priced  atomic.Pointer[priced]              // providers of the newest cost control that was asked for
	keys    *keys.Keys
	tls     *agenttls.Authority
	dial    *conduit.Dialer
	fleet   *fleet.Client      // nil: no controller is configured
	secrets *providerkeys.Keys // of providers
	alerts  *alerts.Alerts
	watch   observers
	runs    *runs.Runs          // that may call models
	calls   *calls              // of models, by agents
	kms     *kms.Secrets        // nil: none is configured
	room    *semaphore.Weighted // for large requests
	stores  chan struct{}       // a token for each Persist stream
	streams chan struct{}       // a token for each MintStream
	carried chan struct{}       // a token for each Connect stream
	others  chan struct{}       // a token for each stream of another kind
	minting chan struct{}       // a token for each request of a MintStream that is being answered
	jobs    chan func()         // to a worker that waits for one
	idle    atomic.Int64        // workers that wait
	workers sync.WaitGroup
	closing chan struct{} // closed when Serve ends
	grpc    *grpc.Server
}

// New prepares everything up to the listener. In development it says what it made in the log.
func New(opts Options) (*Server, error) {
	if len(opts.Configuration.CallerKeys) == 0 {
		return nil, errors.New("start configuration: no caller_key: nobody could call: add the line that `raypherd --caller-key` prints")
	}
	s := &Server{
		room: semaphore.NewWeighted(MaxLarge), stores: make(chan struct{}, MaxStores), streams: make(chan struct{}, MaxMintStreams),
		carried: make(chan struct{}, MaxCarried), others: make(chan struct{}, MaxStores), opts: opts, minting: make(chan struct{}, MaxMinting), jobs: make(chan func()), dial: conduit.New(), closing: make(chan struct{}),
	}
	var err error
	if s.key, err = journal.NewKey(opts.Signer.Public()); err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	if err := s.openCeiling(); err != nil {
		return nil, err
	}
	s.conf = s.opts.Configuration.Hash()
	rand.Read(s.epoch[:]) // never fails (crypto/rand)

	s.journal, err = sequencer.New(sequencer.Options{
		Signer: opts.Signer, Epoch: s.epoch, Configuration: s.conf, Predecessors: hashes(opts.Configuration.Predecessors), NitroRoots: hashes(opts.Configuration.NitroRoots),
		Opening: s.opening, Began: s.began, Log: opts.Log,
	})
	if err != nil {
		return nil, err
	}
	s.keys = keys.New(keys.Options{Signer: opts.Signer, Journal: s.journal, Epoch: s.epoch, Configuration: s.conf})
	certificate, err := ownCertificate(context.Background(), opts.Signer)
	if err == nil {
		err = errors.Join(s.openFleet(certificate), s.openKMS(), s.openProviderKeys())
	}
	if err != nil {
		s.journal.Close()
		return nil, err
	}
	if err := s.openSpending(); err != nil {
		s.journal.Close()
		return nil, err
	}
	s.runs = runs.New(nil)
	s.mint = mint.New(mint.Options{
		Configuration: s.opts.Configuration, Ceiling: s.ceiling, Journal: s.journal, Keys: s.keys, Epoch: s.epoch, Tier: opts.Signer.Tier(),
		Attested: s.attested(), Runs: s.runs, Services: s.services,
	})
	s.tls = agenttls.New(agenttls.Options{
		TrustDomain: s.opts.Configuration.TrustDomain, Key: s.key, Ceiling: s.ceiling, Journal: s.journal, Keys: s.keys,
	})
	s.openCalls()
	s.grpc = s.newGRPC(certificate)
	return s, nil
}

func hashes(list []startconf.KeyHash) [][32]byte {
	out := make([][32]byte, len(list))
	for i, k := range list {
		out[i] = k
	}
	return out
}

func (s *Server) newGRPC(certificate tls.Certificate) *grpc.Server {
	handshake := s.opts.handshake
	if handshake == 0 {
		handshake = HandshakeTimeout
	}
	server := grpc.NewServer(
		grpc.Creds(&callers{TransportCredentials: credentials.NewTLS(serverTLS(certificate, s.opts.Configuration.CallerKeys)), dispatch: s.dispatch}),
		grpc.MaxRecvMsgSize(MaxReceive),
		grpc.ForceServerCodecV2(grpcfields.Codec(MaxFields)),
		grpc.MaxSendMsgSize(MaxSend),
		grpc.MaxConcurrentStreams(MaxStreams),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(connWindow),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.ConnectionTimeout(handshake),
		grpc.WaitForHandlers(true), // when Serve ends nothing is left that could use the signer, or begin more work
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.UnaryInterceptor(s.guardUnary),
		grpc.StreamInterceptor(s.guardStream),
	)
	enclavev1.RegisterEnclaveServer(server, s)
	return server
}

// Serve answers calls on l until ctx ends, then stops within a second or so. It closes l and the journal.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	exchanging, stopExchange := context.WithCancel(ctx)
	var exchange sync.WaitGroup
	exchange.Go(func() { s.exchange(exchanging) })
	exchange.Go(s.calls.run)
	exchange.Go(func() { s.alerts.Run(exchanging) })
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-ctx.Done():
		case <-done:
		}
		s.calls.close()
		s.spends.Close()
		s.journal.Close()
		s.grpc.Stop()
	}()
	err := s.grpc.Serve(newUnproven(l))
	close(done)
	<-stopped
	stopExchange()
	exchange.Wait()
	close(s.closing)
	s.workers.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve: %w", err)
}

// guardUnary bounds a call in time and turns a panic into an error of that call.
func (s *Server) guardUnary(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
	defer s.recovered(info.FullMethod, &err)
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	taken, err := s.takeRoom(request)
	if err != nil {
		return nil, err
	}
	defer s.giveRoom(taken)
	reply, err = handler(ctx, request)
	return reply, asStatus(err)
}

func (s *Server) guardStream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer s.recovered(info.FullMethod, &err)
	run := func() error { return handler(service, stream) }
	switch info.FullMethod {
	case enclavev1.Enclave_Persist_FullMethodName:
		return asStatus(bounded(s.stores, run))
	case enclavev1.Enclave_MintStream_FullMethodName:
		return asStatus(bounded(s.streams, run))
	case enclavev1.Enclave_Connect_FullMethodName:
		return asStatus(bounded(s.carried, run))
	}
	return asStatus(bounded(s.others, run))
}

func (s *Server) recovered(method string, err *error) {
	if r := recover(); r != nil {
		s.opts.Log.Error("a call panicked: this is a bug", "method", method, "panic", r, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error: see the enclave's log")
	}
}

// asStatus gives an error its gRPC code. The message is for the person who asked.
func asStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Internal
	for _, c := range []struct {
		target error
		code   codes.Code
	}{
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{mint.ErrRate, codes.ResourceExhausted},
		{mint.ErrDenied, codes.PermissionDenied},
		{mint.ErrUnattested, codes.FailedPrecondition},
		{mint.ErrInvalid, codes.InvalidArgument},
		{agenttls.ErrRate, codes.ResourceExhausted},
		{agenttls.ErrDenied, codes.PermissionDenied},
		{agenttls.ErrInvalid, codes.InvalidArgument},
		{keys.ErrNone, codes.FailedPrecondition},
		{signer.ErrFull, codes.ResourceExhausted},
		{ceiling.ErrNone, codes.FailedPrecondition},
		{ceiling.ErrMalformed, codes.InvalidArgument},
		{ceiling.ErrSignature, codes.PermissionDenied},
		{ceiling.ErrVersion, codes.FailedPrecondition},
		{lease.ErrMalformed, codes.InvalidArgument},
		{lease.ErrSignature, codes.PermissionDenied},
		{lease.ErrVersion, codes.FailedPrecondition},
		{lease.ErrNoStore, codes.Unavailable},
		{lease.ErrNoCredit, codes.FailedPrecondition},
		{lease.ErrAnchor, codes.FailedPrecondition},
		{ledger.ErrUnread, codes.Unavailable},
		{ledger.ErrStopped, codes.Unavailable},
		{ledger.ErrNoControl, codes.FailedPrecondition},
		{spending.ErrVersion, codes.FailedPrecondition},
		{spending.ErrOperator, codes.PermissionDenied},
		{cost.ErrMalformed, codes.InvalidArgument},
		{cost.ErrSignature, codes.PermissionDenied},
		{sequencer.ErrNoStore, codes.Unavailable},
		{sequencer.ErrClosed, codes.Unavailable},
		{sequencer.ErrTooLarge, codes.InvalidArgument},
		{sequencer.ErrStore, codes.FailedPrecondition},
		{sequencer.ErrProtocol, codes.InvalidArgument},
	} {
		if errors.Is(err, c.target) {
			code = c.code
			break
		}
	}
	message := err.Error()
	if len(message) > maxMessage {
		message = message[:maxMessage] + " ... (cut)"
	}
	return status.Error(code, message)
}
