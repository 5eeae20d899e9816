// Package secret hands credentials to attested enclaves, and to nobody else: the service raypher.controller.v1.Secrets.
//
// An operator puts a secret with the hosts and tiers that it is for. An enclave with a valid attestation result fetches what its
// host is granted, each value encrypted to a key that was born in the enclave and that its signing key signed (package recipient):
// what lies between, the host's parent among it, sees ciphertext. Whom a version was handed to is in the audit before it leaves; a
// value never is, nor does any call return one in the clear.
//
// Versions of a name go upwards for ever, also when the secret was deleted in between, so an enclave that has a version knows
// whether another is newer. In the database values are encrypted with a key from a file (Vault), so the database and its backups
// tell no value.
//
// The label of what is sealed for an enclave (recipient.Label) is name, version, host and end.
package secret

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/raypher/raypher/controller/caller"
	"github.com/raypher/raypher/controller/pattern"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/recipient"
)

// Bounds.
const (
	MaxSecrets = 1024               // that exist at once
	MaxName    = recipient.MaxName  // bytes
	MaxValue   = recipient.MaxValue // bytes
	// MaxReply bounds the values of one reply of Fetch, in bytes. What is left comes when the enclave asks again and says what it has.
	MaxReply = 2 << 20
)

// Options of a service.
type Options struct {
	DB      *store.DB
	Vault   *Vault
	Callers caller.Callers
	Now     func() time.Time // time.Now
}

// Service implements raypher.controller.v1.Secrets. Its methods may be called concurrently, by several processes on one database.
type Service struct {
	controllerv1.UnimplementedSecretsServer
	Options
}

// New begins to serve. It fails where the database has values of another key.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	err := o.DB.Update(ctx, func(tx *store.Tx) error {
		var id []byte
		err := tx.Get([]any{&id}, `SELECT id FROM secrets_key`)
		if errors.Is(err, sql.ErrNoRows) {
			return tx.Exec(`INSERT INTO secrets_key (one, id) VALUES (1, ?)`, o.Vault.id[:])
		}
		if err == nil && !slices.Equal(id, o.Vault.id[:]) {
			err = errors.New("the key of secrets is not the one that this database was filled with: copy the file of another replica, or from your backup")
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("secrets: %w", err)
	}
	return &Service{Options: o}, nil
}

// CheckName refuses what cannot be the name of a secret.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName || strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(".-_/", r))
	}) {
		return fmt.Errorf("name of a secret %.140q: use 1 to %d bytes of a-z A-Z 0-9 . - _ /", name, MaxName)
	}
	return nil
}

// row is a secret as the database has it.
type row struct {
	place
	put   int64  // milliseconds
	value []byte // sealed; nil: deleted
}

const columns = `name, version, hosts, tiers, expires, put, value`

func (r *row) dest() []any {
	return []any{&r.Name, &r.Version, &r.Hosts, &r.Tiers, &r.Expires, &r.put, &r.value}
}

// live are the secrets that are not deleted, by name.
func live(tx *store.Tx) (rows []row, err error) {
	err = tx.Each(func(scan func(...any) error) error {
		var r row
		defer func() { rows = append(rows, r) }()
		return scan(r.dest()...)
	}, `SELECT `+columns+` FROM secrets WHERE value IS NOT NULL`)
	slices.SortFunc(rows, func(a, b row) int { return strings.Compare(a.Name, b.Name) }) // each database has an order of its own
	return rows, err
}

// over says whether nobody is to have the secret any more.
func (r *row) over(now time.Time) bool { return r.Expires != 0 && now.Unix() >= r.Expires }

// Put makes a secret or a new version of it. For operators.
func (s *Service) Put(ctx context.Context, request *controllerv1.PutSecretRequest) (*controllerv1.SecretState, error) {
	actor, err := s.Callers.Operator(ctx)
	if err != nil {
		return nil, err
	}
	wanted, err := s.wanted(request)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	var r row
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		r = row{}
		err := tx.Get(r.dest(), `SELECT `+columns+` FROM secrets WHERE name = ?`, wanted.Name)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		made := r.value == nil
		if r, err = wanted.after(r); err != nil {
			return err
		}
		if made {
			var count int
			if err := tx.Get([]any{&count}, `SELECT COUNT(*) FROM secrets WHERE value IS NOT NULL`); err != nil {
				return err
			}
			if count >= MaxSecrets {
				return status.Errorf(codes.ResourceExhausted, "there are %d secrets, the most that are possible: delete some", count)
			}
		}
		r.put, r.value = store.Millis(s.Now()), s.Vault.seal(r.place, request.GetValue())
		if err := tx.Exec(`INSERT INTO secrets (`+columns+`) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET version = excluded.version, hosts = excluded.hosts, tiers = excluded.tiers, expires = excluded.expires,
			put = excluded.put, value = excluded.value`, r.Name, int64(r.Version), r.Hosts, r.Tiers, r.Expires, r.put, r.value); err != nil {
			return err
		}
		return tx.Audit(store.Entry{Actor: actor, Action: "secret.put", Subject: versioned(r.Name, r.Version), Outcome: store.OK})
	})
	if err != nil {
		return nil, err
	}
	return r.state(nil), nil
}

// wanted is what a request asks for; hosts or tiers that are empty are to stay as they are.
func (s *Service) wanted(request *controllerv1.PutSecretRequest) (place, error) {
	p := place{Name: request.GetName(), Expires: request.GetExpiresUnix()}
	if err := CheckName(p.Name); err != nil {
		return p, err
	}
	if n := len(request.GetValue()); n == 0 || n > MaxValue {
		return p, fmt.Errorf("secret %s: a value of %d bytes: use 1 to %d", p.Name, n, MaxValue)
	}
	if p.Expires < 0 || p.Expires != 0 && p.Expires <= s.Now().Unix() {
		return p, fmt.Errorf("secret %s: it ends at %s, which is over: give a later time, or 0 for no end", p.Name, time.Unix(p.Expires, 0).UTC().Format(time.RFC3339))
	}
	if len(request.GetHosts()) > 0 {
		hosts, err := pattern.Parse(request.GetHosts())
		if err != nil {
			return p, fmt.Errorf("secret %s: %w", p.Name, err)
		}
		p.Hosts = hosts.String()
	}
	tiers := slices.Compact(slices.Sorted(slices.Values(request.GetTiers())))
	for _, tier := range tiers {
		if tier != journal.TierNitro && tier != journal.TierTPM && tier != journal.TierSoftware {
			return p, fmt.Errorf("secret %s: tier %.32q: use nitro, tpm or software", p.Name, tier)
		}
	}
	p.Tiers = strings.Join(tiers, ",")
	return p, nil
}

// after is the next version of a secret. What a deleted one was granted to is not taken over.
func (p place) after(old row) (row, error) {
	if old.Version >= math.MaxInt64 {
		return row{}, status.Errorf(codes.FailedPrecondition, "secret %s: no version is left: use another name", p.Name)
	}
	p.Version = old.Version + 1
	rotated := old.value != nil
	if p.Hosts == "" && rotated {
		p.Hosts = old.Hosts
	}
	if p.Hosts == "" {
		return row{}, status.Errorf(codes.InvalidArgument, "secret %s is new: say for which hosts it is: `raypher fleet secret put` with --hosts", p.Name)
	}
	if p.Tiers == "" && rotated {
		p.Tiers = old.Tiers
	}
	if p.Tiers == "" {
		p.Tiers = journal.TierNitro + "," + journal.TierTPM
	}
	return row{place: p}, nil
}

func (r *row) state(held map[string]uint64) *controllerv1.SecretState {
	return &controllerv1.SecretState{
		Name: r.Name, Version: r.Version, Hosts: pattern.Stored(r.Hosts).List(), Tiers: strings.Split(r.Tiers, ","),
		PutUnix: r.put / 1000, ExpiresUnix: r.Expires, Held: held,
	}
}

// Delete takes a secret away. For operators.
func (s *Service) Delete(ctx context.Context, request *controllerv1.DeleteSecretRequest) (*controllerv1.DeleteSecretReply, error) {
	actor, err := s.Callers.Operator(ctx)
	if err != nil {
		return nil, err
	}
	if err := CheckName(request.GetName()); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		changed, err := tx.Change(`UPDATE secrets SET value = NULL WHERE name = ? AND value IS NOT NULL`, request.GetName())
		if err != nil {
			return err
		}
		if changed == 0 {
			return status.Errorf(codes.NotFound, "no secret %s: `raypher fleet secret list` shows what exists", request.GetName())
		}
		return tx.Audit(store.Entry{Actor: actor, Action: "secret.delete", Subject: request.GetName(), Outcome: store.OK})
	})
	if err != nil {
		return nil, err
	}
	return &controllerv1.DeleteSecretReply{}, nil
}

// List says what exists and who has which version, by name, in pages. For operators.
func (s *Service) List(ctx context.Context, request *controllerv1.ListSecretsRequest) (*controllerv1.ListSecretsReply, error) {
	if _, err := s.Callers.Operator(ctx); err != nil {
		return nil, err
	}
	reply := &controllerv1.ListSecretsReply{}
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		rows, err := live(tx)
		if err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(r row) bool { return r.Name <= request.GetAfter() })
		size := 0
		for i, r := range rows {
			held, err := heldBy(tx, r.Name)
			if err != nil {
				return err
			}
			state := r.state(held)
			if size += proto.Size(state); i > 0 && (size > MaxReply || i == int(request.GetLimit())) {
				reply.Next = rows[i-1].Name
				return nil
			}
			reply.Secrets = append(reply.Secrets, state)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// heldBy are the versions of a secret that hosts have acknowledged.
func heldBy(tx *store.Tx, name string) (map[string]uint64, error) {
	held := map[string]uint64{}
	err := tx.Each(func(scan func(...any) error) error {
		var host string
		var version uint64
		err := scan(&host, &version)
		held[host] = version
		return err
	}, `SELECT host, version FROM secrets_held WHERE name = ?`, name)
	return held, err
}

// versioned is how an audit names a version of a secret.
func versioned(name string, version uint64) string {
	return fmt.Sprintf("%s version %d", name, version)
}
