// Package callertest is a fleet for the tests of the services: enclaves with real keys, whose results hold as long as a test says.
package callertest

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/caller"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/journal/journaltest"
)

// OperatorKey is the actor that an operator is in audits.
const OperatorKey = "sha256:operator"

// Fleet implements caller.Callers. Who calls is in the context of a call.
type Fleet struct{ over sync.Map } // results that do not hold any more

// Enclave is an attested enclave whose signing key is in memory.
type Enclave struct {
	caller.Enclave
	Signer *journaltest.Key
	Result string // other results are refused
}

type callerKey struct{}

type (
	operator struct{}
	parent   struct{ host string }
)

// Operator is the context of an operator's call.
func Operator(ctx context.Context) context.Context {
	return context.WithValue(ctx, callerKey{}, operator{})
}

// Parent is the context of a call by a host's parent.
func Parent(ctx context.Context, host string) context.Context {
	return context.WithValue(ctx, callerKey{}, parent{host})
}

// Context is the context of a call by this enclave.
func (e *Enclave) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, callerKey{}, e)
}

// NewEnclave makes an enclave of a host and attests it.
func NewEnclave(t testing.TB, host, tier string) *Enclave {
	t.Helper()
	signer := journaltest.NewKey(t)
	public, err := journal.NewKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	e := &Enclave{Signer: signer, Result: rand.Text()}
	e.Enclave = caller.Enclave{Actor: fmt.Sprintf("sha256:%x", public.ID()), Host: host, Tier: tier, Key: public}
	rand.Read(e.Epoch[:])
	return e
}

// Expire ends an enclave's result.
func (f *Fleet) Expire(e *Enclave) { f.over.Store(e.Result, true) }

// Operator implements caller.Callers.
func (f *Fleet) Operator(ctx context.Context) (string, error) {
	if _, is := ctx.Value(callerKey{}).(operator); !is {
		return "", status.Error(codes.PermissionDenied, "no operator")
	}
	return OperatorKey, nil
}

// Enclave implements caller.Callers.
func (f *Fleet) Enclave(ctx context.Context, _ *store.Tx, result string) (*caller.Enclave, error) {
	e, is := ctx.Value(callerKey{}).(*Enclave)
	if !is {
		return nil, status.Error(codes.PermissionDenied, "no enclave")
	}
	if result != "" && result != e.Result {
		return nil, status.Error(codes.PermissionDenied, "result of another key")
	}
	if _, over := f.over.Load(e.Result); over {
		return nil, status.Error(codes.PermissionDenied, "expired result")
	}
	return &e.Enclave, nil
}

// Parent implements caller.Callers.
func (f *Fleet) Parent(ctx context.Context, _ *store.Tx) (string, error) {
	p, is := ctx.Value(callerKey{}).(parent)
	if !is {
		return "", status.Error(codes.PermissionDenied, "no parent")
	}
	return p.host, nil
}
