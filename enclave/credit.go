package enclave

import (
	"context"
	"encoding/hex"

	sequencer "github.com/raypher/raypher/enclave/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// onRecord is the journal as leases need it: nobody asks for a proof of them here.
type onRecord struct{ *sequencer.Sequencer }

// Append implements lease.Journal.
func (r onRecord) Append(ctx context.Context, entries ...[]byte) error {
	_, err := r.Sequencer.Append(ctx, entries...)
	return err
}

// InstallGrant implements the service. The grant is on record in the journal before it is in force.
func (s *Server) InstallGrant(ctx context.Context, r *enclavev1.InstallGrantRequest) (*enclavev1.GrantStatus, error) {
	g, err := s.spends.InstallGrant(ctx, r.GetGrant())
	if err != nil {
		return nil, err
	}
	s.opts.Log.Info("grant installed", "version", g.Version, "period", g.Period, "namespace", g.Namespace, "cap", g.Cap, "unit", g.Unit, "hash", hex.EncodeToString(g.Hash[:]))
	return s.DescribeGrant(ctx, nil)
}

// DescribeGrant implements the service.
func (s *Server) DescribeGrant(ctx context.Context, _ *enclavev1.DescribeGrantRequest) (*enclavev1.GrantStatus, error) {
	c, err := s.spends.Credit(ctx)
	if err != nil {
		return nil, err
	}
	status := &enclavev1.GrantStatus{
		Anchor: c.Anchor[:], AnchorTier: c.Tier, Counter: c.Counter, HighestVersion: c.Version, AnchorError: words(c.AnchorError),
		Taken: c.Taken, Open: c.Open, Left: c.Left, Closed: words(c.Closed),
	}
	if c.Grant != nil {
		status.Grant = c.Grant.Signed()
	}
	for _, g := range s.spends.GrantsAhead() {
		status.Ahead = append(status.Ahead, g.Signed())
	}
	return status, nil
}

func words(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
