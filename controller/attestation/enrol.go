package attestation

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/tpm"
	"github.com/raypher/raypher/controller/host"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// BeginEnrolment makes a secret that only the TPM of the identity can decrypt, and only for its AK.
func (s *Service) BeginEnrolment(ctx context.Context, request *controllerv1.BeginEnrolmentRequest) (*controllerv1.BeginEnrolmentReply, error) {
	p, err := enclave(ctx)
	if err != nil {
		return nil, err
	}
	challenge, identity, err := s.credential(request)
	if err != nil {
		return nil, refused(err)
	}
	id := make([]byte, 16)
	rand.Read(id) // never fails (crypto/rand)
	now := s.Now()
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Exec(`DELETE FROM enrolments WHERE expires <= ? OR caller = ?`, store.Millis(now), p.Key.String()); err != nil {
			return err
		}
		h, err := s.enrolable(tx, request.GetHost(), identity)
		if err != nil {
			return err
		}
		var waiting int
		if err := tx.Get([]any{&waiting}, `SELECT COUNT(*) FROM enrolments`); err != nil {
			return err
		}
		if waiting >= MaxEnrolments {
			return status.Errorf(codes.ResourceExhausted, "%d enrolments wait for their answer: try again in %s", waiting, EnrolmentLife)
		}
		return tx.Exec(`INSERT INTO enrolments (id, caller, host, kept, expires) VALUES (?, ?, ?, ?, ?)`,
			id, p.Key.String(), h.Name, challenge.Keep(), store.Millis(now.Add(EnrolmentLife)))
	})
	if err != nil {
		return nil, refused(err)
	}
	return &controllerv1.BeginEnrolmentReply{Enrolment: id, Challenge: challenge.Message()}, nil
}

// enrolable is the host of a name that a TPM may be enrolled as. Whoever owns any TPM may ask, so one answer stands for all that is not: which
// names there are, of which tier, and bound to which machine, is in the log.
func (s *Service) enrolable(tx *store.Tx, name, identity string) (*host.Host, error) {
	h, err := host.Named(tx, name)
	if err != nil && !errors.Is(err, host.ErrUnknown) {
		return nil, err
	}
	if err == nil && h.Tier != journal.TierTPM {
		err = attest.Refuse(CheckTier, "host %s is of tier %s", h.Name, h.Tier)
	}
	if err == nil {
		err = checkIdentity(h, identity)
	}
	if err != nil {
		s.Log.Warn("enrolment refused", "host", fmt.Sprintf("%.140q", name), "why", err)
		return nil, attest.Refuse(CheckHost, "this TPM cannot be enrolled as %.140q: an operator adds a host of tier tpm with `raypher fleet add`, with --reset where another machine had its name", name)
	}
	return h, nil
}

// credential checks an identity and makes the challenge for it.
func (s *Service) credential(request *controllerv1.BeginEnrolmentRequest) (*tpm.Challenge, string, error) {
	if s.TPMRoots == nil {
		return nil, "", attest.Refuse(tpm.CheckEndorsement, "this controller was started without --tpm-roots: it trusts no TPM")
	}
	id, err := tpm.ParseIdentity(request.GetIdentity())
	if err != nil {
		return nil, "", err
	}
	name, err := id.AKName()
	if err != nil {
		return nil, "", err
	}
	challenge, err := tpm.NewChallenge(*id, s.TPMRoots, s.Now())
	if err != nil {
		return nil, "", err
	}
	return challenge, tpmIdentity(id.EKCertificate, name), nil
}

// EndEnrolment takes the answer to a challenge, once, and returns the record of the activation.
func (s *Service) EndEnrolment(ctx context.Context, request *controllerv1.EndEnrolmentRequest) (*controllerv1.EndEnrolmentReply, error) {
	p, err := enclave(ctx)
	if err != nil {
		return nil, err
	}
	var record []byte
	var wrong error
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		record, wrong = nil, nil
		var kept []byte
		var name string
		err := tx.Get([]any{&kept, &name}, `DELETE FROM enrolments WHERE id = ? AND caller = ? AND expires > ? RETURNING kept, host`,
			request.GetEnrolment(), p.Key.String(), store.Millis(s.Now()))
		if errors.Is(err, sql.ErrNoRows) {
			return attest.Refuse(tpm.CheckActivation, "no enrolment of this caller waits under this id: begin again")
		}
		if err != nil {
			return err
		}
		record, wrong = s.activation(kept, request.GetSecret())
		return s.enrolled(tx, name, p.Key.String(), wrong)
	})
	if err == nil {
		err = wrong
	}
	if err != nil {
		return nil, refused(err)
	}
	return &controllerv1.EndEnrolmentReply{Activation: record}, nil
}

// enrolled puts the end of an enrolment on record; wrong: why it was refused. A host that was removed meanwhile has no record of refusals.
func (s *Service) enrolled(tx *store.Tx, name, actor string, wrong error) error {
	e := store.Entry{Actor: actor, Action: "enrol", Subject: name, Outcome: store.OK}
	if wrong == nil {
		return tx.AuditOf(name, e)
	}
	var refusal *attest.Refusal
	if !errors.As(wrong, &refusal) {
		return wrong
	}
	h, err := host.Named(tx, name)
	if errors.Is(err, host.ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	e.Outcome = refusal.Error()
	return s.fold(tx, h, e, refusal.Check)
}

func (s *Service) activation(kept, secret []byte) ([]byte, error) {
	challenge, err := tpm.Resume(kept)
	if err != nil {
		return nil, err
	}
	if err := challenge.Finish(secret); err != nil {
		return nil, err
	}
	return challenge.Record(s.Keys.Signing, s.Now())
}
