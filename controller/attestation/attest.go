package attestation

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/raypher/raypher/attest"
	"github.com/raypher/raypher/attest/golden"
	"github.com/raypher/raypher/attest/result"
	"github.com/raypher/raypher/controller/host"
	"github.com/raypher/raypher/controller/peer"
	"github.com/raypher/raypher/controller/store"
	controllerv1 "github.com/raypher/raypher/proto/controller/v1"
	"github.com/raypher/raypher/startconf"
)

// action names attestations in the audit.
const action = "attest"

var hashForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Attest appraises evidence and returns the result of it.
func (s *Service) Attest(ctx context.Context, request *controllerv1.AttestRequest) (*controllerv1.AttestReply, error) {
	p, err := enclave(ctx)
	if err != nil {
		return nil, err
	}
	if h := request.GetCeilingHash(); (h == "") != (request.GetCeilingVersion() == 0) || h != "" && !hashForm.MatchString(h) || request.GetCeilingVersion() >= 1<<63 {
		return nil, status.Error(codes.InvalidArgument, "ceiling: give a version and the hex SHA-256, or neither")
	}
	list, err := s.begin(ctx, request, p)
	if err != nil {
		return nil, refused(err)
	}
	found, err := s.appraise(request, p, list)
	var reply *controllerv1.AttestReply
	if err == nil {
		reply, err = s.bind(ctx, request, p, found)
	}
	if err != nil {
		return nil, refused(s.record(ctx, request, p, err))
	}
	return reply, nil
}

// begin reads what the appraisal needs, and refuses early what would be refused in the end: a signature is work.
func (s *Service) begin(ctx context.Context, request *controllerv1.AttestRequest, p *peer.Peer) (list *golden.List, err error) {
	err = s.DB.View(ctx, func(tx *store.Tx) error {
		if err := s.waits(tx, request.GetNonce(), p); err != nil {
			return err
		}
		list, err = s.References.Current(tx)
		if errors.Is(err, ErrNoReferences) { // the appraisal says so where it needs one
			list, err = nil, nil
		}
		return err
	})
	return list, err
}

// bind uses the nonce, holds what was found against the host, and puts the result on record: all or nothing.
func (s *Service) bind(ctx context.Context, request *controllerv1.AttestRequest, p *peer.Peer, f *findings) (*controllerv1.AttestReply, error) {
	now := s.Now()
	var reply *controllerv1.AttestReply
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		if err := s.use(tx, request.GetNonce(), p); err != nil {
			return err
		}
		h, err := s.hostOf(tx, f)
		if err != nil {
			return err
		}
		r := s.result(request, h, f, now)
		token, err := result.Sign(r, s.Keys.Signing)
		if err != nil {
			return err
		}
		action := action
		if h.Identity == "" {
			action = "attest.bind"
		}
		h.Identity, h.EnclaveKey, h.Epoch = f.identity, p.Key.String(), f.Epoch[:]
		h.Verdict, h.Judged, h.Attested, h.ResultExpires = host.Affirming, now, now, r.Expires
		h.Measurements, h.Configuration, h.CeilingVersion = f.Golden, hex.EncodeToString(f.ConfigurationHash[:]), request.GetCeilingVersion()
		if err := h.Save(tx); err != nil {
			return err
		}
		reply = &controllerv1.AttestReply{Result: token, ExpiresUnix: r.Expires.Unix()}
		return tx.AuditOf(h.Name, store.Entry{Actor: p.Key.String(), Action: action, Subject: h.Name, Outcome: store.OK})
	})
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// hostOf is the host that evidence is of, if it may be.
func (s *Service) hostOf(tx *store.Tx, f *findings) (*host.Host, error) {
	h, err := host.OfParent(tx, f.callerKey.String())
	if errors.Is(err, host.ErrUnknown) {
		return nil, attest.Refuse(CheckHost, "no host has the caller key %s that the configuration names: an operator adds one with `raypher fleet add`", f.callerKey)
	}
	if err != nil {
		return nil, err
	}
	if h.Tier != f.Tier {
		return nil, attest.Refuse(CheckTier, "host %s is of tier %s, the evidence of tier %s", h.Name, h.Tier, f.Tier)
	}
	if err := checkIdentity(h, f.identity); err != nil {
		return nil, err
	}
	machine, _, _ := strings.Cut(f.identity, akInIdentity) // who has a TPM makes as many keys in it as he likes
	other, err := host.Taken(tx, h.Name, machine, startconf.KeyHash(f.Key.ID()).String())
	if err == nil && other != "" {
		err = attest.Refuse(CheckIdentity, "this machine or its key is host %s already: one machine is one host", other)
	}
	return h, err
}

func checkIdentity(h *host.Host, identity string) error {
	if h.Identity != "" && h.Identity != identity {
		return attest.Refuse(CheckIdentity, "host %s is bound to %q, this is %q: where the machine was changed on purpose an operator says `raypher fleet add %s --reset`",
			h.Name, h.Identity, identity, h.Name)
	}
	return nil
}

func (s *Service) result(request *controllerv1.AttestRequest, h *host.Host, f *findings, now time.Time) *result.Result {
	issued := now.UTC().Truncate(time.Second)
	return &result.Result{
		Issuer: s.Issuer, Build: s.Build, TrustDomain: s.TrustDomain, Host: h.Name, Tier: f.Tier, Key: f.Key, Epoch: f.Epoch,
		Configuration: f.ConfigurationHash, Measurements: f.Golden, GoldenVersion: f.golden, Instance: f.instance,
		CeilingVersion: request.GetCeilingVersion(), CeilingHash: request.GetCeilingHash(),
		Nonce: request.GetNonce(), Issued: issued, Expires: issued.Add(s.Lifetime),
	}
}

// record uses up the nonce of refused evidence and says in the audit what was refused, where the evidence names a host. It returns the
// error with which the call ends.
func (s *Service) record(ctx context.Context, request *controllerv1.AttestRequest, p *peer.Peer, cause error) error {
	var refusal *attest.Refusal
	if !errors.As(cause, &refusal) {
		return cause
	}
	var subject string
	err := s.DB.Update(ctx, func(tx *store.Tx) error {
		subject = ""
		if err := s.use(tx, request.GetNonce(), p); err != nil {
			return err // another replica was faster with the same nonce
		}
		h, err := claimedHost(tx, request)
		if err != nil || h == nil {
			return err
		}
		subject = h.Name
		return s.fold(tx, h, store.Entry{Actor: p.Key.String(), Action: action, Subject: h.Name, Outcome: refusal.Error()}, refusal.Check)
	})
	s.Log.Warn("evidence refused", "caller", p.Key.String(), "host", subject, "why", refusal.Error())
	if err != nil {
		return err
	}
	return cause
}

// fold puts a refusal on record, at most one a minute of a host: strangers choose them.
func (s *Service) fold(tx *store.Tx, h *host.Host, e store.Entry, check attest.Check) error {
	now := s.Now()
	if h.Verdict != host.Affirming && h.Verdict != host.None && now.Sub(h.Judged) < refusalPause {
		return nil
	}
	// What the last good evidence proved holds until its result ends: a stranger who claims this configuration cannot take it away.
	h.Verdict, h.Judged = string(check), now
	if err := h.Save(tx); err != nil {
		return err
	}
	return tx.Audit(e)
}

// claimedHost is the host whose caller key the configuration in a request names. Nothing of it is proven. Nil: none.
func claimedHost(tx *store.Tx, request *controllerv1.AttestRequest) (*host.Host, error) {
	c, err := startconf.Parse("configuration", request.GetConfiguration())
	if err != nil || len(c.CallerKeys) == 0 {
		return nil, nil
	}
	h, err := host.OfParent(tx, c.CallerKeys[0].String())
	if errors.Is(err, host.ErrUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("host: %w", err)
	}
	return h, nil
}
