package daemon

import (
	"context"

	"github.com/raypher/raypher/parent/audit"
	"github.com/raypher/raypher/parent/spend"
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

// Unread is why the enclave does not know what was spent before.
func (e *enclave) Unread() error {
	l, err := e.get()
	if err != nil {
		return nil // what is asked of it says so
	}
	return l.Unread()
}

// spent reads what calls of models came to.
type spent struct {
	*spend.Book
	store *audit.Store
}

func newSpent(store *audit.Store) spent { return spent{spend.NewBook(store), store} }

// Calls implements server.Spent.
func (s spent) Calls(ctx context.Context, since int64, each func(*spend.Call) error) error {
	return spend.Calls(ctx, s.store, since, each)
}
