package link

import (
	"context"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// DescribeKey asks for a further key of the enclave, with evidence fresh for a nonce of 8 to 64 bytes.
func (l *Link) DescribeKey(ctx context.Context, r *enclavev1.DescribeKeyRequest) (*enclavev1.KeyDescription, error) {
	d, err := l.client.DescribeKey(ctx, r)
	return d, l.explain(err)
}

// TLSCertificate asks for a TLS certificate for the agent of a visa; DER, the authority's at the end.
func (l *Link) TLSCertificate(ctx context.Context, visa []byte) ([][]byte, error) {
	reply, err := l.client.TLSCertificate(ctx, &enclavev1.TLSCertificateRequest{Visa: visa})
	return reply.GetChain(), l.explain(err)
}

// TLSSign has a TLS 1.3 handshake signed for the agent of a visa, as its client.
func (l *Link) TLSSign(ctx context.Context, visa, transcript []byte) ([]byte, error) {
	reply, err := l.client.TLSSign(ctx, &enclavev1.TLSSignRequest{Visa: visa, TranscriptHash: transcript})
	return reply.GetSignature(), l.explain(err)
}
