package server

import (
	"context"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
	parentv1 "github.com/raypher/raypher/proto/parent/v1"
)

// TLSCertificate has a certificate issued for the calling agent.
func (s *agent) TLSCertificate(ctx context.Context, _ *parentv1.AgentTLSCertificateRequest) (*parentv1.AgentTLSCertificate, error) {
	a, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	chain, err := a.TLSCertificate(ctx)
	if err != nil {
		return nil, err
	}
	return &parentv1.AgentTLSCertificate{Chain: chain}, nil
}

// TLSSign has a handshake of the calling agent signed.
func (s *agent) TLSSign(ctx context.Context, r *parentv1.AgentTLSSignRequest) (*parentv1.AgentTLSSignature, error) {
	a, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	signature, err := a.TLSSign(ctx, r.TranscriptHash)
	if err != nil {
		return nil, err
	}
	return &parentv1.AgentTLSSignature{Signature: signature}, nil
}

// DescribeKey asks the enclave for a further key of its own; the nonce is the verifier's.
func (s *operator) DescribeKey(ctx context.Context, r *parentv1.OperatorDescribeKeyRequest) (*parentv1.OperatorKeyDescription, error) {
	d, err := s.server.options.Enclave.DescribeKey(ctx, &enclavev1.DescribeKeyRequest{Purpose: r.Purpose, Name: r.Name, Nonce: r.Nonce})
	if err != nil {
		return nil, err
	}
	return &parentv1.OperatorKeyDescription{
		PublicKey: d.GetPublicKey(), Tier: d.GetEvidence().GetTier(), Document: d.GetEvidence().GetDocument(), Certificate: d.GetCertificate(),
	}, nil
}
