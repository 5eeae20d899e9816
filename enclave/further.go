package enclave

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/enclave/signer"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// DescribeKey implements the service, for the keys that outsiders are to trust: those of namespaces to which the ceiling gives
// one, and the TLS authority's.
func (s *Server) DescribeKey(ctx context.Context, r *enclavev1.DescribeKeyRequest) (*enclavev1.KeyDescription, error) {
	if n := len(r.GetNonce()); n < MinNonce || n > signer.MaxNonce {
		return nil, status.Errorf(codes.InvalidArgument, "describe key: nonce of %d bytes, use %d to %d", n, MinNonce, signer.MaxNonce)
	}
	purpose, name := journal.Purpose(r.GetPurpose()), r.GetName()
	var certificate []byte
	switch purpose {
	case journal.PurposeNamespace:
		c, err := s.ceiling.Current()
		if err != nil {
			return nil, err
		}
		if !c.OwnKey(name) {
			return nil, status.Errorf(codes.FailedPrecondition, "describe key: the ceiling gives namespace %.140q no key of its own: own_key: true in a grant that names it does", name)
		}
	case journal.PurposeTLSAuthority:
		if name != "" {
			return nil, status.Error(codes.InvalidArgument, "describe key: the TLS authority has no name: leave it away")
		}
		name = s.opts.Configuration.TrustDomain
		var err error
		if certificate, err = s.tls.Root(ctx); err != nil {
			return nil, err
		}
	default:
		return nil, status.Errorf(codes.InvalidArgument, "describe key: purpose %.40q: use %s or %s", purpose, journal.PurposeNamespace, journal.PurposeTLSAuthority)
	}
	key, evidence, err := s.keys.Evidence(ctx, purpose, name, r.GetNonce())
	if err != nil {
		return nil, fmt.Errorf("describe key: %w", err)
	}
	return &enclavev1.KeyDescription{
		PublicKey: key.PKIX(), Evidence: &enclavev1.Evidence{Tier: evidence.Tier, Document: evidence.Document}, Certificate: certificate,
	}, nil
}

// TLSCertificate implements the service.
func (s *Server) TLSCertificate(ctx context.Context, r *enclavev1.TLSCertificateRequest) (*enclavev1.TLSCertificateReply, error) {
	chain, err := s.tls.Certificate(ctx, r.GetVisa())
	if err != nil {
		return nil, err
	}
	return &enclavev1.TLSCertificateReply{Chain: chain}, nil
}

// TLSSign implements the service.
func (s *Server) TLSSign(ctx context.Context, r *enclavev1.TLSSignRequest) (*enclavev1.TLSSignReply, error) {
	signature, err := s.tls.SignHandshake(ctx, r.GetVisa(), r.GetTranscriptHash())
	if err != nil {
		return nil, err
	}
	return &enclavev1.TLSSignReply{Signature: signature}, nil
}
