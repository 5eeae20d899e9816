package enclave

import (
	"context"
	"crypto/tls"
	"errors"
	"sync"

	"github.com/raypher/raypher/enclave/fleet"
	"github.com/raypher/raypher/enclave/lease"
	"github.com/raypher/raypher/enclave/mint"
	"github.com/raypher/raypher/journal"
	enclavev1 "github.com/raypher/raypher/proto/enclave/v1"
)

// openFleet prepares the exchange with the controller, if the start configuration names one.
func (s *Server) openFleet(certificate tls.Certificate) (err error) {
	if s.opts.Configuration.Controller == "" {
		return nil
	}
	s.fleet, err = fleet.New(fleet.Options{
		Configuration: s.opts.Configuration, Dial: s.dial.DialContext, InstanceDocument: s.dial.InstanceDocument, Certificate: certificate, Signer: s.opts.Signer, Epoch: s.epoch,
		State: s.opts.State, Host: s.opts.Host, Log: s.opts.Log,
		Ceiling: func() (uint64, journal.Hash) {
			c, err := s.ceiling.Current()
			if err != nil {
				return 0, journal.Hash{}
			}
			return c.Version, c.Hash
		},
		InstallCeiling: func(ctx context.Context, bundle []byte) error {
			_, err := s.InstallCeiling(ctx, &enclavev1.InstallCeilingRequest{Bundle: bundle})
			return err
		},
	})
	return err
}

// anchor is where leases are counted: in a TPM, else at the controller, else where the options say.
func (s *Server) anchor() lease.Anchor {
	given := s.opts.Leases
	switch {
	case s.fleet != nil && (given == nil || given.Tier() != journal.TierTPM):
		return s.fleet.Anchor()
	case given == nil:
		return lease.None(s.opts.Signer.Tier(), errors.New("this enclave was started without one"))
	}
	return given
}

// attested is what a ceiling with require_attestation asks for; nil: there is no controller.
func (s *Server) attested() mint.Attested {
	if s.fleet == nil {
		return nil
	}
	return s.fleet.Attested
}

// exchange gets what comes from outside, of the controller and of KMS, until ctx ends.
func (s *Server) exchange(ctx context.Context) {
	var both sync.WaitGroup
	if s.fleet != nil {
		both.Go(func() { s.fleet.Run(ctx) })
	}
	if s.kms != nil {
		both.Go(func() { s.kms.Run(ctx) })
	}
	both.Wait()
}

// DescribeFleet implements the service.
func (s *Server) DescribeFleet(context.Context, *enclavev1.DescribeFleetRequest) (*enclavev1.FleetStatus, error) {
	state := &enclavev1.FleetStatus{}
	if s.fleet != nil {
		state = s.fleet.Status()
	}
	if s.kms != nil {
		state.Secrets = append(state.Secrets, s.kms.Names()...)
	}
	return state, nil
}
