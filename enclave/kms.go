package enclave

import (
	"context"
	"fmt"
	"net"

	"github.com/raypher/raypher/enclave/fleet"
	"github.com/raypher/raypher/enclave/kms"
	"github.com/raypher/raypher/startconf"
)

// openKMS prepares what the start configuration has from AWS KMS, if it names any.
func (s *Server) openKMS() error {
	listed := s.opts.Configuration.KMSSecrets
	if len(listed) == 0 {
		return nil
	}
	attester, ok := s.opts.Signer.(kms.Attester)
	if !ok {
		return fmt.Errorf("start configuration: kms_secret: KMS attests enclaves of tier nitro, and this one is of tier %s: give the secret to a controller (raypher fleet secret put)", s.opts.Signer.Tier())
	}
	client := kms.New(kms.Options{Attester: attester, Roots: s.opts.kmsRoots, Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		host, port, err := startconf.SplitAddress(address)
		if err != nil {
			return nil, err
		}
		return s.dial.DialContext(ctx, host, port)
	}})
	s.kms = kms.NewSecrets(client, listed, s.opts.Log)
	return nil
}

// Secret returns a copy of a secret, for parts of the enclave that use it: one of KMS, which the start configuration names, else one of the
// controller. The error wraps fleet.ErrNoSecret or kms.ErrNoSecret.
func (s *Server) Secret(name string) ([]byte, error) {
	if s.kms != nil && s.kms.Lists(name) {
		return s.kms.Secret(name)
	}
	if s.fleet == nil {
		return nil, fleet.ErrNoSecret
	}
	return s.fleet.Secret(name)
}
