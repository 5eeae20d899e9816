package distribution

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/controller/store"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/release"
)

// Ceiling returns the ceiling for the calling enclave's host, if its version is higher than what the enclave has.
func (s *Service) Ceiling(ctx context.Context, request *controllerv1.CeilingRequest) (*controllerv1.CeilingReply, error) {
	reply := &controllerv1.CeilingReply{}
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		enclave, err := s.Callers.Enclave(ctx, tx, "")
		if err != nil {
			return err
		}
		all, err := rows(tx, KindCeiling)
		if err != nil {
			return err
		}
		var best *row
		for i, r := range all {
			if r.hosts.Has(enclave.Host) && (best == nil || r.version > best.version || r.version == best.version && r.put > best.put) {
				best = &all[i]
			}
		}
		if best == nil || best.version <= request.GetVersion() {
			return nil
		}
		reply.Bundle, err = bundle(tx, best)
		return err
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// maxHeld bounds what a host may say that it holds: it may not have forgotten the older ones yet.
const maxHeld = 8 * release.MaxHeld

// Policies returns what the calling parent's host should have: of each name the highest version that is for this host, and while
// that is a canary the one that the other agents have. A bundle stays empty where the host holds the version, and where the
// reply is full: then the host asks again.
func (s *Service) Policies(ctx context.Context, request *controllerv1.PoliciesRequest) (*controllerv1.PoliciesReply, error) {
	if len(request.GetHeld()) > maxHeld {
		return nil, status.Errorf(codes.InvalidArgument, "%d policies held: name those in use, at most %d", len(request.GetHeld()), maxHeld)
	}
	reply := &controllerv1.PoliciesReply{ValidSeconds: int64(s.Offline / time.Second)}
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		host, err := s.Callers.Parent(ctx, tx)
		if err != nil {
			return err
		}
		all, err := rows(tx, KindPolicy)
		if err != nil {
			return err
		}
		size := 0
		for _, r := range due(all, host) {
			out := &controllerv1.PolicyRelease{Name: r.name, Version: r.version, CanaryPercent: r.canary}
			reply.Policies = append(reply.Policies, out)
			if slices.ContainsFunc(request.GetHeld(), func(p *controllerv1.PolicyVersion) bool {
				return p.GetName() == r.name && p.GetVersion() == r.version
			}) {
				continue
			}
			file, err := bundle(tx, &r)
			if err != nil {
				return err
			}
			if size += len(file); size <= MaxReply {
				out.Bundle = file
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// due are the releases that a host should have, from all that there are, the highest version of each name first.
func due(all []row, host string) (out []row) {
	const (
		wantNewest = iota
		wantForEveryone
		wantNoMore
	)
	want := wantNewest
	for i, r := range all {
		if i > 0 && all[i-1].name != r.name {
			want = wantNewest
		}
		if want == wantNoMore || !r.hosts.Has(host) || want == wantForEveryone && r.canary < release.Everyone {
			continue
		}
		out = append(out, r)
		want = wantForEveryone
		if r.canary == release.Everyone {
			want = wantNoMore
		}
	}
	return out
}

// SetCanary changes how many percent of agents get the newest version of a policy. For operators.
func (s *Service) SetCanary(ctx context.Context, request *controllerv1.SetCanaryRequest) (*controllerv1.Release, error) {
	actor, err := s.Callers.Operator(ctx)
	if err != nil {
		return nil, err
	}
	name, percent := request.GetName(), request.GetCanaryPercent()
	if err := release.CheckName(name); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if percent < 1 || percent > release.Everyone {
		return nil, status.Errorf(codes.InvalidArgument, "canary of %d percent: use 1 to %d; to take a version back, release the older policy under a higher version", percent, release.Everyone)
	}
	var r *row
	err = s.DB.Update(ctx, func(tx *store.Tx) (err error) {
		if r, err = newest(tx, KindPolicy, name); err != nil {
			return err
		}
		if r == nil {
			return status.Errorf(codes.NotFound, "no policy %s: `raypher fleet release list` shows what exists", name)
		}
		if r.canary == percent {
			return nil
		}
		if r.canary == release.Everyone {
			return status.Errorf(codes.FailedPrecondition, "policy %s version %d is for everyone and hosts no longer keep the one before: release the older policy under a higher version", name, r.version)
		}
		r.canary = percent
		if err := tx.Exec(`UPDATE releases SET canary = ? WHERE kind = ? AND name = ? AND version = ?`, int64(percent), r.kind, r.name, int64(r.version)); err != nil {
			return err
		}
		return tx.Audit(store.Entry{Actor: actor, Action: "policy.canary", Subject: r.said(), Outcome: store.OK})
	})
	if err != nil {
		return nil, err
	}
	return r.message(), nil
}

// Releases lists what was released, the newest of each name first. For operators.
func (s *Service) Releases(ctx context.Context, _ *controllerv1.ReleasesRequest) (*controllerv1.ReleasesReply, error) {
	if _, err := s.Callers.Operator(ctx); err != nil {
		return nil, err
	}
	reply := &controllerv1.ReleasesReply{}
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		for _, kind := range []string{KindCeiling, KindPolicy} {
			all, err := rows(tx, kind)
			if err != nil {
				return err
			}
			for _, r := range all[:min(len(all), MaxListed/2)] {
				reply.Releases = append(reply.Releases, r.message())
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}
