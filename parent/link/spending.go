package link

import (
	"context"

	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// InstallControl hands the enclave a cost_control.yaml that an operator key has signed, or, in development, one that nobody has.
func (l *Link) InstallControl(ctx context.Context, r *enclavev1.InstallControlRequest) (*enclavev1.SpendingStatus, error) {
	s, err := l.client.InstallControl(ctx, r)
	return s, l.explain(err)
}

// DescribeSpending asks what may be spent and what was.
func (l *Link) DescribeSpending(ctx context.Context, r *enclavev1.DescribeSpendingRequest) (*enclavev1.SpendingStatus, error) {
	s, err := l.client.DescribeSpending(ctx, r)
	return s, l.explain(err)
}

// TopUp raises the host's budget by so many micro-dollars, in development.
func (l *Link) TopUp(ctx context.Context, amount uint64) (*enclavev1.SpendingStatus, error) {
	s, err := l.client.TopUp(ctx, &enclavev1.TopUpRequest{Amount: amount})
	return s, l.explain(err)
}
