package daemon

import (
	"context"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

func (e *enclave) DescribeKey(ctx context.Context, r *enclavev1.DescribeKeyRequest) (*enclavev1.KeyDescription, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.DescribeKey(ctx, r)
}

func (e *enclave) TLSCertificate(ctx context.Context, visa []byte) ([][]byte, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.TLSCertificate(ctx, visa)
}

func (e *enclave) TLSSign(ctx context.Context, visa, transcript []byte) ([]byte, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.TLSSign(ctx, visa, transcript)
}

func (e *enclave) DescribeProviderKeys(ctx context.Context, recipient bool) (*enclavev1.ProviderKeys, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.DescribeProviderKeys(ctx, recipient)
}

func (e *enclave) ChangeProviderKey(ctx context.Context, change []byte) (*enclavev1.ProviderKeys, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.ChangeProviderKey(ctx, change)
}
