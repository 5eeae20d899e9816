package daemon

import (
	"context"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

func (e *enclave) InstallControl(ctx context.Context, r *enclavev1.InstallControlRequest) (*enclavev1.SpendingStatus, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.InstallControl(ctx, r)
}

func (e *enclave) DescribeSpending(ctx context.Context, r *enclavev1.DescribeSpendingRequest) (*enclavev1.SpendingStatus, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.DescribeSpending(ctx, r)
}

func (e *enclave) TopUp(ctx context.Context, amount uint64) (*enclavev1.SpendingStatus, error) {
	l, err := e.get()
	if err != nil {
		return nil, err
	}
	return l.TopUp(ctx, amount)
}
