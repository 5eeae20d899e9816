// Package distribution hands the ceilings and policies that operators signed to the hosts that they are for: the service
// raypher.controller.v1.Distribution. It can hold one back and can not make or change one: enclaves check the signature of a
// ceiling, parents that of a policy (package release), each against the operator keys that it was given. Where the controller was
// given operator keys too it refuses what hosts would refuse.
//
// Versions go upwards: of a ceiling per set of host patterns, of a policy per name. Of several ceilings for a host the one of the
// highest version is handed out, because an enclave goes to no lower one; of two with the same version the one that was put last.
//
// A policy that is put with a percentage below 100 is a canary: release.Covers says which agents are to have it, the others have
// the highest version that was for everyone. While a canary lasts a further version takes its place only for the same hosts and at
// least as many agents, so that no agent goes back and forth.
package distribution

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/caller"
	"github.com/raypher/raypher/controller/pattern"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/enclave/ceiling"
	"github.com/raypher/raypher/internal/sign1"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/release"
)

// Kinds of releases.
const (
	KindCeiling = "ceiling"
	KindPolicy  = "policy"
)

// Bounds.
const (
	MaxListed = 2000 // releases in one reply of Releases, the newest
	// MaxReply bounds the bundles in one reply of Policies, in bytes. What is left comes when the host asks again and says what it holds.
	MaxReply = 2 << 20
	// DefaultOffline is how long a host works on with its policies when the controller is away: over a weekend.
	DefaultOffline = 72 * time.Hour
)

// Options of a service.
type Options struct {
	DB           *store.DB
	Callers      caller.Callers
	OperatorKeys [][]byte         // PKIX DER, of those who sign ceilings and policies; none: signatures are left to the hosts
	Offline      time.Duration    // 0: DefaultOffline
	Now          func() time.Time // nil: time.Now
}

// Service implements raypher.controller.v1.Distribution. Its methods may be called concurrently, by several processes on one database.
type Service struct {
	controllerv1.UnimplementedDistributionServer
	Options
}

// New begins to serve.
func New(o Options) *Service {
	if o.Offline == 0 {
		o.Offline = DefaultOffline
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{Options: o}
}

// row is a release as the database has it, without its bundle.
type row struct {
	kind, name string
	version    uint64
	hosts      pattern.Set
	canary     uint32 // percent
	put        int64  // milliseconds
	sum        []byte // SHA-256 of the bundle
}

const columns = `kind, name, version, hosts, canary, put, sha256`

func (r *row) scan(scan func(...any) error) error {
	var hosts string
	err := scan(&r.kind, &r.name, &r.version, &hosts, &r.canary, &r.put, &r.sum)
	r.hosts = pattern.Stored(hosts)
	return err
}

func (r *row) message() *controllerv1.Release {
	return &controllerv1.Release{
		Kind: r.kind, Name: r.name, Version: r.version, Hosts: r.hosts.List(), CanaryPercent: r.canary, PutUnix: r.put / 1000,
		Sha256: hex.EncodeToString(r.sum),
	}
}

// rows are releases of a kind, the highest version of each name first.
func rows(tx *store.Tx, kind string) (all []row, err error) {
	err = tx.Each(func(scan func(...any) error) error {
		var r row
		if err := r.scan(scan); err != nil {
			return err
		}
		all = append(all, r)
		return nil
	}, `SELECT `+columns+` FROM releases WHERE kind = ? ORDER BY name, version DESC`, kind)
	return all, err
}

// newest is the highest version of a name; nil: there is none.
func newest(tx *store.Tx, kind, name string) (*row, error) {
	r := &row{}
	err := r.scan(func(dest ...any) error {
		return tx.Get(dest, `SELECT `+columns+` FROM releases WHERE kind = ? AND name = ? ORDER BY version DESC LIMIT 1`, kind, name)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return r, err
}

func bundle(tx *store.Tx, r *row) (bundle []byte, err error) {
	err = tx.Get([]any{&bundle}, `SELECT bundle FROM releases WHERE kind = ? AND name = ? AND version = ?`, r.kind, r.name, int64(r.version))
	return bundle, err
}

// PutCeiling releases a ceiling. For operators.
func (s *Service) PutCeiling(ctx context.Context, request *controllerv1.PutCeilingRequest) (*controllerv1.Release, error) {
	actor, err := s.Callers.Operator(ctx)
	if err != nil {
		return nil, err
	}
	hosts, err := pattern.Parse(request.GetHosts())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	c, key, err := ceiling.Read(request.GetBundle())
	if err == nil && len(s.OperatorKeys) > 0 {
		_, err = ceiling.Open(request.GetBundle(), s.OperatorKeys)
	}
	if err != nil {
		return nil, refused(KindCeiling, key, err)
	}
	r := &row{kind: KindCeiling, name: hosts.String(), version: c.Version, hosts: hosts, canary: release.Everyone}
	return s.put(ctx, actor, r, request.GetBundle())
}

// PutPolicy releases a policy. For operators.
func (s *Service) PutPolicy(ctx context.Context, request *controllerv1.PutPolicyRequest) (*controllerv1.Release, error) {
	actor, err := s.Callers.Operator(ctx)
	if err != nil {
		return nil, err
	}
	hosts, err := pattern.Parse(request.GetHosts())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	percent := request.GetCanaryPercent()
	if percent == 0 {
		percent = release.Everyone
	}
	if percent > release.Everyone {
		return nil, status.Errorf(codes.InvalidArgument, "canary of %d percent: use 1 to %d", percent, release.Everyone)
	}
	p, key, err := release.Read(request.GetBundle())
	if err == nil && len(s.OperatorKeys) > 0 {
		_, err = release.Open(request.GetBundle(), s.OperatorKeys)
	}
	if err != nil {
		return nil, refused(KindPolicy, key, err)
	}
	if p.Over(s.Now()) {
		return nil, status.Errorf(codes.InvalidArgument, "policy %s version %d was for use until %s: sign it again", p.Name, p.Version, p.NotAfter.UTC().Format(time.RFC3339))
	}
	r := &row{kind: KindPolicy, name: p.Name, version: p.Version, hosts: hosts, canary: percent}
	return s.put(ctx, actor, r, request.GetBundle())
}

// refused says why a file is not released. key is the one that it names.
func refused(kind string, key [32]byte, err error) error {
	switch {
	case errors.Is(err, sign1.ErrUnknownKey):
		return status.Errorf(codes.PermissionDenied, "the %s is signed by sha256:%x, which is no --ceiling-key of this controller: sign it with a key that is one, or start the controller with that one too", kind, key)
	case errors.Is(err, sign1.ErrSignature):
		return status.Errorf(codes.PermissionDenied, "the %s: %v: sign it again", kind, err)
	}
	return status.Error(codes.InvalidArgument, err.Error())
}

// put writes a release if its version goes upwards. The same one again, for the same hosts, changes nothing.
func (s *Service) put(ctx context.Context, actor string, r *row, bundle []byte) (*controllerv1.Release, error) {
	if r.version > math.MaxInt64 {
		return nil, status.Errorf(codes.InvalidArgument, "version %d: at most %d", r.version, math.MaxInt64)
	}
	sum := sha256.Sum256(bundle)
	r.sum, r.put = sum[:], store.Millis(s.Now())
	var reply *controllerv1.Release
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		before, err := newest(tx, r.kind, r.name)
		if err != nil {
			return err
		}
		if before != nil && before.same(r) {
			reply = before.message()
			return nil
		}
		if err := follows(tx, before, r); err != nil {
			return err
		}
		if err := tx.Exec(`INSERT INTO releases (`+columns+`, bundle) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			r.kind, r.name, int64(r.version), r.hosts.String(), int64(r.canary), r.put, r.sum, bundle); err != nil {
			return err
		}
		reply = r.message()
		return tx.Audit(store.Entry{Actor: actor, Action: r.kind + ".put", Subject: r.said(), Outcome: store.OK})
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

func (r *row) same(other *row) bool {
	return r.version == other.version && string(r.sum) == string(other.sum) && r.hosts.String() == other.hosts.String() && r.canary == other.canary
}

// said is how an audit names a release.
func (r *row) said() string {
	text := fmt.Sprintf("%s version %d sha256:%x", r.name, r.version, r.sum)
	if r.kind == KindPolicy {
		text += fmt.Sprintf(" for %d %% on %s", r.canary, r.hosts)
	}
	return text
}

// follows refuses what may not come after the newest release of its name; before is nil where it is the first.
func follows(tx *store.Tx, before, r *row) error {
	switch {
	case before == nil:
	case r.version <= before.version:
		return status.Errorf(codes.FailedPrecondition, "%s %s: version %d was released before: raise the version of this one, %d, and sign it again", r.kind, r.name, before.version, r.version)
	case before.canary < release.Everyone && (r.canary < before.canary || r.hosts.String() != before.hosts.String()):
		return status.Errorf(codes.FailedPrecondition,
			"policy %s: the canary of version %d, %d percent on %s, lasts: release this one to the same hosts and at least as many percent, or end the canary with `raypher fleet release canary %s 100`",
			r.name, before.version, before.canary, before.hosts, r.name)
	}
	if r.kind == KindPolicy {
		return room(tx, r)
	}
	return nil
}

// room refuses a policy that a host of all names might have to keep beside more than it can.
func room(tx *store.Tx, r *row) error {
	all, err := rows(tx, r.kind)
	if err != nil {
		return err
	}
	held := func(r *row) int {
		if r.canary < release.Everyone {
			return 2
		}
		return 1
	}
	needed := held(r)
	for i := range all {
		if all[i].name != r.name && (i == 0 || all[i-1].name != all[i].name) {
			needed += held(&all[i])
		}
	}
	if needed > release.MaxHeld {
		return status.Errorf(codes.ResourceExhausted, "hosts keep %d releases, and with this one there could be %d: end canaries, or use one of the names that there are", release.MaxHeld, needed)
	}
	return nil
}
