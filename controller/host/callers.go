package host

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/attest/result"
	"github.com/raypher/raypher/controller/caller"
	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/journal"
	"github.com/raypher/raypher/startconf"
)

// Callers knows operators by a list, and enclaves and parents by the table of hosts. It implements caller.Callers.
type Callers struct {
	Operators  []startconf.KeyHash
	ResultKeys []*ecdsa.PublicKey // that sign results of this controller: the present one and those before it
	Now        func() time.Time
}

var _ caller.Callers = (*Callers)(nil)

func authenticated(ctx context.Context) (*peer.Peer, error) {
	p := peer.From(ctx)
	if p == nil {
		return nil, status.Error(codes.Unauthenticated, "no client certificate: this call needs one")
	}
	return p, nil
}

// Operator implements caller.Callers.
func (c *Callers) Operator(ctx context.Context) (string, error) {
	p, err := authenticated(ctx)
	if err != nil {
		return "", err
	}
	if p.Enclave != nil || !slices.Contains(c.Operators, p.Key) {
		return "", status.Errorf(codes.PermissionDenied, "%s is not the key of an operator: start the controller with --operator for it", p.Key)
	}
	return p.Key.String(), nil
}

// Parent implements caller.Callers.
func (c *Callers) Parent(ctx context.Context, tx *store.Tx) (string, error) {
	p, err := authenticated(ctx)
	if err != nil {
		return "", err
	}
	if p.Enclave != nil {
		return "", status.Error(codes.PermissionDenied, "this call is for the parent of a host, not for its enclave")
	}
	h, err := OfParent(tx, p.Key.String())
	if errors.Is(err, ErrUnknown) {
		return "", status.Errorf(codes.PermissionDenied, "%s is the caller key of no host: an operator adds one with `raypher fleet add`", p.Key)
	}
	if err != nil {
		return "", err
	}
	return h.Name, nil
}

// Enclave implements caller.Callers: the newest good evidence about the host was about this very key, and its result has not ended.
func (c *Callers) Enclave(ctx context.Context, tx *store.Tx, token string) (*caller.Enclave, error) {
	p, err := authenticated(ctx)
	if err != nil {
		return nil, err
	}
	if p.Enclave == nil {
		return nil, status.Error(codes.PermissionDenied, "this call is for enclaves")
	}
	h, err := OfEnclave(tx, p.Key.String())
	if errors.Is(err, ErrUnknown) {
		return nil, status.Errorf(codes.PermissionDenied, "%s is the key of no host's attested enclave: attest first", p.Key)
	}
	if err != nil {
		return nil, err
	}
	if !c.Now().Before(h.ResultExpires) {
		return nil, status.Errorf(codes.PermissionDenied, "the attestation result of %s ended at %s: attest again", h.Name, h.ResultExpires.Format(time.RFC3339))
	}
	epoch, err := journal.ParseEpochID(h.Epoch)
	if err != nil {
		return nil, status.Errorf(codes.DataLoss, "epoch of %s: %v", h.Name, err)
	}
	if token != "" {
		r, err := result.Verify(token, c.ResultKeys, c.Now())
		if err != nil {
			return nil, status.Errorf(codes.PermissionDenied, "%v: attest again", err)
		}
		if r.Key.ID() != p.Key || r.Host != h.Name || r.Tier != h.Tier || !bytes.Equal(r.Epoch[:], epoch[:]) {
			return nil, status.Error(codes.PermissionDenied, "the attestation result is about another enclave than the one that shows it: attest again")
		}
	}
	return &caller.Enclave{Actor: p.Key.String(), Host: h.Name, Tier: h.Tier, Key: p.Enclave, Epoch: epoch}, nil
}
