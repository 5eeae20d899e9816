package secret

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/caller"
	"github.com/raypher/raypher/controller/pattern"
	"github.com/raypher/raypher/controller/store"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/recipient"
)

// handout is what one enclave gets.
type handout struct {
	due  []row
	gone []string
}

// Fetch returns the secrets that the calling enclave lacks, encrypted to its recipient key, and the names that it is to forget.
func (s *Service) Fetch(ctx context.Context, request *controllerv1.FetchSecretsRequest) (*controllerv1.FetchSecretsReply, error) {
	held, err := checkHeld(request.GetHeld())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	reply := &controllerv1.FetchSecretsReply{}
	// Most calls find nothing new, and wait for no writer.
	var nothing bool
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		enclave, _, err := s.entitled(ctx, tx, request)
		if err != nil {
			return err
		}
		h, err := s.handout(tx, enclave, held)
		nothing, reply.Gone = len(h.due) == 0, h.gone
		return err
	})
	if err != nil || nothing {
		return reply, s.refused(ctx, err)
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		reply = &controllerv1.FetchSecretsReply{}
		enclave, to, err := s.entitled(ctx, tx, request)
		if err != nil {
			return err
		}
		h, err := s.handout(tx, enclave, held)
		if err != nil {
			return err
		}
		reply.Gone = h.gone
		for _, r := range h.due {
			sealed, err := s.sealFor(enclave, to, r)
			if err != nil {
				return err
			}
			reply.Secrets = append(reply.Secrets, sealed)
			if err := tx.AuditOf(enclave.Host, store.Entry{
				Actor: enclave.Actor, Action: "secret.fetch", Subject: versioned(r.Name, r.Version) + " for " + enclave.Host, Outcome: store.OK,
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, s.refused(ctx, err)
	}
	return reply, nil
}

// entitled is the calling enclave with the key to encrypt to. It has to show its result, which is signed: who can only write the database
// makes none, and whose key he writes into it gets no value. Where only the recipient is wrong the enclave is returned with the error.
func (s *Service) entitled(ctx context.Context, tx *store.Tx, request *controllerv1.FetchSecretsRequest) (*caller.Enclave, *recipient.Recipient, error) {
	if request.GetResult() == "" {
		return nil, nil, status.Error(codes.PermissionDenied, "secrets are for who shows an attestation result: attest first")
	}
	enclave, err := s.Callers.Enclave(ctx, tx, request.GetResult())
	if err != nil {
		return nil, nil, err
	}
	to, err := recipient.Verify(request.GetRecipient(), enclave.Key, s.Now())
	if err == nil && to.Epoch != enclave.Epoch {
		err = errors.New("recipient: it is of another epoch than the attestation result: attest again")
	}
	if err != nil {
		return nil, nil, &refusal{enclave, status.Error(codes.PermissionDenied, err.Error())}
	}
	return enclave, to, nil
}

// refusal is an error to an enclave that is known: it is put on record.
type refusal struct {
	enclave *caller.Enclave
	err     error
}

func (r *refusal) Error() string { return r.err.Error() }

func (s *Service) refused(ctx context.Context, err error) error {
	var r *refusal
	if !errors.As(err, &r) {
		return err
	}
	if err := s.DB.Update(ctx, func(tx *store.Tx) error {
		return tx.AuditOf(r.enclave.Host, store.Entry{Actor: r.enclave.Actor, Action: "secret.fetch", Subject: r.enclave.Host, Outcome: status.Convert(r.err).Message()})
	}); err != nil {
		return err
	}
	return r.err
}

// handout compares what a host is granted with what its enclave holds.
func (s *Service) handout(tx *store.Tx, enclave *caller.Enclave, held map[string]uint64) (*handout, error) {
	rows, err := live(tx)
	if err != nil {
		return nil, err
	}
	h, now, size := &handout{}, s.Now(), 0
	granted := map[string]bool{}
	for _, r := range rows {
		if r.over(now) || !pattern.Stored(r.Hosts).Has(enclave.Host) || !slices.Contains(strings.Split(r.Tiers, ","), enclave.Tier) {
			continue
		}
		granted[r.Name] = true
		if held[r.Name] == r.Version {
			continue
		}
		if size += len(r.value); size <= MaxReply {
			h.due = append(h.due, r)
		}
	}
	for name := range held {
		if !granted[name] {
			h.gone = append(h.gone, name)
		}
	}
	slices.Sort(h.gone)
	return h, nil
}

func (s *Service) sealFor(enclave *caller.Enclave, to *recipient.Recipient, r row) (*controllerv1.SealedSecret, error) {
	value, err := s.Vault.open(r.place, r.value)
	if err != nil {
		return nil, status.Error(codes.DataLoss, err.Error())
	}
	encapsulated, ciphertext, err := to.Seal(recipient.Label{Name: r.Name, Version: r.Version, Host: enclave.Host, Expires: r.Expires}, value)
	if err != nil {
		return nil, err
	}
	return &controllerv1.SealedSecret{Name: r.Name, Version: r.Version, Encapsulated: encapsulated, Ciphertext: ciphertext, ExpiresUnix: r.Expires}, nil
}

// Acknowledge puts on record what the calling enclave holds. Names that do not exist are passed over.
func (s *Service) Acknowledge(ctx context.Context, request *controllerv1.AcknowledgeSecretsRequest) (*controllerv1.AcknowledgeSecretsReply, error) {
	held, err := checkHeld(request.GetHeld())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		enclave, err := s.Callers.Enclave(ctx, tx, "")
		if err != nil {
			return err
		}
		if err := tx.Exec(`DELETE FROM secrets_held WHERE host = ?`, enclave.Host); err != nil {
			return err
		}
		rows, err := live(tx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			version, has := held[r.Name]
			if !has || version > r.Version {
				continue
			}
			if err := tx.Exec(`INSERT INTO secrets_held (host, name, version) VALUES (?, ?, ?)`, enclave.Host, r.Name, int64(version)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &controllerv1.AcknowledgeSecretsReply{}, nil
}

func checkHeld(list []*controllerv1.HeldSecret) (map[string]uint64, error) {
	if len(list) > MaxSecrets {
		return nil, fmt.Errorf("%d secrets held: at most %d exist", len(list), MaxSecrets)
	}
	held := make(map[string]uint64, len(list))
	for _, h := range list {
		if err := CheckName(h.GetName()); err != nil {
			return nil, fmt.Errorf("held: %w", err)
		}
		if _, twice := held[h.GetName()]; twice {
			return nil, fmt.Errorf("held: %s stands twice", h.GetName())
		}
		held[h.GetName()] = h.GetVersion()
	}
	return held, nil
}
