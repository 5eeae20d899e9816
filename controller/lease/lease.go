// Package lease is the anchor of credit for enclaves that have no counter of their own (enclave/lease.Anchor): the service
// raypher.controller.v1.Leases. A host has one counter, whatever key its enclave has at the moment: an enclave that was started
// anew finds it where it was, and clones of one host count on it together, so that none of them gets what another got.
//
// The counter is in the database, and the database is the anchor. ID binds a counter to the database's identity and the host's
// name, and every grant names it. A database that was put back to an older state has older counters: its operator renews the
// identity before anybody may count again (Renew), and all grants have to be signed anew.
//
// Take takes each request id once: a call whose answer was lost is repeated and answered as it was. The ids of the last Retained
// steps of a host are kept.
package lease

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"math"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/caller"
	"github.com/raypher/raypher/controller/store"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
)

// Retained is for how many steps of a host's counter request ids are kept: the most leases that a grant can have.
const Retained = 1000

// RequestID is the size of a request's id in bytes.
const RequestID = 16

// Options of a service.
type Options struct {
	DB      *store.DB
	Callers caller.Callers
}

// Service implements raypher.controller.v1.Leases. Its methods may be called concurrently, by several processes on one database.
type Service struct {
	controllerv1.UnimplementedLeasesServer
	Options
}

// New begins to serve.
func New(o Options) *Service { return &Service{Options: o} }

// ID names the counter of a host in a database with this identity:
//
//	SHA-256("raypher controller lease counter 1", NUL, SHA-256(identity), host)
func ID(identity []byte, host string) [sha256.Size]byte {
	database := sha256.Sum256(identity) // one length, whatever the identity's is
	return sha256.Sum256(fmt.Appendf(nil, "raypher controller lease counter 1\x00%s%s", database[:], host))
}

// Renew gives the database another identity, by which every counter gets another ID, and puts it on record. Counters stay where
// they are. Services of all processes use the new one at once.
func Renew(ctx context.Context, db *store.DB, actor string) error {
	return db.Update(ctx, func(tx *store.Tx) error {
		if err := tx.RenewIdentity(); err != nil {
			return err
		}
		return tx.Audit(store.Entry{Actor: actor, Action: "database.renew", Outcome: store.OK})
	})
}

// Read returns the counter of the calling enclave's host.
func (s *Service) Read(ctx context.Context, request *controllerv1.ReadLeaseRequest) (*controllerv1.LeaseCounter, error) {
	var c counter
	err := s.DB.View(ctx, func(tx *store.Tx) (err error) {
		c, err = s.counter(ctx, tx, request.GetResult())
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.message(), nil
}

// Take adds one to the counter if it is what the caller expects. ABORTED, with the counter as detail: it is not.
func (s *Service) Take(ctx context.Context, request *controllerv1.TakeLeaseRequest) (*controllerv1.LeaseCounter, error) {
	if len(request.GetRequestId()) != RequestID {
		return nil, status.Errorf(codes.InvalidArgument, "request id of %d bytes, use %d random ones", len(request.GetRequestId()), RequestID)
	}
	var c counter
	err := s.DB.Update(ctx, func(tx *store.Tx) (err error) {
		if c, err = s.counter(ctx, tx, request.GetResult()); err != nil {
			return err
		}
		done, err := c.repeated(tx, request)
		if err != nil || done {
			return err
		}
		if c.value != request.GetExpected() {
			return c.aborted(request.GetExpected())
		}
		if c.value == math.MaxInt64 {
			return status.Error(codes.ResourceExhausted, "the counter is at its end")
		}
		c.value++
		return c.keep(tx, request.GetRequestId())
	})
	if err != nil {
		return nil, err
	}
	return c.message(), nil
}

// Raise keeps a version of a grant as the highest. A lower one than is kept changes nothing.
func (s *Service) Raise(ctx context.Context, request *controllerv1.RaiseLeaseRequest) (*controllerv1.LeaseCounter, error) {
	if request.GetVersion() > math.MaxInt64 {
		return nil, status.Errorf(codes.InvalidArgument, "version %d: at most %d", request.GetVersion(), math.MaxInt64)
	}
	var c counter
	err := s.DB.Update(ctx, func(tx *store.Tx) (err error) {
		if c, err = s.counter(ctx, tx, request.GetResult()); err != nil || c.version >= request.GetVersion() {
			return err
		}
		c.version = request.GetVersion()
		return c.write(tx)
	})
	if err != nil {
		return nil, err
	}
	return c.message(), nil
}

// counter is a host's counter, for the enclave that asks.
type counter struct {
	host, actor    string
	id             [sha256.Size]byte
	value, version uint64
}

// counter reads the counter of the calling enclave's host: one that was never written is at 0.
func (s *Service) counter(ctx context.Context, tx *store.Tx, result string) (counter, error) {
	enclave, err := s.Callers.Enclave(ctx, tx, result)
	if err != nil {
		return counter{}, err
	}
	identity, err := tx.Identity()
	if err != nil {
		return counter{}, err
	}
	c := counter{host: enclave.Host, actor: enclave.Actor, id: ID(identity, enclave.Host)}
	err = tx.Get([]any{&c.value, &c.version}, `SELECT counter, version FROM lease_counters WHERE host = ?`, c.host)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return c, err
}

func (c *counter) message() *controllerv1.LeaseCounter {
	return &controllerv1.LeaseCounter{Anchor: c.id[:], Counter: c.value, Version: c.version}
}

func (c *counter) aborted(expected uint64) error {
	s := status.Newf(codes.Aborted, "the counter of %s is at %d, expected %d: somebody else counted", c.host, c.value, expected)
	detailed, err := s.WithDetails(c.message())
	if err != nil {
		return err
	}
	return detailed.Err()
}

// repeated says whether the request was answered before, and sets the counter to what the answer was. Another caller's id, or one
// with another expectation, is a mistake: a step belongs to the caller that took it.
func (c *counter) repeated(tx *store.Tx, request *controllerv1.TakeLeaseRequest) (bool, error) {
	var caller string
	var value uint64
	err := tx.Get([]any{&caller, &value}, `SELECT caller, counter FROM lease_requests WHERE host = ? AND request = ?`, c.host, request.GetRequestId())
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if caller != c.actor || value-1 != request.GetExpected() {
		return false, status.Error(codes.InvalidArgument, "the request id was used for another step: draw a new one for each")
	}
	c.value = value
	return true, nil
}

// keep writes a step and its request, and forgets a request that is too old.
func (c *counter) keep(tx *store.Tx, request []byte) error {
	if err := c.write(tx); err != nil {
		return err
	}
	if err := tx.Exec(`INSERT INTO lease_requests (host, request, caller, counter) VALUES (?, ?, ?, ?)`, c.host, request, c.actor, int64(c.value)); err != nil {
		return err
	}
	if err := tx.Exec(`DELETE FROM lease_requests WHERE host = ? AND counter <= ?`, c.host, int64(c.value)-Retained); err != nil {
		return err
	}
	return tx.AuditOf(c.host, store.Entry{Actor: c.actor, Action: "lease.take", Subject: fmt.Sprintf("%s counter %d", c.host, c.value), Outcome: store.OK})
}

func (c *counter) write(tx *store.Tx) error {
	return tx.Exec(`INSERT INTO lease_counters (host, counter, version) VALUES (?, ?, ?)
		ON CONFLICT (host) DO UPDATE SET counter = excluded.counter, version = excluded.version`, c.host, int64(c.value), int64(c.version))
}
