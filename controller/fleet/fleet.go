// Package fleet is the operators' view of the fleet: the service raypher.controller.v1.Fleet. Operators name hosts, put golden measurements
// in force and read the audit; parents report how their hosts do.
package fleet

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/result"
	"github.com/raypher/raypher/controller/attestation"
	"github.com/raypher/raypher/controller/caller"
	"github.com/raypher/raypher/controller/host"
	"github.com/raypher/raypher/controller/store"
	"github.com/raypher/raypher/journal"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// Bounds.
const (
	MaxHosts    = 10_000
	MaxPolicies = 256 // in a report
	MaxVersion  = 128 // bytes, in a report
	MaxName     = 128 // bytes, of a policy in a report
	MaxEntries  = 1000
	MaxPage     = 500 // hosts in a reply
	// maxPageBytes bounds them too: a host that reports many policies takes some tens of KiB.
	maxPageBytes = 2 << 20
)

// Options of a service.
type Options struct {
	DB         *store.DB
	Callers    caller.Callers
	References *attestation.References
	// AllowSoftware takes hosts of tier software.
	AllowSoftware bool
	Now           func() time.Time // nil: time.Now
}

// Service implements raypher.controller.v1.Fleet. Its methods may be called concurrently, by several processes on one database.
type Service struct {
	controllerv1.UnimplementedFleetServer
	Options
}

// New begins to serve.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Service{Options: o}
}

func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// AddHost names a host, or with reset forgets the identity of one. A host that is there already with the same tier and key stays as it is.
func (s *Service) AddHost(ctx context.Context, request *controllerv1.AddHostRequest) (*controllerv1.Host, error) {
	actor, err := s.Callers.Operator(ctx)
	if err != nil {
		return nil, err
	}
	if err := result.CheckHost(request.GetName()); err != nil {
		return nil, invalid("%v", err)
	}
	if err := s.checkTier(request.GetTier()); err != nil {
		return nil, err
	}
	key, err := startconf.ParseKeyHash(request.GetCallerKey())
	if err != nil {
		return nil, invalid("caller key: %v: `raypherd --caller-key` prints the one of a host", err)
	}
	var h *host.Host
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		action := "host.add"
		var err error
		h, err = host.Named(tx, request.GetName())
		switch {
		case errors.Is(err, host.ErrUnknown) && request.GetReset_(): // a name that was mistyped makes no host
			return status.Errorf(codes.NotFound, "there is no host %q to reset: `raypher fleet status` lists them; to add it, leave --reset away", request.GetName())
		case errors.Is(err, host.ErrUnknown):
			h = &host.Host{Name: request.GetName()}
			if err := room(tx); err != nil {
				return err
			}
		case err != nil:
			return err
		case request.GetReset_():
			action, h = "host.reset", &host.Host{Name: h.Name, Seen: h.Seen, Agents: h.Agents, Version: h.Version, Policies: h.Policies}
		case h.Tier == request.GetTier() && h.CallerKey == key.String():
			return nil
		default:
			return status.Errorf(codes.AlreadyExists, "host %s is there, of tier %s with caller key %s: to change it, and forget the machine that it is bound to, say --reset", h.Name, h.Tier, h.CallerKey)
		}
		if other, err := host.OfParent(tx, key.String()); err == nil && other.Name != h.Name {
			return status.Errorf(codes.AlreadyExists, "caller key %s is that of host %s: `raypherd --caller-key` prints the one of a host; `raypher fleet remove %s` frees it", key, other.Name, other.Name)
		} else if err != nil && !errors.Is(err, host.ErrUnknown) {
			return err
		}
		h.Tier, h.CallerKey, h.Verdict = request.GetTier(), key.String(), host.None
		if err := h.Save(tx); err != nil {
			return err
		}
		return tx.Audit(store.Entry{Actor: actor, Action: action, Subject: h.Name, Outcome: store.OK})
	})
	if err != nil {
		return nil, err
	}
	return message(h, 0), nil
}

func (s *Service) checkTier(tier string) error {
	switch tier {
	case journal.TierNitro, journal.TierTPM:
		return nil
	case journal.TierSoftware:
		if s.AllowSoftware {
			return nil
		}
		return invalid("tier software proves nothing: this controller was started without --allow-software")
	}
	return invalid("tier %.32q: use nitro or tpm, or software where the controller takes it (--allow-software)", tier)
}

func room(tx *store.Tx) error {
	var count int
	if err := tx.Get([]any{&count}, `SELECT COUNT(*) FROM hosts`); err != nil {
		return err
	}
	if count >= MaxHosts {
		return status.Errorf(codes.ResourceExhausted, "%d hosts: no more than that", count)
	}
	return nil
}

// RemoveHost takes a host away; its enclave gets nothing more.
func (s *Service) RemoveHost(ctx context.Context, request *controllerv1.RemoveHostRequest) (*controllerv1.RemoveHostReply, error) {
	actor, err := s.Callers.Operator(ctx)
	if err != nil {
		return nil, err
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		if err := host.Remove(tx, request.GetName()); err != nil {
			return err
		}
		return tx.Audit(store.Entry{Actor: actor, Action: "host.remove", Subject: request.GetName(), Outcome: store.OK})
	})
	if errors.Is(err, host.ErrUnknown) {
		return nil, status.Errorf(codes.NotFound, "there is no host %.140q: `raypher fleet status` lists them", request.GetName())
	}
	if err != nil {
		return nil, err
	}
	return &controllerv1.RemoveHostReply{}, nil
}

// Hosts lists the hosts by name, in pages.
func (s *Service) Hosts(ctx context.Context, request *controllerv1.HostsRequest) (*controllerv1.HostsReply, error) {
	if _, err := s.Callers.Operator(ctx); err != nil {
		return nil, err
	}
	limit := int(min(request.GetLimit(), MaxPage))
	if limit == 0 {
		limit = MaxPage
	}
	reply := &controllerv1.HostsReply{}
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		hosts, err := host.After(tx, request.GetAfter(), limit+1)
		if err != nil {
			return err
		}
		size := 0
		for i, h := range hosts {
			var counter uint64
			err := tx.Get([]any{&counter}, `SELECT counter FROM lease_counters WHERE host = ?`, h.Name)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			m := message(h, counter)
			if size += proto.Size(m); i == limit || i > 0 && size > maxPageBytes {
				reply.Next = hosts[i-1].Name
				break
			}
			reply.Hosts = append(reply.Hosts, m)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

func message(h *host.Host, counter uint64) *controllerv1.Host {
	m := &controllerv1.Host{
		Name: h.Name, Tier: h.Tier, CallerKey: h.CallerKey, EnclaveKey: h.EnclaveKey, Identity: h.Identity, Verdict: h.Verdict,
		AttestedUnix: unix(h.Attested), ResultExpiresUnix: unix(h.ResultExpires), SeenUnix: unix(h.Seen), Measurements: h.Measurements,
		Configuration: h.Configuration, CeilingVersion: h.CeilingVersion, Agents: h.Agents, Version: h.Version, LeaseCounter: counter,
	}
	var policies []policy
	if h.Policies != "" && json.Unmarshal([]byte(h.Policies), &policies) == nil {
		for _, p := range policies {
			m.Policies = append(m.Policies, &controllerv1.PolicyVersion{Name: p.Name, Version: p.Version})
		}
	}
	return m
}

func unix(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// PutMeasurements puts a signed list of golden measurements in force.
func (s *Service) PutMeasurements(ctx context.Context, request *controllerv1.PutMeasurementsRequest) (*controllerv1.PutMeasurementsReply, error) {
	actor, err := s.Callers.Operator(ctx)
	if err != nil {
		return nil, err
	}
	var list *golden.List
	err = s.DB.Update(ctx, func(tx *store.Tx) (err error) {
		if list, err = s.References.Put(tx, request.GetList()); err != nil {
			return err
		}
		return tx.Audit(store.Entry{Actor: actor, Action: "measurements.put", Subject: fmt.Sprintf("version %d", list.Version), Outcome: store.OK})
	})
	var refusal *attest.Refusal
	switch {
	case errors.As(err, &refusal):
		code := codes.PermissionDenied
		if refusal.Check == golden.CheckVersion {
			code = codes.FailedPrecondition
		}
		next := ""
		if refusal.Check == golden.CheckSignature {
			next = ": sign the list with the key of a --golden-key of this controller, or start it with that one too"
		}
		return nil, status.Error(code, refusal.Error()+next)
	case errors.Is(err, golden.ErrMalformed):
		return nil, invalid("%v: make the list with `raypher attest golden sign`", err)
	case err != nil:
		return nil, err
	}
	return &controllerv1.PutMeasurementsReply{Version: list.Version}, nil
}

// Audit returns entries, oldest first.
func (s *Service) Audit(ctx context.Context, request *controllerv1.AuditRequest) (*controllerv1.AuditReply, error) {
	if _, err := s.Callers.Operator(ctx); err != nil {
		return nil, err
	}
	limit := int(min(request.GetLimit(), MaxEntries))
	if limit == 0 {
		limit = MaxEntries
	}
	reply := &controllerv1.AuditReply{}
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		entries, err := tx.Entries(request.GetFrom(), limit)
		for _, e := range entries {
			reply.Entries = append(reply.Entries, &controllerv1.AuditEntry{
				Number: e.Number, TimeUnixMs: e.Time.UnixMilli(), Actor: e.Actor, Action: e.Action, Subject: e.Subject, Outcome: e.Outcome,
			})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// policy is how the table of hosts has a policy that a host works with.
type policy struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"`
}

// Report keeps what a parent says of its host.
func (s *Service) Report(ctx context.Context, request *controllerv1.ReportRequest) (*controllerv1.ReportReply, error) {
	if len(request.GetVersion()) > MaxVersion || len(request.GetPolicies()) > MaxPolicies || request.GetCeilingVersion() >= 1<<63 {
		return nil, invalid("report: a version of at most %d bytes and at most %d policies", MaxVersion, MaxPolicies)
	}
	policies := []policy{}
	for _, p := range request.GetPolicies() {
		if len(p.GetName()) > MaxName {
			return nil, invalid("report: the name of a policy has %d bytes, at most %d", len(p.GetName()), MaxName)
		}
		policies = append(policies, policy{p.GetName(), p.GetVersion()})
	}
	text, err := json.Marshal(policies)
	if err != nil {
		return nil, err
	}
	err = s.DB.Update(ctx, func(tx *store.Tx) error {
		name, err := s.Callers.Parent(ctx, tx)
		if err != nil {
			return err
		}
		h, err := host.Named(tx, name)
		if err != nil {
			return err
		}
		h.Seen, h.Agents, h.Version, h.Policies = s.Now(), request.GetAgents(), request.GetVersion(), string(text)
		if h.Attested.IsZero() { // an attested enclave has said it itself
			h.CeilingVersion = request.GetCeilingVersion()
		}
		return h.Save(tx)
	})
	if err != nil {
		return nil, err
	}
	return &controllerv1.ReportReply{}, nil
}
