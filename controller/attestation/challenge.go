package attestation

import (
	"context"
	"crypto/rand"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/controller/store"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// enclave is the caller of a call for enclaves, attested or not.
func enclave(ctx context.Context) (*peer.Peer, error) {
	p := peer.From(ctx)
	switch {
	case p == nil:
		return nil, status.Error(codes.Unauthenticated, "no client certificate: this call needs one")
	case p.Enclave == nil:
		return nil, status.Error(codes.PermissionDenied, "this call is for enclaves, which show two certificates")
	}
	return p, nil
}

// Challenge makes a nonce for the caller.
func (s *Service) Challenge(ctx context.Context, _ *controllerv1.ChallengeRequest) (*controllerv1.ChallengeReply, error) {
	p, err := enclave(ctx)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, NonceSize)
	rand.Read(nonce) // never fails (crypto/rand)
	now := s.Now()
	expires := now.Add(NonceLifetime)
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Exec(`DELETE FROM nonces WHERE expires <= ?`, store.Millis(now)); err != nil {
			return err
		}
		var mine, all int
		if err := tx.Get([]any{&mine}, `SELECT COUNT(*) FROM nonces WHERE caller = ?`, p.Key.String()); err != nil {
			return err
		}
		if err := tx.Get([]any{&all}, `SELECT COUNT(*) FROM nonces`); err != nil {
			return err
		}
		if mine >= MaxNonces || all >= MaxAllNonces {
			return status.Errorf(codes.ResourceExhausted, "too many challenges wait for evidence: use one, or wait %s", NonceLifetime)
		}
		return tx.Exec(`INSERT INTO nonces (nonce, caller, expires) VALUES (?, ?, ?)`, nonce, p.Key.String(), store.Millis(expires))
	})
	if err != nil {
		return nil, err
	}
	return &controllerv1.ChallengeReply{Nonce: nonce, ExpiresUnix: expires.Unix()}, nil
}

var errNonce = attest.Refuse(CheckNonce, "not one that this caller was given and has not used: ask for a new challenge")

// waits says whether a nonce is the caller's and in time. It stays.
func (s *Service) waits(tx *store.Tx, nonce []byte, p *peer.Peer) error {
	var n int
	err := tx.Get([]any{&n}, `SELECT COUNT(*) FROM nonces WHERE nonce = ? AND caller = ? AND expires > ?`, nonce, p.Key.String(), store.Millis(s.Now()))
	if err == nil && n == 0 {
		err = errNonce
	}
	return err
}

// use takes a nonce away, which of all replicas one can do.
func (s *Service) use(tx *store.Tx, nonce []byte, p *peer.Peer) error {
	n, err := tx.Change(`DELETE FROM nonces WHERE nonce = ? AND caller = ? AND expires > ?`, nonce, p.Key.String(), store.Millis(s.Now()))
	if err == nil && n == 0 {
		err = errNonce
	}
	return err
}

// refused turns a refusal into the answer for the caller, and leaves errors of the database as they are.
func refused(err error) error {
	var r *attest.Refusal
	if errors.As(err, &r) {
		return status.Error(codes.PermissionDenied, r.Error())
	}
	return err
}
